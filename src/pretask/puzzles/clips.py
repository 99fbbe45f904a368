"""Cutting a video into clips that do not touch, and choosing their frames."""

from fractions import Fraction
from math import ceil, floor, sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pretask.errors import UsageError

PAIR = 2  # frames come in twos, as video models take them
UNIT = 28  # pixels that a token of a video model is wide and high
PIXELS = 128 * UNIT**2


def clip_ranges(frames: int, clips: int, trim: float = 0.1) -> list[tuple[int, int]]:
    """First frame, and the one behind the last, of equal clips (the official
    `split_and_trim_uniform_indices`).

    So many frames are left out at the beginning that the rest is a whole number of clips each of which can
    be trimmed exactly; then `trim` of a clip's length is dropped at both of its ends, so that no clip begins
    where another one ends. The official code trims 0.1, the paper's text 0.05.

    Raises:
        UsageError: nothing would be left of a clip.
    """
    if not 0 <= trim < 0.5:
        raise UsageError(f"trim must be at least 0 and below a half of a clip, not {trim}")
    share = Fraction(trim).limit_denominator()
    skipped = frames % (clips * share.denominator) if clips > 1 else 0  # one clip skips nothing
    length = (frames - skipped) // clips
    cut = length * share.numerator // share.denominator
    if 2 * cut >= length:
        raise UsageError(f"{frames} frames are too few for {clips} clips trimmed by {trim}")
    starts = [skipped + i * length for i in range(clips)]
    return [(start + cut, start + length - cut) for start in starts]


def clip_frames(
    start: int, end: int, fps: float, sampled: float = 2.0, least: int = 2, most: int = 12
) -> list[int]:
    """Which frames of a clip are shown: an even number of them, evenly spread from its first to its last.

    Args:
        start: the clip's first frame.
        end: the frame behind its last.
        fps: frames a second of the video.
        sampled: frames a second to show.
        least: frames to show, however short the clip.
        most: frames to show, however long the clip; the paper's 12, 16 is the official code's default.

    Raises:
        UsageError: the clip has fewer than two frames.
    """
    there = end - start
    if there < PAIR:
        raise UsageError(f"a clip of {there} frames has not the {PAIR} that must be shown")
    least, most = -(-least // PAIR) * PAIR, min(most, there) // PAIR * PAIR
    wanted = min(max(there / fps * sampled, least), most)
    shown = torch.linspace(0, there - 1, int(wanted) // PAIR * PAIR)
    return (shown.round().long() + start).tolist()


def clip_plan(frames: int, fps: float, clips: int, trim: float = 0.1, most: int = 12) -> list[list[int]]:
    """The frames that each clip of a video is shown by (`clip_ranges`, `clip_frames`)."""
    return [clip_frames(start, end, fps, most=most) for start, end in clip_ranges(frames, clips, trim)]


def frame_size(height: int, width: int, pixels: int = PIXELS) -> tuple[int, int]:
    """Height and width that a frame is shown at: multiples of 28, about as many pixels as asked for, at about the
    frame's ratio (Qwen-VL's `smart_resize` with one number as the least and the most, as in the official code)."""
    size = [max(UNIT, round(side / UNIT) * UNIT) for side in (height, width)]
    there = size[0] * size[1]
    if there > pixels:  # divided as there: times the inverse 276 x 552 would round to less
        shrink = sqrt(height * width / pixels)
        size = [max(UNIT, floor(side / shrink / UNIT) * UNIT) for side in (height, width)]
    elif there < pixels:
        zoom = sqrt(pixels / (height * width))
        size = [ceil(side * zoom / UNIT) * UNIT for side in (height, width)]
    return size[0], size[1]


def sized(
    frames: Float[Tensor, "frames chans h w"], pixels: int = PIXELS
) -> Float[Tensor, "frames chans h2 w2"]:
    """Frames in [0, 1] at their `frame_size`: large ones shrink, small ones grow."""
    size = frame_size(frames.shape[-2], frames.shape[-1], pixels)
    return F.interpolate(frames, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def split_spatially(frames: Tensor, rows: int, columns: int) -> list[Tensor]:
    """A clip (T, C, H, W) as equal tiles (T, C, h, w), row by row (the official `split_clip_spatially`).

    Sides that cannot be divided are enlarged to the next that can, bicubically; the result is then float.
    """
    height, width = (
        -(-side // parts) * parts for side, parts in zip(frames.shape[-2:], (rows, columns), strict=True)
    )
    if (height, width) != frames.shape[-2:]:
        frames = F.interpolate(frames.float(), (height, width), mode="bicubic", align_corners=False)
    h, w = height // rows, width // columns
    return [frames[..., i * h : i * h + h, j * w : j * w + w] for i in range(rows) for j in range(columns)]
