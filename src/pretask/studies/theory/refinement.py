"""A pretext target refined by labelled samples until it is independent of X1 given the label; and what it is worth.

Three budgets: n1 pairs without labels teach psi, n0 labelled ones the refinement f, n2 labelled ones the head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.objectives.independence import conditional_covariance, least_dependent, refinement_loss
from pretask.studies.theory.check import averaged
from pretask.studies.theory.gaussians import ClassWorld, Sample
from pretask.studies.theory.worlds import RANK

PRETEXT, HEAD, JUDGED, SEEDS = 10_000, 40, 5_000, 10
REFINING = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""n0, the labelled samples that teach the refinement."""


@dataclass(frozen=True)
class Affine:
    """x -> weight x + bias."""

    weight: Float[Tensor, "out ones"]
    bias: Float[Tensor, "out"]

    def __call__(self, x: Float[Tensor, "items ones"]) -> Float[Tensor, "items out"]:
        return x @ self.weight.T + self.bias

    def then(self, matrix: Float[Tensor, "new out"]) -> Affine:
        return Affine(matrix @ self.weight, matrix @ self.bias)


def least_squares(x: Float[Tensor, "items ones"], y: Float[Tensor, "items out"]) -> Affine:
    """Regression with intercept, the shortest solution where several fit."""
    mean, centre = x.mean(0), y.mean(0)
    weight = (torch.linalg.pinv(x - mean, rtol=RANK) @ (y - centre)).T
    return Affine(weight, centre - weight @ mean)


def truncated(
    psi: Affine, refinement: Float[Tensor, "keep twos"], x: Float[Tensor, "items ones"], rank: int
) -> Affine:
    """The first components of what psi says of the refined target."""
    refined = psi.then(refinement)
    answer = refined(x)
    vectors = torch.linalg.eigh((answer - answer.mean(0)).T @ (answer - answer.mean(0))).eigenvectors
    return refined.then(vectors[:, -rank:].T)


def accuracy(features: Callable[[Tensor], Tensor], taught: Sample, judged: Sample) -> float:
    """Of a least-squares head with intercept."""
    classes = int(judged.y.max()) + 1
    head = least_squares(features(taught.x1), F.one_hot(taught.y, classes).to(taught.x1.dtype))
    return float((head(features(judged.x1)).argmax(1) == judged.y).double().mean())


def first(sample: Sample, count: int) -> Sample:
    return Sample(*(part[:count] for part in sample))


class Bench(NamedTuple):
    """A world with samples of it: for psi, the refinement, the head and the judgement."""

    world: ClassWorld
    psi: Affine
    seen: Float[Tensor, "items ones"]
    refining: Sample
    head: Sample
    judged: Sample

    @classmethod
    def of(cls, seed: int, b: float) -> Bench:
        generator = torch.Generator().manual_seed(seed)
        world = ClassWorld.draw(generator, b)
        pairs = world.sample(PRETEXT, generator)
        refining, head, judged = (world.sample(n, generator) for n in (max(REFINING), max(REFINING), JUDGED))
        return cls(world, least_squares(pairs.x1, pairs.x2), pairs.x1[:2000], refining, head, judged)

    def worth(self, refinement: Float[Tensor, "keep twos"], taught: Sample) -> float:
        """Accuracy of a head on psi of the refined target, cut to as many components as there are classes."""
        return accuracy(truncated(self.psi, refinement, self.seen, self.world.classes), taught, self.judged)


def one_run(bench: Bench, keep: int, n0: int, n2: int) -> dict[str, float]:
    """Accuracies, and how much of Cov(X1, X2 | Y) the refinement leaves: as its samples show, and in truth.

    `refined, samples reused` teaches the head by (some of) the samples that taught the refinement.
    """
    world, seen, head = bench.world, first(bench.refining, n0), first(bench.head, n2)
    shown = conditional_covariance(*seen)
    refinement = least_dependent(shown, keep)
    whole = torch.eye(refinement.shape[1], dtype=refinement.dtype)
    both = Sample(*(torch.cat(parts) for parts in zip(seen, head, strict=True)))
    return {
        "raw": bench.worth(whole, head),
        "refined": bench.worth(refinement, head),
        "refined, samples reused": bench.worth(refinement, first(seen, n2)),
        "oracle": bench.worth(least_dependent(world.covariance, keep), head),
        "supervised": accuracy(lambda x: x, both, bench.judged),
        "violation, as seen": float((shown @ refinement.T).norm() / shown.norm()),
        "violation": world.violation(refinement) / world.violation(whole),
    }


@cache
def curve(
    b: float, keep: int, total: int | None = None, budgets: tuple[int, ...] = REFINING, seeds: int = SEEDS
) -> dict[int, dict[str, float]]:
    """The same for each n0, averaged over worlds.

    Args:
        b: strength of what X1 and X2 share besides Y.
        keep: directions of X2 that the refinement keeps.
        total: n0 + n2; None gives the head 40 labels of its own.
        budgets: n0.
        seeds: worlds.
    """
    runs: dict[int, list[dict[str, float]]] = {n0: [] for n0 in budgets}
    for seed in range(seeds):
        bench = Bench.of(seed, b)
        for n0 in budgets:
            runs[n0].append(one_run(bench, keep, n0, HEAD if total is None else total - n0))
    return {n0: averaged(found) for n0, found in runs.items()}


class Net(nn.Module):
    """f: an MLP whose outputs have mean 0 and variance 1 over the samples it was made for.

    Args:
        twos: dimensions of X2.
        keep: of f(X2).
        generator: of the first weights.
    """

    def __init__(self, twos: int, keep: int, generator: torch.Generator, width: int = 64):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(twos, width), nn.ReLU(), nn.Linear(width, keep)).double()
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(self, x2: Tensor, over: Tensor) -> Float[Tensor, "items keep"]:
        told, scale = self.layers(x2), self.layers(over)
        return (told - scale.mean(0)) / (scale.var(0, correction=0) + 1e-8).sqrt()


def refine_mlp(
    seen: Sample, keep: int, weight: float, seed: int, steps: int = 500
) -> Callable[[Float[Tensor, "items twos"]], Float[Tensor, "items keep"]]:
    """A refinement with a hidden layer of 64, trained on the criterion with Adam at 1e-3."""
    net = Net(seen.x2.shape[1], keep, torch.Generator().manual_seed(seed))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(steps):
        loss = refinement_loss(seen.x1, net(seen.x2, seen.x2), seen.y, weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return lambda x2: net(x2, seen.x2).detach()
