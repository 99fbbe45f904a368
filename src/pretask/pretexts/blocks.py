"""Several blocks to tell of, and one block of context without them (I-JEPA, Assran et al., CVPR 2023)."""

from math import sqrt
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pretask.pretexts import draw

TRIES = 20  # places of the context before it may overlap one target block more


class Blocks(NamedTuple):
    """Places of patches, in raster order.

    Args:
        context: what is seen.
        targets: what is asked for, a block each.
    """

    context: Int[Tensor, "batch context"]
    targets: Int[Tensor, "batch blocks target"]


def block_size(
    unit: float, grid: tuple[int, int], scale: tuple[float, float], aspect: tuple[float, float]
) -> tuple[int, int]:
    """Rows and columns: one number decides on both the share of the patches and the aspect, as officially."""
    share, ratio = (low + unit * (high - low) for low, high in (scale, aspect))
    kept = int(grid[0] * grid[1] * share)
    sides = round(sqrt(kept * ratio)), round(sqrt(kept / ratio))
    rows, columns = (max(min(side, full - 1), 1) for side, full in zip(sides, grid, strict=True))
    return rows, columns


def rectangles(
    unit: Tensor, grid: tuple[int, int], size: tuple[int, int]
) -> Bool[Tensor, "*some rows columns"]:
    """Blocks of one size at random places; the last row and column are never among the starts.

    Args:
        unit: (..., 2) numbers from U[0, 1): top and left.
    """
    inside = []
    for axis in (0, 1):
        start = (unit[..., axis, None] * (grid[axis] - size[axis])).floor()
        place = torch.arange(grid[axis], device=unit.device)
        inside.append((place >= start) & (place < start + size[axis]))
    return inside[0][..., :, None] & inside[1][..., None, :]


def draw_blocks(
    grid: tuple[int, int],
    batch: int,
    generator: torch.Generator,
    targets: int = 4,
    scale: tuple[float, float] = (0.15, 0.2),
    aspect: tuple[float, float] = (0.75, 1.5),
    context_scale: tuple[float, float] = (0.85, 1.0),
    least: int = 10,
) -> Blocks:
    """Blocks for a batch: their sizes are drawn once for all samples, their places for each.

    A context that keeps no more than `least` patches is drawn again, and after 20 tries it may overlap one
    target block more. Contexts are cut, from their end, to the shortest of the batch on all processes.
    """
    sizes = draw.common((2,), generator).tolist()
    target = block_size(sizes[0], grid, scale, aspect)
    around = block_size(sizes[1], grid, context_scale, (1.0, 1.0))

    def places(count: int) -> Tensor:
        def unit(number: int) -> Tensor:
            return torch.rand((count, number, 2), generator=generator, device=generator.device)

        asked = rectangles(unit(targets), grid, target).flatten(2)
        tried = rectangles(unit(TRIES * (targets + 1)), grid, around).flatten(2)
        # the tries of level k keep clear of the first targets - k blocks
        taken = asked.cumsum(1).bool().flip(1)
        taken = torch.cat([taken, torch.zeros_like(taken[:, :1])], dim=1).repeat_interleave(TRIES, dim=1)
        kept = tried & ~taken
        enough = kept.sum(2) > least
        enough[:, -1] = True
        context = kept[torch.arange(count, device=kept.device), enough.int().argmax(1)]
        shortest = int(context.sum(1).min())
        order = (~context).byte().argsort(dim=1, stable=True)[:, :shortest]
        return torch.cat(
            [order, (~asked).byte().argsort(dim=2, stable=True)[..., : asked[0, 0].sum()].flatten(1)], 1
        )

    found, asked = draw.own_rows(places, batch), targets * target[0] * target[1]
    return Blocks(found[:, :-asked], found[:, -asked:].unflatten(1, (targets, -1)))
