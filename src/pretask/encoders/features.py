"""What every encoder answers with, whatever library it comes from."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Features(NamedTuple):
    """The encoding of a batch.

    Args:
        pooled: one vector a sample; what the exported encoder gives.
        tokens: one vector a place (patch, cell, frame, node ...); only the visible ones where
            `visible` was given, in that order.
        prefix: class and register tokens; zero of them where the encoder has none.
        grid: how the places lie (rows, columns); of all places, also when only some are visible.
    """

    pooled: Float[Tensor, "batch dim"]
    tokens: Float[Tensor, "batch tokens dim"]
    prefix: Float[Tensor, "batch prefix dim"]
    grid: tuple[int, ...]
