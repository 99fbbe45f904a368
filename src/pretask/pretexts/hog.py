"""Histograms of oriented gradients (Dalal & Triggs, 2005), as MaskFeat's official code votes.

Gradients are Sobel's, of each channel on its own, the border mirrored; every pixel gives its strength to the one bin
of its orientation, in half a turn; each cell's histogram of each channel has length 1. No gradient flows through.
"""

from math import pi

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

BINS = 9
USUAL = 8  # pixels: side of a cell where patches are 16
FAINT = 1e-5  # of a slope, in pictures in [0, 1]: what resampling leaves where nothing is; a grey level's is 0.004


def cell_side(patch: int) -> int:
    """The side of a cell that fits a patch: of the numbers that divide the patch's side the one nearest to 8. A patch
    of 16 pixels has 2 x 2 cells, a small one (4 of 32 pixels) is one cell."""
    return min(
        (side for side in range(1, patch + 1) if patch % side == 0), key=lambda side: abs(side - USUAL)
    )


@torch.no_grad()
def slopes(image: Float[Tensor, "batch chans h w"]) -> tuple[Tensor, Tensor]:
    """Across and down, from Sobel's filters; exactly 0 where nothing changes, whatever resampling left there."""
    x = F.pad(image if image.dtype == torch.float64 else image.float(), (1, 1, 1, 1), mode="reflect")
    across, down = x[..., 2:] - x[..., :-2], x[..., 2:, :] - x[..., :-2, :]
    across = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    down = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return across * (across.abs() > FAINT), down * (down.abs() > FAINT)


@torch.no_grad()
def hog(
    image: Float[Tensor, "batch chans h w"], cell: int = USUAL
) -> Float[Tensor, "batch chans 9 rows columns"]:
    """The histogram of each cell and channel, of length 1, or 0 where nothing changes.

    A gradient (x, y) has the angle atan2(x, y), counted from the vertical; bin k is for angles from 20 k to
    20 (k + 1) degrees, those of opposite gradients being the same. An exactly vertical one is in bin 0; in the
    official code rounding of normalised pictures throws some of these into bin 8.

    Args:
        image: pictures in [0, 1]; a channel's scale changes nothing.
        cell: side of a cell in pixels; what is left over at the right and at the bottom is cut off.
    """
    across, down = slopes(image)
    turned = (across < 0) | (
        (across == 0) & (down < 0)
    )  # into the half turn from 0 (kept) to 180 degrees (not)
    across, down = torch.where(turned, -across, across), torch.where(turned, -down, down)
    bins = (torch.atan2(across, down) / pi * BINS).floor().clamp(max=BINS - 1)
    strength = torch.hypot(across, down)
    rows, columns = (side // cell for side in image.shape[-2:])
    votes = [
        torch.where(bins == k, strength, 0)[..., : rows * cell, : columns * cell]
        .unflatten(3, (columns, cell))
        .unflatten(2, (rows, cell))
        .sum((3, 5))
        for k in range(BINS)
    ]
    return F.normalize(torch.stack(votes, 2), dim=2)


def by_patch(
    cells: Float[Tensor, "batch chans 9 rows columns"], side: int
) -> Float[Tensor, "batch patches values"]:
    """The histograms of patches of `side` x `side` cells, row by row; a patch's lie as (channel, bin, row, column),
    the column fastest, as in the official code."""
    parts = cells.unflatten(4, (-1, side)).unflatten(3, (-1, side))  # (B, C, 9, rows, side, columns, side)
    return parts.permute(0, 3, 5, 1, 2, 4, 6).flatten(3).flatten(1, 2)


def by_cell(
    patches: Float[Tensor, "batch patches values"], side: int, grid: tuple[int, int]
) -> Float[Tensor, "batch chans 9 rows columns"]:
    """The inverse of `by_patch`; `grid` is the number of patches per column and row."""
    parts = patches.unflatten(2, (-1, BINS, side, side)).unflatten(1, grid)
    return parts.permute(0, 3, 4, 1, 5, 2, 6).flatten(5).flatten(3, 4)


@torch.no_grad()
def strokes(
    cells: Float[Tensor, "batch chans 9 rows columns"], size: int = 15
) -> Float[Tensor, "batch 1 height width"]:
    """A picture in [0, 1] of histograms: in each cell a line along the edge for each bin, the brighter the higher.

    Args:
        cells: histograms; what is below 0 is not drawn. Channels are averaged.
        size: side of a drawn cell in pixels.
    """
    place = torch.arange(size, device=cells.device) - (size - 1) / 2
    angle = (torch.arange(BINS, device=cells.device) + 0.5) * (pi / BINS)
    aside = (
        place * angle.sin()[:, None, None] + place[:, None] * angle.cos()[:, None, None]
    )  # along the gradient
    lines = (1 - aside.abs()).clamp(min=0) * (place**2 + place[:, None] ** 2 <= (size / 2 - 0.5) ** 2)
    drawn = (
        cells.float().clamp(0, 1).mean(1)[..., None, None] * lines[:, None, None]
    )  # (B, 9, rows, columns, s, s)
    return drawn.amax(1).permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2).unsqueeze(1)
