"""Stochastic depth whose coins come from outside: timm's own reads the global random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn

from pretask.encoders.image import ImageEncoder

BRANCHES = ("drop_path1", "drop_path2")  # timm's names: attention and network of a block


class DropPath(nn.Module):
    """Multiplies a residual branch by a number a sample; leaves it alone while none is given."""

    factor: Tensor | None = None

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        return x if self.factor is None else x * self.factor.to(x.dtype)


def droppable(encoder: ImageEncoder) -> list[nn.Module]:
    """The blocks whose branches can be dropped, prepared for it; none in encoders without such blocks."""
    blocks = [block for block in getattr(encoder, "blocks", []) if hasattr(block, BRANCHES[0])]
    for block in blocks:
        for name in BRANCHES:
            if not isinstance(getattr(block, name), DropPath):
                setattr(block, name, DropPath())
    return blocks


@contextmanager
def dropping(encoder: ImageEncoder, unit: Float[Tensor, "batch blocks 2"], rate: float) -> Iterator[None]:
    """Drop branches of the blocks for some samples, the more often the deeper (linearly from 0 to `rate`),
    and scale the kept ones to the same mean.

    Args:
        encoder: whose blocks `droppable` has prepared.
        unit: numbers from U[0, 1).
        rate: of the last block.
    """
    blocks = droppable(encoder)
    branches = [getattr(block, name) for block in blocks for name in BRANCHES]
    try:
        for i, branch in enumerate(branches):
            keep = 1 - rate * (i // 2) / max(len(blocks) - 1, 1)
            branch.factor = ((unit[:, i // 2, i % 2] < keep) / keep)[:, None, None]
        yield
    finally:
        for branch in branches:
            branch.factor = None
