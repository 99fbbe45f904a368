"""Random draws for a batch, the same for one process as for many.

Every process holds a generator with the same seed. A draw is made for the rows of all processes and
each keeps its own, so that N processes see exactly what one would see with their joined batch.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def own_rows(draw: Callable[[int], Tensor], batch: int) -> Tensor:
    """Rows of this process out of `draw(rows of all processes)`."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return draw(batch)
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    return draw(batch * world)[rank * batch : (rank + 1) * batch]


def uniform(
    shape: tuple[int, ...], generator: torch.Generator, low: float = 0.0, high: float = 1.0
) -> Float[Tensor, "batch *rest"]:
    """U[low, high); the first dimension of `shape` is the batch."""
    rest = shape[1:]
    unit = own_rows(
        lambda n: torch.rand((n, *rest), generator=generator, device=generator.device), shape[0]
    )
    return unit if (low, high) == (0.0, 1.0) else low + (high - low) * unit


def normal(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "batch *rest"]:
    rest = shape[1:]
    return own_rows(lambda n: torch.randn((n, *rest), generator=generator, device=generator.device), shape[0])


def integers(high: int, shape: tuple[int, ...], generator: torch.Generator) -> Int[Tensor, "batch *rest"]:
    """Uniform over 0 .. high-1."""
    rest = shape[1:]
    return own_rows(
        lambda n: torch.randint(high, (n, *rest), generator=generator, device=generator.device), shape[0]
    )


def chance(batch: int, probability: float, generator: torch.Generator) -> Bool[Tensor, "batch"]:
    """One biased coin a sample."""
    return uniform((batch,), generator) < probability


def permutations(batch: int, items: int, generator: torch.Generator) -> Int[Tensor, "batch items"]:
    """One uniform permutation of 0 .. items-1 a sample."""
    return uniform((batch, items), generator).argsort(dim=1)
