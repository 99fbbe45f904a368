"""How time and memory grow: exponents fitted to measurements at growing sizes.

An exponent of 1 says twice as much of it takes twice as long. The target is what the mathematics asks for, and a
quarter for what a fit over a few sizes is uncertain by.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch

from bench.harness import Row, alternate, peak_memory
from pretask import build_encoder
from pretask.data.geometry import farthest_points, nearest
from pretask.data.loader import Order
from pretask.evaluation.knn import neighbours
from pretask.objectives.contrastive import nt_xent
from pretask.pretexts.views import apply_view, draw_view, simclr_views

Run = Callable[[], object]


class Growth(NamedTuple):
    """One thing that grows.

    Args:
        what: grows with what.
        make: what is measured, of a size.
        sizes: measured.
        time: the exponent of the mathematics; None where time is not looked at.
        memory: likewise.
    """

    what: str
    make: Callable[[int], Run]
    sizes: tuple[int, ...]
    time: float | None = None
    memory: float | None = None


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def contrast(batch: int) -> Run:
    a, b = normal(batch, 64).requires_grad_(), normal(batch, 64).requires_grad_()
    return lambda: nt_xent(a, b, 0.5).backward()


def transformer(side: int) -> Run:
    """Tokens are the square of the side in patches."""
    name = "vit_tiny_patch16_224:depth=2,embed_dim=64,num_heads=2"
    encoder = build_encoder(name, image_size=4 * side, patch_size=4)
    image = torch.rand(4, 3, 4 * side, 4 * side)
    return lambda: encoder(image).pooled.sum().backward()


def views(batch: int) -> Run:
    spec = simclr_views(32)
    image = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8)
    return lambda: apply_view(spec, image, draw_view(spec, batch, torch.Generator().manual_seed(0)))


def sampling(points: int) -> Run:
    cloud = normal(4, points, 3)
    return lambda: farthest_points(cloud, 32)


def near_points(points: int) -> Run:
    cloud, centres = normal(4, points, 3), normal(4, 32, 3)
    return lambda: nearest(centres, cloud, 16)


def bank(items: int) -> Run:
    query, rows = normal(64, 64), normal(items, 64)
    return lambda: neighbours(query, rows, 20)


def order(images: int) -> Run:
    """Where a batch's rows stand, an epoch's permutation included."""

    def run() -> None:
        rows = Order(images, 256, 0)
        for number in range(images // 256):
            rows[number]

    return run


CASES = (
    Growth("NT-Xent over the batch", contrast, (512, 1024, 2048), 2.0, 1.0),
    Growth("a transformer over its tokens' root", transformer, (8, 12, 16), 4.0, 2.0),
    Growth("views over the batch", views, (64, 128, 256), 1.0, 1.0),
    Growth("farthest point sampling over the points", sampling, (1024, 4096, 16384), 1.0, 1.0),
    Growth("nearest points over the points", near_points, (1024, 4096, 16384), 1.0, 1.0),
    Growth("nearest neighbours over the bank", bank, (40_000, 80_000, 160_000), 1.0, 1.0),
    Growth("an epoch's order over the pictures", order, (100_000, 400_000, 1_600_000), 1.0),
)


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """The slope of a straight line through logarithms."""
    return statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(v) for v in values]
    ).slope


def measure(toy: bool = False) -> list[Row]:
    rows = []
    for case in CASES:
        sizes = tuple(size // 4 for size in case.sizes) if toy else case.sizes
        runs = {str(size): case.make(size) for size in sizes}
        if case.time is not None:
            taken = alternate(runs, 1 if toy else 5, 0.0 if toy else 0.1, 1)
            found = exponent(sizes, [statistics.median(values) for values in taken.values()])
            rows.append(row(f"{case.what}: time", sizes, found, case.time))
        if case.memory is not None:
            found = exponent(sizes, [max(peak_memory(run), 1) for run in runs.values()])
            rows.append(row(f"{case.what}: memory", sizes, found, case.memory))
    return rows


def row(name: str, sizes: tuple[int, ...], found: float, asked: float) -> Row:
    note = f"at {', '.join(map(str, sizes))}"
    return Row(name, found, asked, "the mathematics", "", None, asked + 0.25, "as the exponent", note=note)
