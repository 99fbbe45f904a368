"""Features that agree between two views and do not repeat each other: CCA-SSG, Barlow Twins, VICReg."""

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.objectives.distributed import mean, world_size


def decorrelation(
    a: Float[Tensor, "items dim"], b: Float[Tensor, "items dim"], weight: float = 1e-3
) -> Float[Tensor, ""]:
    """|(z_a - z_b) / N| + weight (|I - z_a'z_a / N| + |I - z_b'z_b / N|), Frobenius norms, not squared.

    z is standardised over the N items with the unbiased standard deviation. CCA-SSG (Zhang et al., NeurIPS
    2021, equation 5) squares the norms; this is the form ParetoGNN gives it.

    Args:
        a: features of one view.
        b: features of the other view, item by item.
        weight: of the two decorrelation terms.
    """
    z_a, z_b = standardised(a), standardised(b)
    count = len(a)
    eye = torch.eye(a.shape[1], dtype=z_a.dtype, device=a.device)
    apart = ((z_a - z_b) / count).norm()
    repeated = (eye - z_a.T @ z_a / count).norm() + (eye - z_b.T @ z_b / count).norm()
    return apart + weight * repeated


def standardised(x: Float[Tensor, "items dim"]) -> Float[Tensor, "items dim"]:
    x = x if x.dtype == torch.float64 else x.float()
    return (x - x.mean(0)) / x.std(0).clamp_min(torch.finfo(x.dtype).tiny)


def whole_batch(x: Float[Tensor, "items dim"]) -> tuple[Float[Tensor, "items dim"], int]:
    """Features less their mean over the items of all processes, and how many items these are."""
    x = x if x.dtype == torch.float64 else x.float()
    return x - mean(x.mean(0)), len(x) * world_size()


def barlow_twins(
    a: Float[Tensor, "items dim"], b: Float[Tensor, "items dim"], weight: float = 5e-3
) -> Float[Tensor, ""]:
    """sum_i (1 - C_ii)^2 + weight sum_{i != j} C_ij^2, C the cross-correlation of two views' features over the
    items of all processes (Zbontar et al., ICML 2021, equation 1).

    Standardised as batch normalisation does it: by the biased variance + 1e-5.
    """
    (a, _), (b, _) = whole_batch(a), whole_batch(b)
    a, b = (x / (mean(x.square().mean(0)) + 1e-5).sqrt() for x in (a, b))
    c = mean(a.T @ b / len(a))
    on = (1 - c.diagonal()).square().sum()
    return on + weight * (c.square().sum() - c.diagonal().square().sum())


def variance_hinge(x: Float[Tensor, "items dim"], target: float = 1.0) -> Float[Tensor, ""]:
    """Mean over dimensions of max(0, target - sqrt(var + 1e-4)), unbiased, over the items of all processes
    (VICReg, Bardes et al., ICLR 2022, equation 1)."""
    x, count = whole_batch(x)
    variance = mean(x.square().mean(0)) * count / (count - 1)
    return (target - (variance + 1e-4).sqrt()).clamp(min=0).mean()


def covariance(x: Float[Tensor, "items dim"]) -> Float[Tensor, ""]:
    """Sum of the squares of the covariances of different dimensions, over the number of dimensions (VICReg,
    equation 4); unbiased, over the items of all processes."""
    x, count = whole_batch(x)
    c = mean(x.T @ x / len(x)) * count / (count - 1)
    return (c.square().sum() - c.diagonal().square().sum()) / c.shape[0]
