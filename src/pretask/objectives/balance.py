"""Weights for several losses on one encoder: the min-norm point of their gradients (MGDA).

Desideri (2012); Sener & Koltun, NeurIPS 2018; with the details of ParetoGNN (Ju et al., ICLR 2023): the
starting point is the best pair of tasks, line solutions are clipped to [0.001, 0.999], Frank-Wolfe ends
after 250 rounds or when the weights move by less than 1e-5 in sum.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pretask.objectives.distributed import mean

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
        if float((moved - weights).abs().sum()) < TOLERANCE:
            break
        weights = moved
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


class Known(torch.autograd.Function):
    """A loss whose gradients are known already, times a weight."""

    @staticmethod
    def forward(
        ctx, value: Tensor, weight: float, gradients: Sequence[Tensor | None], *parameters: Tensor
    ) -> Tensor:
        ctx.weight, ctx.gradients = weight, gradients
        return value.clone()

    @staticmethod
    def backward(ctx, grad: Tensor):
        scale = grad * ctx.weight
        return None, None, None, *(None if known is None else known * scale for known in ctx.gradients)


class Balanced(NamedTuple):
    """Losses that pull in balance.

    Args:
        losses: the values they had; what reaches the parameters is each loss's gradient times its weight.
        weights: by loss; they sum to 1.
    """

    losses: dict[str, Tensor]
    weights: dict[str, float]


def balance(
    terms: Iterable[tuple[str, Tensor]],
    shared: Iterable[nn.Parameter],
    others: Iterable[nn.Parameter] = (),
    normaliser: Normaliser = "l2",
) -> Balanced:
    """Weigh losses so that their gradients on shared parameters make the shortest combination.

    Gradients are normalised only to find the weights, which then apply to the losses as they are. Each term
    is differentiated as it comes and its graph let go: none is walked twice, and no two are held at once
    where `terms` is a generator. All processes find the same weights, from the mean of their gradients.

    Args:
        terms: name and value of each loss, perhaps made as they are asked for.
        shared: parameters on which the losses compete.
        others: what else the losses reach, such as a head each.
        normaliser: what gradients are divided by: their `l2` norm, their `loss`, both (`loss+`) or `none`.
    """
    shared = [p for p in shared if p.requires_grad]
    parameters = shared + [p for p in others if p.requires_grad]
    values, gradients = dict[str, Tensor](), dict[str, tuple[Tensor | None, ...]]()
    for name, value in terms:
        with torch.autocast(value.device.type, enabled=False):
            gradients[name] = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        values[name] = value.detach()
        del value
    flat = [
        torch.cat([
            (torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(shared, found, strict=False)
        ])
        for found in gradients.values()
    ]  # fmt: skip
    gram = normalised_gram(mean(torch.stack(flat)), mean(torch.stack(list(values.values()))), normaliser)
    weights = dict(zip(values, min_norm_weights(gram).tolist(), strict=True))
    losses = {
        name: Known.apply(value, weights[name], gradients[name], *parameters)
        for name, value in values.items()
    }
    return Balanced(losses, weights)
