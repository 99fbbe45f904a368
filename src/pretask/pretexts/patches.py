"""A grid of patches with gaps between them, so that edges do not give the neighbours away."""

from math import ceil
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.pretexts import draw

Order = Literal["columns", "rows"]
SIDE = 3  # cells a row and a column, of all puzzles with patches


def draw_jitter(
    batch: int, side: int, free: int, generator: torch.Generator
) -> Int[Tensor, "batch 2 side side"]:
    """Where in its cell each patch lies: 0 .. free-1 pixels from the left ([:, 0]) and the top ([:, 1]).

    Args:
        batch: pictures.
        side: cells a row and a column.
        free: cell minus patch, in pixels. As in the official code the last place, `free`, is not drawn.
        generator: the randomness.
    """
    return draw.integers(max(free, 1), (batch, 2, side, side), generator)


def patch_corners(
    jitter: Int[Tensor, "batch 2 side side"], cell: int, order: Order = "columns"
) -> Int[Tensor, "batch patches 2"]:
    """Left and top of each patch in pixels of the picture.

    Args:
        jitter: [:, 0] from the left and [:, 1] from the top of a cell; its last two dimensions are the
            outer and the inner index of the patches.
        cell: side of a cell.
        order: which way patches are numbered: `columns` goes down the first column first (VISSL's loop:
            the outer index moves x), `rows` along the first row.
    """
    start = torch.arange(jitter.shape[-1], device=jitter.device) * cell
    outer, inner = torch.meshgrid(start, start, indexing="ij")
    x, y = (outer, inner) if order == "columns" else (inner, outer)
    return torch.stack([x + jitter[:, 0], y + jitter[:, 1]], dim=-1).flatten(1, 2)


def cut(
    image: Float[Tensor, "batch chans height width"], corners: Int[Tensor, "batch patches 2"], size: int
) -> Float[Tensor, "batch patches chans size size"]:
    """The squares of `size` pixels at these corners (left, top)."""
    windows = image.unfold(2, size, 1).unfold(3, size, 1)  # a view: (B, C, tops, lefts, size, size)
    sample = torch.arange(len(image), device=image.device)[:, None]
    corners = corners.to(image.device)
    return windows[sample, :, corners[..., 1], corners[..., 0]]


def patch_boxes(
    corners: Int[Tensor, "batch patches 2"], size: int, picture: int, box: Float[Tensor, "batch 4"]
) -> Float[Tensor, "batch patches 4"]:
    """Where the patches lie in the original picture: x0, y0, x1, y1 as shares of its width and height.

    Args:
        corners: left and top in pixels of a crop that was not mirrored.
        size: side of a patch.
        picture: side of the crop.
        box: the crop in the original picture (`views.View.box`).
    """
    start = box[:, None, :2]
    extent = box[:, None, 2:] - start
    inside = torch.cat([corners, corners + size], dim=-1) / picture
    return start.repeat(1, 1, 2) + inside * extent.repeat(1, 1, 2)


def thirds(side: int) -> list[tuple[int, int]]:
    """First pixel and first pixel no more of each third of a side, in whole pixels inside of it: from ceil(c - a) to
    int(c + a) with a = side / 3 / 2 and c = 2 i a + a, by the same floating-point steps as Noroozi's jigsaw in
    PyTorch: where a side is no multiple of 3 they may leave out its last pixel, as those do.
    """
    a = side / 3 / 2
    return [(ceil(c - a), int(c + a)) for c in (a * i * 2 + a for i in range(SIDE))]


def enlarged_thirds(
    image: Float[Tensor, "batch chans side side"], size: int
) -> Float[Tensor, "batch 9 chans size size"]:
    """The 3 x 3 tiles of each picture row by row, each resampled (bilinear) to `size` pixels."""
    places = thirds(image.shape[-1])
    parts = [image[:, :, y0:y1, x0:x1] for y0, y1 in places for x0, x1 in places]
    large = [F.interpolate(part, (size, size), mode="bilinear", antialias=True) for part in parts]
    return torch.stack(large, dim=1)
