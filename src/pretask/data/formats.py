"""Encoded pictures opened: a PIL image of 8 bits, or an array (H, W, C) of anything else.

Pillow reads the common formats, torchvision PNG of 16 bits, tifffile TIFF beyond 8-bit grey and RGB, numpy
`.npy`. Bytes are hostile until decoded: sizes are checked in the header, and whatever a decoder raises
becomes `Broken`, with the reason in a few words.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, TiffImagePlugin
from torch import Tensor

from pretask.errors import PretaskError, need

EXTENSIONS = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm",
        ".jp2", ".avif", ".npy",
    )
)  # fmt: skip
MAX_PIXELS = 100_000_000  # to decode, of one picture; more is a decompression bomb or a map to be cut first
MAX_BYTES = 1 << 30  # of one encoded picture
NOT_FINITE = "holds values that are not finite"
NPY, PNG, TIFF = b"\x93NUMPY", b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
ORIENTATION = 0x0112  # the EXIF tag


class Broken(Exception):
    """A picture that cannot be read; the message is the reason."""


@contextmanager
def reasons() -> Iterator[None]:
    """Turns whatever a decoder raises into `Broken`."""
    try:
        yield
    except (Broken, PretaskError):
        raise
    except Image.DecompressionBombError as error:
        raise Broken("absurdly large (a decompression bomb)") from error
    except Image.UnidentifiedImageError as error:
        raise Broken("not a picture, whatever its name says") from error
    except FileNotFoundError as error:
        raise Broken("no such file") from error
    except MemoryError as error:
        raise Broken("too large for memory") from error
    except Exception as error:  # decoders fed with hostile bytes raise anything
        raise Broken(" ".join(str(error).split())[:120] or type(error).__name__) from error


@dataclass(frozen=True)
class Opened:
    """A picture before it is put on a canvas.

    Args:
        pixels: a PIL image of 8 bits (perhaps not yet decoded), or an array (H, W, C).
        size: height and width as it is to be looked at.
        orientation: EXIF's, 1 for upright; still to be applied.
    """

    pixels: Image.Image | np.ndarray
    size: tuple[int, int]
    orientation: int = 1


def open_picture(raw: Any, draft: tuple[str | None, int] | None = None) -> Opened:
    """Open a picture, decoding as little as the format allows.

    Args:
        raw: an encoded picture, a PIL image, an array or tensor (H, W), (H, W, C) or (C, H, W), or what
            this function gave before.
        draft: mode and side that suffice: JPEG is decoded at a lower resolution then.
    """
    if isinstance(raw, Opened):
        return raw
    if isinstance(raw, (Tensor, np.ndarray)):
        return from_array(channels_last(np.asarray(raw)))
    if isinstance(raw, Image.Image):
        return from_pil(raw, draft)
    check_bytes(len(raw))
    if raw[:6] == NPY:
        return from_array(channels_last(np.load(io.BytesIO(raw), allow_pickle=False)))
    if raw[:4] in TIFF and not plain_tiff(raw):
        return from_array(read_tiff(raw))
    image = Image.open(io.BytesIO(raw))
    if raw[:8] == PNG and raw[24] == 16:
        check_pixels(image.size)
        return from_array(read_png16(raw), image.getexif().get(ORIENTATION, 1))
    return from_pil(image, draft)


def from_pil(image: Image.Image, draft: tuple[str | None, int] | None) -> Opened:
    if image.format == "TIFF":
        check_pixels(image.size)
        image.load()  # which applies the orientation
    orientation = image.getexif().get(ORIENTATION, 1)
    width, height = image.size
    if draft and image.format in ("JPEG", "MPO"):
        image.draft(draft[0], (draft[1], draft[1]))
    check_pixels(image.size)
    if image.mode[0] in "IF":
        return from_array(np.asarray(image), orientation)
    return Opened(image, (width, height) if orientation in (5, 6, 7, 8) else (height, width), orientation)


def from_array(array: np.ndarray, orientation: int = 1) -> Opened:
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise Broken(f"an array of shape {array.shape} is no picture: (H, W) or (H, W, C) is")
    if array.dtype.kind not in "buif":
        raise Broken(f"values of type {array.dtype} are no picture's")
    check_pixels(array.shape)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Broken(NOT_FINITE)
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.ndim == 2:
        array = array[:, :, None]
    height, width = array.shape[:2]
    return Opened(array, (width, height) if orientation in (5, 6, 7, 8) else (height, width), orientation)


def channels_last(array: np.ndarray) -> np.ndarray:
    """Of (H, W, C) and (C, H, W) the former: the smaller of the first and last axis holds the channels."""
    return np.moveaxis(array, 0, -1) if array.ndim == 3 and array.shape[0] < array.shape[2] else array


def check_bytes(length: int) -> None:
    if length == 0:
        raise Broken("empty file")
    if length > MAX_BYTES:
        raise Broken(f"absurdly large ({length / 1e9:.1f} GB)")


def check_pixels(size: tuple[int, ...]) -> None:
    if math.prod(size) > MAX_PIXELS:
        raise Broken(f"absurdly large ({' x '.join(map(str, size))} values)")


def plain_tiff(raw: bytes) -> bool:
    """Whether Pillow reads all there is in it: one page of 8-bit grey, RGB, RGBA or palette."""
    try:
        image: Any
        with TiffImagePlugin.TiffImageFile(io.BytesIO(raw)) as image:
            tags = image.tag_v2
            bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
            alpha = image.mode != "RGBA" or any(tags.get(TiffImagePlugin.EXTRASAMPLES, ()))
            return image.n_frames == 1 and set(bits) <= {1, 8} and image.mode[0] not in "IF" and alpha
    except (Image.UnidentifiedImageError, AttributeError, SyntaxError):
        return False  # tifffile knows more kinds


def read_tiff(raw: bytes) -> np.ndarray:
    """The first picture of a TIFF. Pages of grey are its channels; of a stack of colour the first page."""
    tifffile = need("tifffile", "data")
    with tifffile.TiffFile(io.BytesIO(raw)) as file:
        series = file.series[0]
        check_pixels(series.shape)
        array, axes, page = series.asarray(), series.axes, series.keyframe
    if array.ndim > 3:
        array, axes = array[(0,) * (array.ndim - 3)], axes[-3:]
    if array.ndim == 3 and axes[-1] != "S":
        array = np.moveaxis(array, 0, -1)
    alpha = "S" in axes and array.shape[-1] in (2, 4) and any(page.extrasamples or ())
    return on_white(array) if alpha else array


def read_png16(raw: bytes) -> np.ndarray:
    """A PNG of 16 bits, which Pillow would cut to 8 where it has colour."""
    from torchvision.io import ImageReadMode, decode_png

    data = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    array = decode_png(data, ImageReadMode.UNCHANGED).numpy().transpose(1, 2, 0)
    return on_white(array) if array.shape[2] in (2, 4) else array


def on_white(array: np.ndarray) -> np.ndarray:
    """(H, W, C+1) with alpha last, laid on white: (H, W, C) of the same type."""
    white = np.iinfo(array.dtype).max if array.dtype.kind in "ui" else 1.0
    alpha = array[..., -1:].astype(np.float64) / white
    blended = array[..., :-1] * alpha + white * (1 - alpha)
    return (np.rint(blended) if array.dtype.kind in "ui" else blended).astype(array.dtype)


def flat(image: Image.Image, channels: int) -> Image.Image:
    """A PIL image of 8 bits with so many channels: alpha laid on white, except that 4 channels keep it."""
    if channels == 4:
        return image.convert("RGBA")
    if channels not in (1, 3):
        raise Broken(f"{len(image.getbands())} channels where {channels} are wanted")
    if image.mode in ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")
