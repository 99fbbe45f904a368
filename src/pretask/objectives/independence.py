"""How far two parts of the data are from independent given a label, and a target refined until they are.

What a pretext hides (X2) is worth predicting from what it shows (X1) where the two are independent given the
label Y (Lee et al., NeurIPS 2021). Second moments are looked at: Cov(X1, f(X2) | Y), pooled over classes or
class by class.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.errors import UsageError


def class_means(x: Float[Tensor, "items dim"], y: Int[Tensor, "items"], classes: int) -> Tensor:
    """E[X | Y] as (classes, dim), not centred; a class without an item gets zeros."""
    sums = x.new_zeros(classes, x.shape[1]).index_add(0, y, x)
    return sums / torch.bincount(y, minlength=classes).clamp(min=1).to(x.dtype)[:, None]


def within_class(x: Float[Tensor, "items dim"], y: Int[Tensor, "items"]) -> Float[Tensor, "items dim"]:
    """X less the mean of its class; the only item of a class becomes 0."""
    return x - class_means(x, y, int(y.max()) + 1)[y]


def conditional_covariance(
    x1: Float[Tensor, "items ones"], x2: Float[Tensor, "items twos"], y: Int[Tensor, "items"]
) -> Float[Tensor, "ones twos"]:
    """Cov(X1, X2 | Y), pooled over classes: X1c' X2c / n of what each class leaves when its mean is taken off.

    Its rank is at most min(ones, items - classes).
    """
    return within_class(x1, y).T @ within_class(x2, y) / len(y)


def violations(
    x1: Float[Tensor, "items ones"], x2: Float[Tensor, "items twos"], y: Int[Tensor, "items"]
) -> Float[Tensor, "classes"]:
    """The Frobenius norm of Cov(X1, X2 | Y = c) of each class c, 0 where it has no item.

    Over classes covariances can cancel: the largest of these says what the pooled one may hide.
    """
    one, two = within_class(x1, y), within_class(x2, y)
    found = [one[y == c].T @ two[y == c] / max(1, int((y == c).sum())) for c in range(int(y.max()) + 1)]
    return torch.stack(found).norm(dim=(1, 2))


def least_dependent(covariance: Float[Tensor, "ones twos"], keep: int) -> Float[Tensor, "keep twos"]:
    """The directions of X2 that covary least with X1: right singular vectors of the smallest singular values.

    They are orthonormal: a refinement that may shrink would be independent of everything.

    Raises:
        UsageError: more directions are asked for than X2 has, or none.
    """
    if not 0 < keep <= covariance.shape[1]:
        raise UsageError(f"of {covariance.shape[1]} directions between 1 and all can be kept, not {keep}")
    return torch.linalg.svd(covariance, full_matrices=True).Vh[-keep:]


def refine_linear(
    x1: Float[Tensor, "items ones"], x2: Float[Tensor, "items twos"], y: Int[Tensor, "items"], keep: int
) -> Float[Tensor, "keep twos"]:
    """A linear refinement f(x2) = A x2 with Cov(X1, f(X2) | Y) as small as the items show (Teng and Huang, 2021).

    With fewer than twos + classes items some directions look independent and are not.
    """
    return least_dependent(conditional_covariance(x1, x2, y), keep)


def refinement_loss(
    x1: Float[Tensor, "items ones"],
    refined: Float[Tensor, "items keep"],
    y: Int[Tensor, "items"],
    weight: float = 1.0,
) -> Float[Tensor, ""]:
    """|Cov(X1, f(X2) | Y)|^2 - weight |Cov(f(X2), Y)|^2, squared Frobenius norms, Y one-hot.

    The second term keeps f from being a constant. The caller fixes the scale of `refined`.
    """
    truth = F.one_hot(y).to(refined.dtype)
    informative = (refined - refined.mean(0)).T @ (truth - truth.mean(0)) / len(y)
    return conditional_covariance(x1, refined, y).square().sum() - weight * informative.square().sum()
