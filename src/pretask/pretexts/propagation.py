"""Labels spread over a hypergraph by its p-Laplacian: p = 2 blurs them, p nearer to 1 keeps edges sharp.

S_p(f) = 1/2 sum_ij A_ij |f_i / sqrt(d_i) - f_j / sqrt(d_j)|^p measures how uneven a column of labels is. The
diagonal of A says nothing.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pretask.pretexts.hypergraph import degrees, pair_weights

SMOOTH = 1e-8  # epsilon: added to squared differences, far below those that matter


def gaps(scaled: Float[Tensor, "n columns"]) -> Float[Tensor, "n n"]:
    """Squared differences between all pairs of rows."""
    if scaled.shape[1] == 1:
        return (scaled - scaled.T).square()
    return torch.cdist(scaled, scaled).square()


def unevenness(
    labels: Float[Tensor, "n classes"],
    pairs: Float[Tensor, "n n"],
    degree: Float[Tensor, "n"],
    p: float,
    shared: bool = False,
    smooth: float = SMOOTH,
) -> Float[Tensor, ""]:
    """S_p, summed over classes; or of the differences of whole rows, where classes share them."""
    scaled = labels / degree.sqrt()[:, None]
    columns = [scaled] if shared else scaled.split(1, 1)
    return torch.stack([0.5 * (pairs * (gaps(one) + smooth) ** (p / 2)).sum() for one in columns]).sum()


def laplacian(pairs: Float[Tensor, "n n"], degree: Float[Tensor, "n"]) -> Float[Tensor, "n n"]:
    """D^-1/2 (diag(A 1) - A) D^-1/2."""
    scale = degree.rsqrt()
    return scale[:, None] * (torch.diag(pairs.sum(1)) - pairs) * scale


def diffused(
    operator: Float[Tensor, "n n"], given: Float[Tensor, "n columns"], mu: float
) -> Float[Tensor, "n columns"]:
    """F = mu (L + mu I)^-1 Y."""
    system = operator.clone()
    system.diagonal().add_(mu)
    return mu * torch.cholesky_solve(given, torch.linalg.cholesky(system))


def propagate(
    hypergraph: Float[Tensor, "n edges"],
    given: Float[Tensor, "n classes"],
    p: float = 1.6,
    mu: float = 1.0,
    shared: bool = False,
    smooth: float = SMOOTH,
    tolerance: float = 1e-4,
    most: int = 50,
) -> Float[Tensor, "n classes"]:
    """Labels for all: argmin_F sum_c S_p(F_c) + mu |F - Y|^2, by iteratively reweighted least squares.

    From the solution for p = 2 on, every pair weighs A_ij (p/2) (gap_ij + epsilon)^((p - 2) / 2), which is
    a quadratic that touches the objective from above: it never rises.

    Args:
        hypergraph: incidence, a row a vertex and a column a hyperedge.
        given: Y, a row of zeros where no label is known.
        p: in (1, 2].
        mu: how closely given labels are kept.
        shared: weigh pairs by the differences of whole rows, one system for all classes.
        smooth: epsilon; if it is not far below the squared differences, p counts as 2.
        tolerance: relative change of F to stop at.
        most: iterations.
    """
    pairs, degree = pair_weights(hypergraph), degrees(hypergraph)
    labels = diffused(laplacian(pairs, degree), given, mu)
    width = given.shape[1] if shared else 1
    for _ in range(most if p != 2 else 0):
        new = []
        for old, known in zip(labels.split(width, 1), given.split(width, 1), strict=True):
            weight = (p / 2) * (gaps(old / degree.sqrt()[:, None]) + smooth) ** ((p - 2) / 2)
            new.append(diffused(laplacian(pairs * weight, degree), known, mu))
        change = (torch.cat(new, 1) - labels).norm() / labels.norm().clamp(min=1e-30)
        labels = torch.cat(new, 1)
        if float(change) < tolerance:
            break
    return labels


def p_eigenvectors(
    pairs: Float[Tensor, "n n"], degree: Float[Tensor, "n"], p: float, steps: int = 20
) -> tuple[Float[Tensor, "n n"], Float[Tensor, "n"]]:
    """All eigenvectors of the p-Laplacian, approximately, and their eigenvalues.

    Gradient descent on sum_k S_p(u_k) / |u_k|_p^p over orthonormal U, from the eigenvectors for p = 2 (Luo,
    Huang, Ding, Nie, 2010); a step that would not lower the sum is halved. An eigenvalue is its summand.
    """
    rows, columns = pairs.triu(1).nonzero(as_tuple=True)
    weight, scale = pairs[rows, columns][:, None], degree.rsqrt()[:, None]

    def summands(u: Tensor) -> tuple[Tensor, Tensor]:
        scaled = scale * u
        difference = scaled[rows] - scaled[columns]
        uneven = (weight * difference.abs() ** p).sum(0)
        size = (u.abs() ** p).sum(0)
        pull = p * weight * difference.sign() * difference.abs() ** (p - 1)
        slope = scale * torch.zeros_like(u).index_add(0, rows, pull).index_add(0, columns, -pull)
        ratio = uneven / size
        return ratio, (slope - ratio * p * u.sign() * u.abs() ** (p - 1)) / size

    u = torch.linalg.eigh(laplacian(pairs, degree)).eigenvectors
    value, gradient = summands(u)
    rate = 0.1
    for _ in range(steps if p != 2 else 0):
        along = gradient - u @ (gradient.T @ u)  # stays orthonormal to first order
        for _ in range(10):
            moved = torch.linalg.qr(u - rate * along)
            there = moved.Q * moved.R.diagonal().sign()
            new, new_gradient = summands(there)
            if float(new.sum()) < float(value.sum()):
                u, value, gradient, rate = there, new, new_gradient, 1.5 * rate
                break
            rate /= 2
        else:
            break
    return u, value


def propagate_by_eigenvectors(
    hypergraph: Float[Tensor, "n edges"], given: Float[Tensor, "n classes"], p: float = 1.6, mu: float = 1.0
) -> Float[Tensor, "n classes"]:
    """F = mu (U Lambda U^T + mu I)^-1 Y, the p-Laplacian put together from its eigenvectors: the other way
    of the literature, linear in the labels. The same as `propagate` for p = 2."""
    u, value = p_eigenvectors(pair_weights(hypergraph), degrees(hypergraph), p)
    return u @ ((mu / (value + mu))[:, None] * (u.T @ given))


def soften(
    labels: Float[Tensor, "n classes"],
    given: Float[Tensor, "n classes"],
    known: Bool[Tensor, "n"],
) -> Float[Tensor, "n classes"]:
    """Propagated labels as distributions: negatives clipped, rows made to add up to 1, known rows as given.

    They stay real numbers. A row that nothing reached stays 0: nothing is known of it.
    """
    kept = labels.clamp(min=0)
    total = kept.sum(1, keepdim=True)
    return torch.where(known[:, None], given, kept / torch.where(total > 0, total, 1))
