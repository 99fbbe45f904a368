"""Losses of two surveys, the Cookbook of Self-Supervised Learning (Balestriero et al., 2023) and Know Your
Self-supervised Learning (Ozbulak et al., TMLR 2023), that no method here trains by, to be put into one's own.
"""

from __future__ import annotations

from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pretask.objectives.contrastive import own_places, single, unit
from pretask.objectives.distillation import soft_cross_entropy
from pretask.objectives.distributed import gather, mean
from pretask.objectives.sinkhorn import sinkhorn


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


def spectral_contrastive(a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """-2 mean_i <a_i, b_i> + mean_{i != j} <a_i, b_j>^2, of features as they are (HaoChen et al., NeurIPS 2021,
    equation 6; their code shortens long ones, too).

    Args:
        a: one view of each of at least two samples, in all.
        b: the other views.
    """
    a, b = single(a), single(b)
    everyone = gather(b)
    square = (a @ everyone.T).square().scatter(1, own_places(len(a), a.device)[:, None], 0.0)
    return square.sum() / (len(a) * (len(everyone) - 1)) - 2 * (a * b).sum(1).mean()


def ressl(
    query: Float[Tensor, "batch dim"],
    key: Float[Tensor, "batch dim"],
    negatives: Float[Tensor, "queue dim"],
    temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Float[Tensor, ""]:
    """Cross-entropy of which rows of a queue two views are like (ReSSL, Zheng et al., NeurIPS 2021, equation 5). The
    partner is not among the rows.

    Args:
        query: what the encoder says of one view; normalised here.
        key: what the teacher says of the other, weakly augmented one; normalised here, it learns nothing.
        negatives: rows of length 1.
        temperature: of the encoder's likeness.
        teacher_temperature: of the teacher's.
    """
    query, key = unit(query), unit(key.detach())
    rows = negatives.detach().to(query.dtype)
    target = (key @ rows.T / teacher_temperature).softmax(1)
    return soft_cross_entropy(
        query @ rows.T, target, query.new_full((len(query),), 1 / len(query)), temperature
    )


def msn(
    anchor: Float[Tensor, "views*batch dim"],
    target: Float[Tensor, "batch dim"],
    prototypes: Float[Tensor, "prototypes dim"],
    temperature: float = 0.1,
    sharpening: float = 0.25,
    rounds: int = 3,
    weight: float = 1.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of what anchors say of prototypes with what the target says, sharpened, and weight (log K - the
    entropy of the anchors' mean answer) (Masked Siamese Networks, Assran et al., ECCV 2022, equation 1).

    Args:
        anchor: masked views, each view's batch together; normalised here.
        target: the teacher's word of the whole pictures; normalised here, it learns nothing.
        prototypes: K rows; normalised here, they learn from the anchors.
        temperature: of both answers.
        sharpening: T: the target's probabilities to the power 1/T, summing to 1 again.
        rounds: of Sinkhorn-Knopp on these, 0 for none.
        weight: of the regulariser.
    """
    anchor, target, prototypes = unit(anchor), unit(target.detach()), unit(prototypes)
    said = anchor @ prototypes.T
    asked = target @ prototypes.detach().T / (temperature * sharpening)
    truth = sinkhorn(asked.log_softmax(1), 1.0, rounds) if rounds else asked.softmax(1)
    each = said.new_full((len(said),), 1 / len(said))
    answered = mean((said / temperature).softmax(1).mean(0))
    even = log(len(prototypes)) + torch.xlogy(answered, answered).sum()
    return (
        soft_cross_entropy(said, truth.repeat(len(anchor) // len(target), 1), each, temperature)
        + weight * even
    )
