"""Learning curves in Gaussian worlds: what a pretext saves in labels, measured against the closed forms (S4)."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.studies.theory.check import averaged
from pretask.studies.theory.gaussians import GaussianWorld
from pretask.studies.theory.worlds import DOUBLE, RANK, normal

PRETEXT = 20_000  # samples without labels
LABELS = (50, 100, 200, 400, 800)
REPEATS = 20
DELTA = 0.05  # the bound may fail with this probability


def fit(x: Float[Tensor, "items ones"], y: Float[Tensor, "items out"]) -> Float[Tensor, "out ones"]:
    """Least squares without intercept; the shortest solution where several fit."""
    return (torch.linalg.pinv(x, rtol=RANK) @ y).T


def fit_pretext(world: GaussianWorld, count: int, generator: torch.Generator) -> Float[Tensor, "twos ones"]:
    """psi from samples: the regression of X2 on X1, as a matrix."""
    d1, d2 = len(world.one), len(world.two)
    moments, cross = torch.zeros(d1, d1, dtype=DOUBLE), torch.zeros(d1, d2, dtype=DOUBLE)
    for part in range(0, count, PRETEXT):  # in parts: 200,000 samples need not be held at once
        seen = world.sample(min(PRETEXT, count - part), generator)
        moments += seen.x1.T @ seen.x1
        cross += seen.x1.T @ seen.x2
    return torch.linalg.solve(moments, cross).T


def truncated(
    psi: Float[Tensor, "twos ones"], s11: Float[Tensor, "ones ones"], rank: int
) -> Float[Tensor, "rank ones"]:
    """The first principal components of psi(X1)."""
    vectors = torch.linalg.eigh(psi @ s11 @ psi.T).eigenvectors
    return vectors[:, -rank:].T @ psi


def risk_of(
    world: GaussianWorld, features: Float[Tensor, "dim ones"], count: int, generator: torch.Generator
) -> float:
    """ER of a head that learned from so many labels."""
    seen = world.sample(count, generator)
    return world.risk(fit(seen.x1 @ features.T, seen.y) @ features)


def representations(
    world: GaussianWorld, psi: Float[Tensor, "twos ones"], generator: torch.Generator
) -> dict[str, Float[Tensor, "dim ones"]]:
    """What heads learn on, as matrices on x1."""
    d1 = len(world.one)
    shared = world.latent_one.shape[1]
    found = {"rank k": truncated(psi, world.s11, world.k)}
    if shared:
        found["rank k + latent"] = truncated(psi, world.s11, world.k + shared)
    return found | {
        "all of psi": psi,
        "supervised": torch.eye(d1, dtype=psi.dtype),
        "random projection": normal(world.k, d1, generator=generator),
        "oracle": world.target,
    }


def one_curve(
    seed: int, labels: tuple[int, ...], pretext: int | None = PRETEXT, **sizes: Any
) -> dict[str, float]:
    """ER by `representation, n2`, in one world with one psi; and what the closed forms say of it.

    Args:
        seed: of world and samples.
        labels: n2.
        pretext: samples that psi is learned from; None takes psi*.
        **sizes: of the world.
    """
    generator = torch.Generator().manual_seed(seed)
    world = GaussianWorld.draw(generator, **sizes)
    psi = world.psi if pretext is None else fit_pretext(world, pretext, generator)
    found = {
        f"{name}, {count}": risk_of(world, features, count, generator)
        for name, features in representations(world, psi, generator).items()
        for count in labels
    }
    return found | {
        "noise": world.noise,
        "eps_CI^2": world.dependence,
        "eps_pre^2": world.square(psi - world.psi),
        "beta^2": world.beta**2,
    }


@cache
def learning_curves(
    labels: tuple[int, ...] = LABELS, repeats: int = REPEATS, pretext: int | None = PRETEXT, **sizes: Any
) -> dict[str, float]:
    """The same, averaged over worlds."""
    return averaged([one_curve(seed, labels, pretext, **sizes) for seed in range(repeats)])


def expected(noise: float, dim: int, labels: int) -> float:
    """ER of least squares on `dim` Gaussian features that hold f*: sigma^2 dim / (n2 - dim - 1), exactly."""
    return noise * dim / (labels - dim - 1)


def bound(found: dict[str, float], dim: int, labels: int) -> float:
    """S4 without its constant: (eps_CI^2 + eps_pre^2) / beta^2 + sigma^2 (dim + log(1/delta)) / n2."""
    spread = (dim - torch.tensor(DELTA).log().item()) / labels
    return (found["eps_CI^2"] + found["eps_pre^2"]) / found["beta^2"] + found["noise"] * spread
