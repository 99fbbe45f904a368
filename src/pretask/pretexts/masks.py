"""Which patches of a grid are hidden. True = hidden, everywhere.

A mask is computed from numbers that were drawn before, so it can be replayed. `MASKS` holds the masks
with an exact count: to add one, write a function of (grid, num_hidden, batch, generator) and enter it.
"""

from collections.abc import Callable
from functools import partial
from math import log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pretask.errors import UsageError
from pretask.pretexts import draw, noise

Grid = tuple[int, int]

ATTEMPTS = 10  # places tried for one block (BEiT)
BLOCKS = 32  # most blocks in a mask; 20,000 simulated masks of up to 37 x 37 patches took at most 26


class Shuffle(NamedTuple):
    """The patches in the order visible, then hidden; and the way back.

    Args:
        visible: places of the visible patches (MAE's ids_keep).
        hidden: places of the hidden ones.
        restore: where each place stands in the order: the inverse permutation.
    """

    visible: Int[Tensor, "batch visible"]
    hidden: Int[Tensor, "batch hidden"]
    restore: Int[Tensor, "batch patches"]


def shuffle(score: Tensor, num_hidden: int) -> Shuffle:
    """Order patches by a score, the `num_hidden` highest hidden.

    Args:
        score: (batch, patches); noise, or a mask with `num_hidden` True a row.
        num_hidden: how many are hidden in each row.
    """
    order = score.argsort(dim=1, stable=True)
    num_visible = score.shape[1] - num_hidden
    return Shuffle(order[:, :num_visible], order[:, num_visible:], order.argsort(dim=1))


def take(
    values: Float[Tensor, "batch patches dim"], places: Int[Tensor, "batch places"]
) -> Float[Tensor, "batch places dim"]:
    """The vectors at these places."""
    return values.gather(1, places.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def covered_first(hidden: Bool[Tensor, "batch patches"], most: int) -> Int[Tensor, "batch most"]:
    """As many places of each picture as can be covered at most, those that are covered first. So what is asked of
    them has one shape, and their number need not be asked of the device."""
    return hidden.byte().argsort(dim=1, descending=True, stable=True)[:, :most]


def random_mask(noise: Float[Tensor, "batch patches"], num_hidden: int) -> Bool[Tensor, "batch patches"]:
    """Hide the `num_hidden` patches with the largest noise (MAE)."""
    return shuffle(noise, num_hidden).restore >= noise.shape[1] - num_hidden


def block_mask(
    unit: Float[Tensor, "batch blocks attempts 4"],
    grid: Grid,
    high: Float[Tensor, "batch"],
    low: float | None = None,
) -> Bool[Tensor, "batch patches"]:
    """Hide rectangles until nothing more fits (BEiT's blocks as iBOT sets them): at most `high` patches.

    A block has log-uniform aspect in (0.3, 1/0.3) and an area between `low` and what is left to hide; ten
    places are tried for each, and a mask is ready when all ten fail.

    Args:
        unit: numbers from U[0, 1): area, aspect, top and left of each attempt.
        grid: rows and columns.
        high: patches to hide, per sample; need not be whole.
        low: least area that is drawn, in patches; none takes (short side // 3)^2.
    """
    rows, columns = grid
    low = float((min(grid) // 3) ** 2) if low is None else low
    area_draw, aspect_draw, top_draw, left_draw = unit.unbind(-1)  # (B, blocks, attempts)
    aspect = ((2 * aspect_draw - 1) * log(1 / 0.3)).exp()
    mask = torch.zeros(len(unit), rows, columns, dtype=torch.bool, device=unit.device)
    left_to_hide = high.to(unit).view(-1, 1)
    y, x = torch.arange(rows, device=unit.device), torch.arange(columns, device=unit.device)
    for block in range(unit.shape[1]):
        area = (low + (left_to_hide - low) * area_draw[:, block]).clamp(min=0)  # (B, attempts)
        height = (area * aspect[:, block]).sqrt().round()
        width = (area / aspect[:, block]).sqrt().round()
        top = (top_draw[:, block] * (rows - height + 1)).floor().clamp(min=0)
        left = (left_draw[:, block] * (columns - width + 1)).floor().clamp(min=0)
        inside = (height < rows) & (width < columns)
        new = torch.where(inside, height * width - covered(mask, top, left, height, width), 0)
        fits = (new > 0) & (new <= left_to_hide)
        first = fits.int().argmax(1, keepdim=True)
        top, left, height, width = (value.gather(1, first) for value in (top, left, height, width))
        in_rows = ((y >= top) & (y < top + height)).unsqueeze(2)
        in_columns = ((x >= left) & (x < left + width)).unsqueeze(1)
        found = fits.any(1, keepdim=True)
        mask |= in_rows & in_columns & found.unsqueeze(2)
        left_to_hide = torch.where(found, left_to_hide - new.gather(1, first), 0)
        if mask.device.type == "cpu" and not left_to_hide.any():  # elsewhere the question would stall
            break
    return mask.flatten(1)


def covered(
    mask: Bool[Tensor, "batch rows columns"], top: Tensor, left: Tensor, height: Tensor, width: Tensor
) -> Float[Tensor, "batch attempts"]:
    """How many patches of each rectangle are hidden already, from the table of running sums."""
    sums = F.pad(mask.float().cumsum(1).cumsum(2), (1, 0, 1, 0))
    stride = sums.shape[2]
    bottom = (top + height).clamp(max=sums.shape[1] - 1)
    right = (left + width).clamp(max=stride - 1)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return sums.flatten(1).gather(1, (row * stride + column).long())

    return at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left)


def hide_random(grid: Grid, num_hidden: int, batch: int, generator: torch.Generator) -> Tensor:
    return random_mask(draw.uniform((batch, grid[0] * grid[1]), generator), num_hidden)


def draw_blocks(
    grid: Grid, num_hidden: int, batch: int, generator: torch.Generator, low: float | None = None
) -> Bool[Tensor, "batch patches"]:
    """BEiT's masks as they come: at most `num_hidden` patches, fewer where no block fits any more.

    The smallest block has `low` patches; none takes (short side // 3)^2: BEiT's 16 on its grid of 14 x 14.
    """
    unit = draw.uniform((batch, BLOCKS, ATTEMPTS, 4), generator)
    return block_mask(unit, grid, unit.new_full((batch,), num_hidden), low)


def hide_blocks(grid: Grid, num_hidden: int, batch: int, generator: torch.Generator) -> Tensor:
    """Blocks, and single patches for what no block fits into, so that every mask hides as many."""
    blocks = draw_blocks(grid, num_hidden, batch, generator)
    return random_mask(draw.uniform(tuple(blocks.shape), generator) + blocks, num_hidden)


def hide_grid(grid: Grid, num_hidden: int, batch: int, generator: torch.Generator) -> Tensor:
    """Keep an even lattice, the same in every sample: one patch of each 2 x 2 where a quarter stays.

    Other shares take patches in the order of a Bayer matrix, which stays even throughout.
    """
    row, column = torch.meshgrid(
        *(torch.arange(side, device=generator.device) for side in grid), indexing="ij"
    )
    rank = torch.zeros(grid, device=generator.device)
    for level in range(max(grid).bit_length()):
        bit_row, bit_column = (row >> level) & 1, (column >> level) & 1
        rank = 4 * rank + 2 * (bit_row ^ bit_column) + bit_row
    return random_mask(rank.flatten().expand(batch, -1), num_hidden)


def hide_coloured(
    grid: Grid,
    num_hidden: int,
    batch: int,
    generator: torch.Generator,
    colour: str = "green",
    mixed: bool = False,
) -> Bool[Tensor, "batch patches"]:
    """Hide all but the patches where noise of a colour is strongest (ColorMAE); `mixed` as `draw_windows` says.

    Raises:
        UsageError: the grid is larger than the patterns are.
    """
    patterns = noise.patterns(colour, str(generator.device))
    if max(grid) > noise.SIDE:
        raise UsageError(f"coloured masks are made for up to {noise.SIDE} patches a side, not {max(grid)}")
    windows = noise.draw_windows(len(patterns), noise.SIDE, grid, batch, generator, mixed)
    return random_mask(-noise.cut(patterns, windows, grid).flatten(1), num_hidden)


MaskFunction = Callable[[Grid, int, int, torch.Generator], Bool[Tensor, "batch patches"]]

MASKS: dict[str, MaskFunction] = {
    "random": hide_random,
    "block": hide_blocks,
    "grid": hide_grid,
    **{colour: partial(hide_coloured, colour=colour) for colour in noise.COLOURS},
}
