"""Features that agree between two views and do not repeat each other: CCA-SSG, Barlow Twins, VICReg."""

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.objectives.distributed import gather, mean, world_size


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


def cross_norm(a: Float[Tensor, "items dim"], b: Float[Tensor, "items other_dim"]) -> Float[Tensor, ""]:
    """|a'b / N|^2, the squared Frobenius norm, over the N items of all processes.

    It is <aa', bb'> / N^2 as well: where there are fewer items than dimensions the matrix of dimensions, which for a
    projector of 8192 is large, is never made.
    """
    world = world_size()
    items = len(a) * world
    if items >= min(a.shape[1], b.shape[1]):
        return mean(a.T @ b / len(a)).square().sum()
    first = a @ gather(a).T  # of this process's items with all: its share
    second = first if b is a else b @ gather(b).T
    return world * (first * second).sum() / items**2


def barlow_twins(
    a: Float[Tensor, "items dim"], b: Float[Tensor, "items dim"], weight: float = 5e-3
) -> Float[Tensor, ""]:
    """sum_i (1 - C_ii)^2 + weight sum_{i != j} C_ij^2, C the cross-correlation of two views' features over the
    items of all processes (Zbontar et al., ICML 2021, equation 1).

    Standardised as batch normalisation does it: by the biased variance + 1e-5.
    """
    (a, _), (b, _) = whole_batch(a), whole_batch(b)
    a, b = (x / (mean(x.square().mean(0)) + 1e-5).sqrt() for x in (a, b))
    diagonal = mean((a * b).mean(0))
    on = (1 - diagonal).square().sum()
    return on + weight * (cross_norm(a, b) - diagonal.square().sum())


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
    diagonal = mean(x.square().mean(0))
    return (cross_norm(x, x) - diagonal.square().sum()) * (count / (count - 1)) ** 2 / x.shape[1]
