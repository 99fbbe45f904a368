"""Losses of the Cookbook of Self-Supervised Learning (Balestriero et al., 2023) that no method here trains by, to be
put into one's own. MSN's is not among them: it wants masked views and a balanced teacher, a method of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pretask.objectives.contrastive import own_places, unit
from pretask.objectives.distributed import gather, mean


def decoupled_contrastive(
    a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"], temperature: float = 0.1
) -> Float[Tensor, ""]:
    """NT-Xent without the partner in its denominator (Yeh et al., ECCV 2022, equation 5): 2N - 2 others, of both
    kinds of view under one logarithm, remain.

    Args:
        a: one view of each of at least two samples; normalised here.
        b: the other views.
        temperature: divides the cosines.
    """
    own = unit(torch.cat([a, b]))
    place = own_places(len(own), own.device)
    logits = own @ gather(own).T / temperature
    partner = place.roll(len(a))[:, None]
    others = logits.scatter(1, torch.cat([place[:, None], partner], dim=1), -torch.inf)
    return (others.logsumexp(1) - logits.gather(1, partner)[:, 0]).mean()


def koleo(x: Float[Tensor, "items dim"], eps: float = 1e-8) -> Float[Tensor, ""]:
    """-1/n sum_i log(d_i + eps), d_i the distance to the nearest other item of this process, on the unit sphere
    (Sablayrolles et al., ICLR 2019, as DINOv2 has it, whose distances are of differences + eps).

    Args:
        x: at least two items; normalised here.
        eps: keeps the logarithm finite.
    """
    x = F.normalize(x, dim=1, eps=eps)
    with torch.no_grad():
        nearest = (x @ x.T).fill_diagonal_(-torch.inf).argmax(1)
    return -((x - x[nearest] + eps).norm(dim=1) + eps).log().mean()


def tico(
    a: Float[Tensor, "items dim"],
    b: Float[Tensor, "items dim"],
    covariance: Float[Tensor, "dim dim"],
    beta: float = 0.9,
    rho: float = 20.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, "dim dim"]]:
    """1 - mean_i <a_i, b_i> + rho mean_i a_i' C a_i with C = beta C' + (1 - beta) a'a / n, and C for the next step
    (Zhu et al., 2022, algorithm 1, which does not take the mean away before it normalises).

    Args:
        a: one view of each sample; normalised here.
        b: the other views.
        covariance: C', what the step before gave; zeros at first.
        beta: share of C' in C.
        rho: weight of what keeps features apart.
    """
    a, b = unit(a), unit(b)
    now = beta * covariance.detach() + (1 - beta) * mean(a.T @ a / len(a))
    return 1 - (a * b).sum(1).mean() + rho * (a @ now * a).sum(1).mean(), now.detach()
