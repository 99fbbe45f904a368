"""Features without correlations, and views that agree in them: W-MSE (Ermolov et al., ICML 2021)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.objectives.contrastive import single, unit

SHRUNK = 0.1
"""How much of the identity there is in the covariance of no more items than dimensions, which has no inverse."""


def whiten(x: Float[Tensor, "items dim"], eps: float | None = None) -> Float[Tensor, "items dim"]:
    """L^-1 (x - mean) with L L' = (1 - eps) S + eps I, S the unbiased covariance: features of covariance I.

    Args:
        x: features; in float32 at least.
        eps: none takes the paper's 0 where there are more items than dimensions, and `SHRUNK` otherwise.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = single(x)
        count, dim = x.shape
        x = x - x.mean(0)
        if eps is None:
            eps = 0.0 if count > dim else SHRUNK
        eye = torch.eye(dim, dtype=x.dtype, device=x.device)
        root = torch.linalg.cholesky((1 - eps) * (x.T @ x) / (count - 1) + eps * eye)
        return torch.linalg.solve_triangular(root, x.T, upper=False).T


def w_mse(
    a: Float[Tensor, "items dim"],
    b: Float[Tensor, "items dim"],
    order: Int[Tensor, "items"],
    size: int,
    eps: float | None = None,
) -> Float[Tensor, ""]:
    """Mean of 2 - 2 cos of partners, each view whitened by itself in parts of the batch (equations 1, 3 and 4).

    Args:
        a: one view of each sample.
        b: the other views.
        order: samples in a random order; neighbours in it are whitened together.
        size: samples of a part, at least; the batch is divided as evenly as it can be.
        eps: see `whiten`.
    """
    apart = []
    for rows in order.tensor_split(max(1, len(order) // size)):
        first, second = (unit(whiten(x[rows], eps)) for x in (a, b))
        apart.append(2 - 2 * (first * second).sum(1))
    return torch.cat(apart).mean()
