"""How the content of a panel is drawn, one function a kind: `DRAW[kind](content) -> PIL.Image`.

Pictures made of pixels keep them: small ones are enlarged by a whole factor without interpolation,
so that one can count pixels; only ones larger than `LARGE` are reduced.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pretask.errors import UsageError
from pretask.reports import plots
from pretask.task import Panel

SMALL, LARGE = 112, 256
"""A picture's longer side in pixels: enlarged below the first, reduced above the second."""

INK, PAPER, FAINT = "#1c2430", "#ffffff", "#f4f5f7"


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib ships: no font of the system is needed."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def wrap(text: str, style: ImageFont.FreeTypeFont, width: int, max_lines: int = 99) -> list[str]:
    """Lines of at most `width` pixels; what does not fit `max_lines` ends in an ellipsis."""
    lines: list[str] = []
    for paragraph in str(text).splitlines() or [""]:
        line = ""
        for word in paragraph.split(" "):
            for piece in split_long(word, style, width):
                joined = f"{line} {piece}" if line else piece
                if line and style.getlength(joined) > width:
                    lines.append(line)
                    line = piece
                else:
                    line = joined
        lines.append(line)
    if len(lines) > max_lines:
        last = lines[max_lines - 1]
        while last and style.getlength(last + "…") > width:
            last = last[:-1]
        lines = [*lines[: max_lines - 1], last + "…"]
    return lines


def split_long(word: str, style: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """A word cut where it is wider than a line."""
    pieces = []
    while style.getlength(word) > width and len(word) > 1:
        end = next(i for i in range(len(word), 0, -1) if i == 1 or style.getlength(word[:i]) <= width)
        pieces.append(word[:end])
        word = word[end:]
    return [*pieces, word]


def to_pixels(image: Tensor) -> np.ndarray:
    """(C, H, W) in [0, 1] or uint8 as (H, W, 3) uint8: grey is repeated, of many channels three are shown."""
    image = torch.as_tensor(image).detach().cpu()
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3:
        raise UsageError(f"an image panel holds (channels, height, width), not shape {tuple(image.shape)}")
    if not image.dtype.is_floating_point:
        image = image.float() if image.dtype == torch.bool else image.float() / 255
    shown = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    return shown.float().nan_to_num(0.0).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()


def fit(picture: Image.Image, small: int = SMALL, large: int = LARGE) -> Image.Image:
    """Enlarged by a whole factor to at least `small`, or reduced to at most `large`."""
    longer = max(picture.size)
    if longer > large:
        size = [max(1, round(side * large / longer)) for side in picture.size]
        return picture.resize((size[0], size[1]), Image.Resampling.BOX)
    if longer < small:
        factor = ceil(small / longer)
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    return picture


def image(content: Tensor) -> Image.Image:
    return fit(Image.fromarray(to_pixels(content)))


def text(content: Any, width: int = 224, max_lines: int = 14) -> Image.Image:
    style = font(13)
    lines = wrap(str(content).strip(), style, width - 20, max_lines)
    picture = Image.new("RGB", (width, 20 + 18 * len(lines)), FAINT)
    ImageDraw.Draw(picture).multiline_text((10, 9), "\n".join(lines), fill=INK, font=style, spacing=3)
    return picture


def beside(pictures: list[Image.Image], gap: int = 3) -> Image.Image:
    """Pictures in a row."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    strip = Image.new("RGB", (width, max(picture.height for picture in pictures)), PAPER)
    left = 0
    for picture in pictures:
        strip.paste(picture, (left, 0))
        left += picture.width + gap
    return strip


def video(content: Tensor, frames: int = 6) -> Image.Image:
    """(C, T, H, W) as a strip of evenly spaced frames, first and last included."""
    clip = torch.as_tensor(content)
    if clip.ndim != 4:
        raise UsageError(f"a video panel holds (channels, time, height, width), not {tuple(clip.shape)}")
    times = np.linspace(0, clip.shape[1] - 1, min(frames, clip.shape[1])).round().astype(int)
    return beside([fit(Image.fromarray(to_pixels(clip[:, t])), 72, 112) for t in times])


def volume(content: Tensor) -> Image.Image:
    """(C, D, H, W) as the three slices through its middle: along depth, height and width."""
    block = torch.as_tensor(content).detach().cpu()
    if block.ndim == 3:
        block = block[None]
    if block.ndim != 4:
        raise UsageError(f"a volume panel holds (channels, depth, height, width), not {tuple(block.shape)}")
    depth, height, width = (side // 2 for side in block.shape[1:])
    slices = [block[:, depth], block[:, :, height], block[:, :, :, width]]
    return beside([fit(Image.fromarray(to_pixels(part)), 96, 160) for part in slices])


DRAW: dict[str, Callable[[Any], Image.Image]] = {
    "image": image,
    "text": text,
    "video": video,
    "volume": volume,
    "audio": plots.audio,
    "points": plots.points,
    "pose": plots.pose,
    "track": plots.track,
    "graph": plots.graph,
}


def draw(panel: Panel) -> Image.Image:
    """A panel's content as a picture.

    Raises:
        UsageError: its kind is unknown or its content has another shape than the kind's.
    """
    if isinstance(panel.content, str):
        return text(panel.content)
    if panel.kind not in DRAW:
        raise UsageError(f"panels of kind '{panel.kind}' cannot be drawn (known: {', '.join(DRAW)})")
    return DRAW[panel.kind](panel.content)


def caption(panel: Panel) -> str:
    """The panel's caption, with what the picture leaves out."""
    if panel.kind == "image" and isinstance(panel.content, Tensor) and panel.content.ndim == 3:
        channels = len(panel.content)
        if channels > 3:
            return f"{panel.caption} (channels 1-3 of {channels})"
        if channels == 2:
            return f"{panel.caption} (channel 1 of 2)"
    return panel.caption
