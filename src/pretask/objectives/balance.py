"""Weights for several losses on one encoder: the min-norm point of their gradients (MGDA).

Desideri (2012); Sener & Koltun, NeurIPS 2018; with the details of ParetoGNN (Ju et al., ICLR 2023): the
starting point is the best pair of tasks, line solutions are clipped to [0.001, 0.999], Frank-Wolfe ends
after 250 rounds or when the weights move by less than 1e-5 in sum.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Normaliser = Literal["l2", "loss", "loss+", "none"]
ROUNDS, TOLERANCE, EDGE = 250, 1e-5, 0.001


def line_solution(v11: float, v12: float, v22: float) -> tuple[float, float]:
    """The share of the first vector in the shortest point between two, and that point's squared norm.

    Args:
        v11: <first, first>.
        v12: <first, second>.
        v22: <second, second>.
    """
    if v12 >= v11:
        return 1 - EDGE, v11
    if v12 >= v22:
        return EDGE, v22
    share = (v22 - v12) / (v11 + v22 - 2 * v12)
    return share, v22 + share * (v12 - v22)


def best_pair(gram: Float[Tensor, "tasks tasks"]) -> Float[Tensor, "tasks"]:
    """The combination of two tasks with the shortest gradient."""
    tasks, best, weights = len(gram), float("inf"), torch.zeros(len(gram), dtype=gram.dtype)
    for i in range(tasks):
        for j in range(i + 1, tasks):
            share, cost = line_solution(float(gram[i, i]), float(gram[i, j]), float(gram[j, j]))
            if cost < best:
                best = cost
                weights.zero_()
                weights[i], weights[j] = share, 1 - share
    return weights


def min_norm_weights(gram: Float[Tensor, "tasks tasks"]) -> Float[Tensor, "tasks"]:
    """Weights >= 0 with sum 1 whose combination of gradients is shortest.

    Args:
        gram: inner products of the tasks' gradients. A few numbers: they are handled on the CPU in float64.
    """
    gram = gram.double().cpu()
    if len(gram) == 1:
        return torch.ones(1, dtype=gram.dtype)
    weights = best_pair(gram)
    if len(gram) == 2:
        return weights
    for _ in range(ROUNDS):
        along = gram @ weights
        corner = int(along.argmin())
        share, _ = line_solution(float(weights @ along), float(along[corner]), float(gram[corner, corner]))
        moved = share * weights
        moved[corner] += 1 - share
        change = float((moved - weights).abs().sum())
        weights = moved
        if change < TOLERANCE:
            break
    return weights


def normalised_gram(
    gradients: Float[Tensor, "tasks parameters"],
    losses: Float[Tensor, "tasks"],
    normaliser: Normaliser = "l2",
) -> Float[Tensor, "tasks tasks"]:
    """Inner products of gradients, each divided by its length, its loss, their product, or nothing."""
    norms = gradients.norm(dim=1)
    scale = {"l2": norms, "loss": losses, "loss+": losses * norms, "none": torch.ones_like(losses)}[
        normaliser
    ]
    scaled = gradients / scale.unsqueeze(1).clamp_min(torch.finfo(gradients.dtype).tiny)
    return scaled @ scaled.T
