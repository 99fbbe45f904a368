"""Joint embedding solves a spectral problem: on a small graph of views every step of that can be computed.

Views x are drawn from pictures: A(x, y) is the probability that two views of one picture are x and y, w(x) = sum_y
A(x, y), and N = A / sqrt(w w'). With F(x) = sqrt(w(x)) f(x)

- the spectral contrastive loss -2 E[f(x)'f(x+)] + E[(f(x)'f(y))^2] is |N - FF'|^2 less |N|^2 (HaoChen et al.,
  NeurIPS 2021): its best F are the top eigenvectors of N, each as long as the root of its eigenvalue, up to a turn;
- views that agree while features are uncorrelated with unit variance (what VICReg and Barlow Twins ask for) are, in
  the limit of heavy penalties, the top eigenvectors themselves: Laplacian eigenmaps (Balestriero, LeCun, NeurIPS
  2022).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import subspace_angles
from scipy.optimize import minimize

PICTURES, VIEWS, DIM = 12, 20, 3
PENALTY, STARTS = 100.0, 3
Matrix = Float[np.ndarray, "views views"]
Embedding = Float[np.ndarray, "views dim"]


def graph(seed: int, pictures: int = PICTURES, views: int = VIEWS) -> Matrix:
    """How often two views of one picture are x and y: pictures of a few kinds, which share most of their views."""
    rng = np.random.default_rng(seed)
    kind = np.arange(pictures) % (DIM + 1)
    likely = rng.random((DIM + 1, views)) ** 4
    given = likely[kind] + 0.3 * rng.random((pictures, views)) ** 4
    given /= given.sum(1, keepdims=True)
    return given.T @ given / pictures


def normalised(joint: Matrix) -> Matrix:
    root = np.sqrt(joint.sum(1))
    return joint / root[:, None] / root


def spectral_loss(f: Embedding, joint: Matrix) -> float:
    """-2 E[f(x)'f(x+)] + E[(f(x)'f(y))^2], the second over independent views."""
    w, gram = joint.sum(1), f @ f.T
    return float(-2 * (joint * gram).sum() + w @ gram**2 @ w)


def contrastive(f: Embedding, joint: Matrix) -> tuple[float, Embedding]:
    """The spectral contrastive loss and its gradient."""
    w, gram = joint.sum(1), f @ f.T
    return spectral_loss(f, joint), -4 * joint @ f + 4 * (np.outer(w, w) * gram) @ f


def uncorrelated(f: Embedding, joint: Matrix) -> tuple[float, Embedding]:
    """E|f(x) - f(x+)|^2 + penalty |E[f f'] - I|^2 and its gradient."""
    w = joint.sum(1)
    apart = 2 * (w @ (f**2).sum(1)) - 2 * (joint * (f @ f.T)).sum()
    off = f.T @ (w[:, None] * f) - np.eye(f.shape[1])
    gradient = 4 * (w[:, None] * f - joint @ f) + PENALTY * 4 * (w[:, None] * f) @ off
    return float(apart + PENALTY * (off**2).sum()), gradient


def minimised(
    loss: Callable[[Embedding, Matrix], tuple[float, Embedding]], joint: Matrix, seed: int, dim: int = DIM
) -> Embedding:
    """The best of a few descents from random features."""
    rng, shape = np.random.default_rng(seed), (len(joint), dim)

    def flat(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = loss(x.reshape(shape), joint)
        return value, gradient.ravel()

    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-11, "maxcor": 30}
    found = [
        minimize(flat, rng.normal(size=shape).ravel(), jac=True, method="L-BFGS-B", options=options)
        for _ in range(STARTS)
    ]
    return min(found, key=lambda one: one.fun).x.reshape(shape)


def top(joint: Matrix, dim: int = DIM) -> tuple[np.ndarray, Embedding]:
    """The largest eigenvalues of N and their eigenvectors."""
    values, vectors = np.linalg.eigh(normalised(joint))
    return values[::-1][:dim], vectors[:, ::-1][:, :dim]


def compare(
    name: str, says: str, loss: Any, seed: int, lengths: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Any]:
    """Descend, and hold what is found to the eigenvectors: the largest angle between the two spaces, and the squared
    lengths along them."""
    joint = graph(seed)
    values, vectors = top(joint)
    embedded = np.sqrt(joint.sum(1))[:, None] * minimised(loss, joint, seed)
    angle = float(subspace_angles(embedded, vectors).max())
    squared = np.sort(np.linalg.svd(embedded, compute_uv=False) ** 2)[::-1]
    off = float(np.abs(squared - lengths(values)).max())
    return {
        "theorem": name, "case": f"graph {seed}", "says": says,
        "measured": {"largest angle": round(angle, 6), "lengths off by": round(off, 6)},
        "holds": angle < 1e-3 and off < 1e-3,
    }  # fmt: skip


def checks(seeds: int = 3) -> list[dict[str, Any]]:
    """Both statements on a few random graphs."""
    rows = []
    for seed in range(seeds):
        rows.append(
            compare(
                "contrastive",
                "the minimum spans the top eigenvectors, by the roots of their eigenvalues",
                contrastive,
                seed,
                lambda values: values,
            )  # fmt: skip
        )
        # agreement pulls: of every direction lambda of its length is lost, (1 - lambda) / penalty short of 1
        rows.append(
            compare(
                "uncorrelated",
                "the minimum spans the top eigenvectors, of length 1 but for the penalty's finite weight",
                uncorrelated,
                seed,
                lambda values: 1 - (1 - values) / PENALTY,
            )  # fmt: skip
        )
    return rows
