"""Groups of connected pixels, whose content is replaced (GMML, Atito et al., 2022)."""

from collections.abc import Iterator
from itertools import count

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pretask.pretexts import draw

ROUND = 128  # blocks drawn at once; 10,000 simulated masks of 0.75 needed no more


def draw_groups(batch: int, generator: torch.Generator) -> Iterator[Float[Tensor, "batch blocks 4"]]:
    """Numbers from U[0, 1), round after round without end: top, left, height and width of each block.

    The rounds have a randomness of their own, of which `generator` gives the seed: a process may need more of
    them than another.
    """
    high, low = (draw.common((2,), generator) * 2**24).long().tolist()
    own = torch.Generator(generator.device).manual_seed(high << 24 | low)
    return (draw.uniform((batch, ROUND, 4), own) for _ in count())


def longest(full: int, align: int, largest: float) -> int:
    """The side that blocks stay below: a share of the picture's, but at least one unit of `align`."""
    return max(int(largest * full), align + 1)


def reach(full: int, align: int, largest: float) -> int:
    """How many rows (or columns) of a picture blocks can cover: where they are short, not the last ones."""
    starts = range(0, max(full - align, 1), align)
    side = longest(full, align, largest) - 1
    return min(full, max(start + round(min(side, full - start) / align) * align for start in starts))


def group_mask(
    rounds: Iterator[Float[Tensor, "batch blocks 4"]],
    size: tuple[int, int],
    share: Float[Tensor, "batch"],
    align: int = 1,
    largest: float = 0.3,
) -> Bool[Tensor, "batch height width"]:
    """Cover blocks, one after the other, until a share of the pixels is covered; the last may overshoot.

    As in the official code: a block starts at a multiple of `align` below H - align, its side is an
    integer from `align` to `largest` H - 1, cut at the border and rounded to multiples of `align` (half to
    even, so that it may vanish). Where blocks of that kind cannot cover the share, and the official code fails
    or never ends, all that they can is covered: with 28 pixels, `align` 4 and sides of 4, the first 24 rows
    and columns.

    Args:
        rounds: from `draw_groups`.
        size: height and width in pixels.
        share: of the pixels, at least.
        align: pixels; the side of a patch for groups of whole patches.
        largest: side of a block, as a share of the picture's.
    """
    row, column = (torch.arange(full, device=share.device) for full in size)
    mask = torch.zeros(len(share), *size, dtype=torch.bool, device=share.device)
    most = reach(size[0], align, largest) * reach(size[1], align, largest)
    wanted = (share * size[0] * size[1]).clamp(max=most)
    while (mask.sum((1, 2)) < wanted).any():
        unit = next(rounds).to(share.device)
        (top, height), (left, width) = (
            blocks(unit[..., [axis, 2 + axis]], full, align, largest) for axis, full in enumerate(size)
        )
        for block in range(unit.shape[1]):
            open_ = mask.sum((1, 2)) < wanted
            if mask.device.type == "cpu" and not open_.any():  # elsewhere the question would stall
                break
            in_rows = (row >= top[:, block, None]) & (row < (top + height)[:, block, None])
            in_columns = (column >= left[:, block, None]) & (column < (left + width)[:, block, None])
            mask |= (in_rows & open_[:, None])[:, :, None] & in_columns[:, None, :]
    return mask


def blocks(
    unit: Float[Tensor, "batch blocks 2"], full: int, align: int, largest: float
) -> tuple[Float[Tensor, "batch blocks"], Float[Tensor, "batch blocks"]]:
    """First pixels and sides of blocks along an axis of `full` pixels."""
    start = (unit[..., 0] * (full - align)).floor().div(align, rounding_mode="floor") * align
    side = align + (unit[..., 1] * (longest(full, align, largest) - align)).floor()
    return start, (side.minimum(full - start) / align).round() * align
