"""Random draws for a batch, the same for one process as for many.

Every process holds a generator with the same seed. A draw is made for the rows of all processes and
each keeps its own, so that N processes see exactly what one would see with their joined batch. The same
holds for a batch that is computed in parts (`part_of`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PART: ContextVar[tuple[int, int]] = ContextVar("PART", default=(0, 1))


@contextmanager
def part_of(number: int, parts: int) -> Iterator[None]:
    """Within, what is drawn belongs to part `number` of a process's batch that is computed in `parts`."""
    token = PART.set((number, parts))
    try:
        yield
    finally:
        PART.reset(token)


@torch.compiler.disable  # a graph cannot hold a generator: it ends before a draw and goes on behind it
def own_rows(draw: Callable[[int], Tensor], batch: int) -> Tensor:
    """Rows of this process, and of this part of its batch, out of `draw(rows of all)`."""
    number, parts = PART.get()
    world, rank = 1, 0
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    if world * parts == 1:
        return draw(batch)
    place = rank * parts + number
    return draw(batch * world * parts)[place * batch : (place + 1) * batch]


def uniform(
    shape: tuple[int, ...], generator: torch.Generator, low: float = 0.0, high: float = 1.0
) -> Float[Tensor, "batch *rest"]:
    """U[low, high); the first dimension of `shape` is the batch."""
    rest = shape[1:]
    unit = own_rows(lambda n: torch.rand((n, *rest), generator=generator, device=generator.device), shape[0])
    return unit if (low, high) == (0.0, 1.0) else low + (high - low) * unit


@torch.compiler.disable
def common(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """U[0, 1) that all samples share, on every process."""
    return torch.rand(shape, generator=generator, device=generator.device)


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
