"""Groups of connected pixels, whose content is replaced (GMML, Atito et al., 2022)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pretask.pretexts import draw

MOST = 256  # blocks of a mask; 10,000 simulated masks of 0.75 needed at most 128


def draw_groups(batch: int, generator: torch.Generator) -> Float[Tensor, "batch blocks 4"]:
    """Numbers from U[0, 1): top, left, height and width of each block."""
    return draw.uniform((batch, MOST, 4), generator)


def group_mask(
    unit: Float[Tensor, "batch blocks 4"],
    size: tuple[int, int],
    share: Float[Tensor, "batch"],
    align: int = 1,
    largest: float = 0.3,
) -> Bool[Tensor, "batch height width"]:
    """Cover blocks, one after the other, until a share of the pixels is covered; the last may overshoot.

    As in the official code: a block starts at a multiple of `align` below H - align, its side is an
    integer from `align` to `largest` H - 1, cut at the border and rounded to multiples of `align` (half to
    even, so that it may vanish).

    Args:
        unit: from `draw_groups`.
        size: height and width in pixels.
        share: of the pixels, at least.
        align: pixels; the side of a patch for groups of whole patches.
        largest: side of a block, as a share of the picture's.
    """
    starts, sides = [], []
    for axis, full in enumerate(size):
        start = (unit[..., axis] * (full - align)).floor().div(align, rounding_mode="floor") * align
        most = max(int(largest * full), align + 1)
        side = align + (unit[..., 2 + axis] * (most - align)).floor()
        sides.append((side.minimum(full - start) / align).round() * align)
        starts.append(start)
    row, column = (torch.arange(full, device=unit.device) for full in size)
    mask = torch.zeros(len(unit), *size, dtype=torch.bool, device=unit.device)
    wanted = share.to(unit) * size[0] * size[1]
    for block in range(unit.shape[1]):
        open_ = mask.sum((1, 2)) < wanted
        if mask.device.type == "cpu" and not open_.any():  # elsewhere the question would stall
            break
        top, left = (start[:, block, None] for start in starts)
        height, width = (side[:, block, None] for side in sides)
        in_rows = (row >= top) & (row < top + height) & open_[:, None]
        in_columns = (column >= left) & (column < left + width)
        mask |= in_rows[:, :, None] & in_columns[:, None, :]
    return mask
