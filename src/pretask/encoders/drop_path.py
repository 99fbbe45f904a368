"""Stochastic depth whose coins come from outside: timm's own reads the global random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pretask.pretexts import draw

BRANCHES = (
    "drop_path1",
    "drop_path2",
    "drop_path3",
)  # timm's names, and of a third where there is one


class DropPath(nn.Module):
    """Multiplies a residual branch by a number a sample; leaves it alone while none is given."""

    factor: Tensor | None = None

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        return x if self.factor is None else x * self.factor.to(x.dtype)


def droppable(module: nn.Module) -> list[nn.Module]:
    """The blocks of an encoder or decoder whose branches can be dropped, prepared for it; none where there
    are no such blocks."""
    blocks = [block for block in getattr(module, "blocks", []) if hasattr(block, BRANCHES[0])]
    for block in blocks:
        for name in branches_of(block):
            if not isinstance(getattr(block, name), DropPath):
                setattr(block, name, DropPath())
    return blocks


def branches_of(block: nn.Module) -> list[str]:
    return [name for name in BRANCHES if hasattr(block, name)]


@contextmanager
def dropping(module: nn.Module, unit: Float[Tensor, "batch blocks branches"], rate: float) -> Iterator[None]:
    """Drop branches of the blocks for some samples, the more often the deeper (linearly from 0 to `rate`),
    and scale the kept ones to the same mean.

    Args:
        module: an encoder or decoder; its blocks all have the same number of branches.
        unit: numbers from U[0, 1).
        rate: of the last block.
    """
    blocks = droppable(module)
    branches = [getattr(block, name) for block in blocks for name in branches_of(block)]
    try:
        for i, branch in enumerate(branches):
            depth, which = divmod(i, len(branches) // len(blocks))
            keep = 1 - rate * depth / max(len(blocks) - 1, 1)
            branch.factor = ((unit[:, depth, which] < keep) / keep)[:, None, None]
        yield
    finally:
        for branch in branches:
            branch.factor = None


def dropping_some(
    encoder: nn.Module, samples: int, rate: float, generator: torch.Generator
) -> AbstractContextManager[None]:
    """`dropping` by coins drawn here for a batch; nothing where the rate is 0 or no block has branches.

    Args:
        encoder: whose blocks have two branches each.
        samples: in the batch.
        rate: of the last block; in evaluation give 0.
        generator: the randomness.
    """
    blocks = droppable(encoder) if rate else []
    if not blocks:
        return nullcontext()
    unit = draw.uniform((samples, len(blocks), 2), generator)
    return dropping(encoder, unit.to(next(encoder.parameters()).device), rate)
