"""One picture to an array on a square canvas, whatever its format, depth, channels and size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from pretask.data.formats import Broken, flat, open_picture, reasons

DRAFT = 2.0  # JPEG is decoded at a lower resolution while that is this many times the canvas' side
GAP = 3.0  # much larger pictures are averaged over whole pixels first, to this many times the canvas' side
GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow weighs


@dataclass(frozen=True)
class Facts:
    """What a picture is, before it is put on a canvas.

    Args:
        size: height and width as it is to be looked at.
        channels: without alpha.
        dtype: of its values.
        low: smallest value; 0 for bytes and 16-bit numbers, whose range their type says.
        high: largest value, likewise.
    """

    size: tuple[int, int]
    channels: int
    dtype: str = "uint8"
    low: float = 0.0
    high: float = 1.0


def measure(raw: Any) -> Facts:
    """What a picture is; of 8-bit formats only the header is read.

    Raises:
        Broken: it cannot be read.
    """
    with reasons():
        picture = open_picture(raw)
        pixels = picture.pixels
        if isinstance(pixels, Image.Image):
            return Facts(picture.size, 1 if pixels.mode in ("1", "L", "LA", "La") else 3)
        facts = Facts(picture.size, pixels.shape[2], str(pixels.dtype))
        if pixels.dtype in (np.uint8, np.uint16):
            return facts
        low, high = float(pixels.min()), float(pixels.max())
        return Facts(picture.size, pixels.shape[2], str(pixels.dtype), low, high)


def value_range(facts: Sequence[Facts]) -> tuple[float, float]:
    """What becomes 0 and 1 of values that are neither bytes nor 16-bit: [0, 1] or [0, 255] where they lie
    in it, else from the smallest to the largest."""
    low, high = min(fact.low for fact in facts), max(fact.high for fact in facts)
    if low >= 0 and high <= 255:
        return 0.0, 1.0 if high <= 1 else 255.0
    return low, high if high > low else low + 1.0


@dataclass(frozen=True)
class Canvas:
    """What every picture of a set is made into.

    Args:
        side: height and width in pixels.
        channels: grey is repeated to 3, colour weighed to 1, alpha laid on white; 4 keeps alpha.
        eight_bit: bytes; else float in [0, 1].
        low: the value that becomes 0, where it is not for the type to say.
        high: the value that becomes 1, likewise.
    """

    side: int
    channels: int
    eight_bit: bool = True
    low: float = 0.0
    high: float = 1.0

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self.eight_bit else torch.float32

    def decode(self, raw: Any) -> tuple[np.ndarray, tuple[int, int]]:
        """A picture as (channels, side, side), and the height and width it had.

        Args:
            raw: whatever `formats.open_picture` takes.

        Raises:
            Broken: it cannot be read.
        """
        with reasons():
            picture = open_picture(raw, ("L" if self.channels == 1 else None, math.ceil(DRAFT * self.side)))
            if isinstance(picture.pixels, Image.Image):
                array = self.from_image(picture.pixels)
            else:
                array = self.from_arrays(picture.pixels[None])[0]
            return upright(array, picture.orientation), picture.size

    def from_image(self, image: Image.Image) -> np.ndarray:
        image = flat(image, self.channels)
        if max(image.size) > 2 * GAP * self.side:
            image = image.resize((self.side, self.side), Image.Resampling.BICUBIC, reducing_gap=GAP)
        array = resize_bytes(np.atleast_3d(np.array(image)).transpose(2, 0, 1), self.side)
        return array if self.eight_bit else array.astype(np.float32) / 255

    def from_arrays(self, arrays: np.ndarray) -> np.ndarray:
        """Arrays (B, H, W, C) of any type as (B, channels, side, side)."""
        if self.eight_bit and arrays.shape[1:] == (self.side, self.side, self.channels):
            return arrays.transpose(0, 3, 1, 2)
        unit = torch.from_numpy(to_unit(arrays, self.low, self.high)).permute(0, 3, 1, 2)
        image = resize(match_channels(unit, self.channels), self.side)
        return (image.mul(255).round_().byte() if self.eight_bit else image).numpy()


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """(C, S, S) turned and mirrored as EXIF's orientation asks."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(1, 2)
    if orientation in (3, 4, 7, 8):
        array = array[:, ::-1]
    return array[:, :, ::-1] if orientation in (2, 3, 6, 7) else array


def to_unit(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values in [0, 1]: bytes over 255, 16-bit numbers over 65535, others by the range given."""
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    return ((array.astype(np.float64) - low) / (high - low)).clip(0, 1).astype(np.float32)


def match_channels(image: Float[Tensor, "batch chans h w"], channels: int) -> Float[Tensor, "batch out h w"]:
    """Grey repeated to 3, colour weighed to 1, a fourth channel over colour taken for alpha.

    Raises:
        Broken: the numbers of channels have nothing to do with each other.
    """
    there = image.shape[1]
    if there == channels:
        return image
    if there == 4 and channels in (1, 3):
        image = image[:, :3] * image[:, 3:] + (1 - image[:, 3:])
    if image.shape[1] == 1 and channels == 3:
        return image.expand(-1, 3, -1, -1)
    if image.shape[1] == 3 and channels == 1:
        return (image * torch.tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True)
    if image.shape[1] != channels:
        raise Broken(f"{there} channels where {channels} are wanted")
    return image


def resize_bytes(array: np.ndarray, side: int) -> np.ndarray:
    """Bytes (C, H, W), best with channels last in memory, resampled to a square, antialiased: torch's kernel
    is several times as fast as Pillow's and gives what Pillow's does."""
    if array.shape[1:] == (side, side):
        return array
    image = torch.from_numpy(array)[None]
    return F.interpolate(image, (side, side), mode="bicubic", antialias=True)[0].numpy()


def resize(image: Float[Tensor, "batch chans h w"], side: int) -> Float[Tensor, "batch chans side side"]:
    """Resampled to a square, antialiased, within [0, 1]."""
    if image.shape[-2:] == (side, side):
        return image
    return F.interpolate(image, (side, side), mode="bicubic", antialias=True).clamp_(0, 1)
