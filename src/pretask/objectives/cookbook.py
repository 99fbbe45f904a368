"""Losses of two surveys, the Cookbook of Self-Supervised Learning (Balestriero et al., 2023) and Know Your
Self-supervised Learning (Ozbulak et al., TMLR 2023), that no method here trains by, to be put into one's own.

Those of clusters and words (SeLa, PCL, OBoW) are in `cookbook_clusters`.
"""

from __future__ import annotations

from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.objectives.coding_rate import coding_rate
from pretask.objectives.contrastive import bank_nce, own_places, single, unit
from pretask.objectives.distillation import soft_cross_entropy
from pretask.objectives.distributed import gather, mean
from pretask.objectives.memory import MemoryBank, Partition
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
    prior: Float[Tensor, "prototypes"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of what anchors say of prototypes with what the target says, sharpened, and weight (log K - the
    entropy of the anchors' mean answer) (Masked Siamese Networks, Assran et al., ECCV 2022, equation 1).

    That is weight KL(mean answer || uniform); with another prior it is PMSN's loss (The Hidden Uniform Cluster Prior,
    Assran et al., ICLR 2023). Lightly's PMSN loss has the divergence the other way round, KL(prior || mean answer).

    Args:
        anchor: masked views, each view's batch together; normalised here.
        target: the teacher's word of the whole pictures; normalised here, it learns nothing.
        prototypes: K rows; normalised here, they learn from the anchors.
        temperature: of both answers.
        sharpening: T: the target's probabilities to the power 1/T, summing to 1 again.
        rounds: of Sinkhorn-Knopp on these, 0 for none.
        weight: of the regulariser.
        prior: how often each prototype shall be the answer, such as `power_law`; none means all alike.
    """
    anchor, target, prototypes = unit(anchor), unit(target.detach()), unit(prototypes)
    said = anchor @ prototypes.T
    asked = target @ prototypes.detach().T / (temperature * sharpening)
    truth = sinkhorn(asked.log_softmax(1), 1.0, rounds) if rounds else asked.softmax(1)
    each = said.new_full((len(said),), 1 / len(said))
    answered = mean((said / temperature).softmax(1).mean(0))
    wanted = -log(len(prototypes)) if prior is None else prior.to(answered).log()
    regular = (torch.xlogy(answered, answered) - answered * wanted).sum()
    return (
        soft_cross_entropy(said, truth.repeat(len(anchor) // len(target), 1), each, temperature)
        + weight * regular
    )


def power_law(count: int, exponent: float = 0.25) -> Float[Tensor, "count"]:
    """PMSN's prior: the k-th of them, from 1, has a share in proportion to k^-exponent."""
    share = torch.arange(1, count + 1, dtype=torch.float64) ** -exponent
    return share / share.sum()


def cmc(
    views: tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]],
    places: Int[Tensor, "batch 1+negatives"],
    banks: tuple[MemoryBank, MemoryBank],
    partitions: tuple[Partition, Partition],
    temperature: float = 0.07,
) -> Float[Tensor, ""]:
    """L_NCE(first -> second) + L_NCE(second -> first): each view finds its sample's row in the other view's memory,
    among rows drawn from it (Contrastive Multiview Coding, Tian et al., ECCV 2020; of L and ab there).

    After the step each bank takes its own view in: `bank.update(index, unit(view))`, with momentum 0.5.

    Args:
        views: features of two networks, one a view; normalised here.
        places: rows to compare with, the own one first, the same both ways: `bank.draw(index, 16384, generator)`.
        banks: a memory for each view.
        partitions: Z of each way, set by its first batch.
        temperature: divides the similarities.
    """
    loss = views[0].new_zeros(())
    for view, bank, partition in zip(views, reversed(banks), partitions, strict=True):
        scores = bank.scores(unit(view), places) / temperature
        loss = loss + bank_nce(partition(scores.exp()), len(bank.rows))
    return loss


def corinfomax(
    a: Float[Tensor, "items dim"],
    b: Float[Tensor, "items dim"],
    means: Float[Tensor, "2 dim"],
    covariances: Float[Tensor, "2 dim dim"],
    keep: float = 0.01,
    eps: float = 1e-6,
    weight: float = 500.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, "2 dim"], Float[Tensor, "2 dim dim"]]:
    """-(log det(R_a + eps I) + log det(R_b + eps I)) / D + weight mse(a, b), and the statistics for the next step
    (CorInfoMax, Ozsoy et al., NeurIPS 2022, as its code has it).

    Of each view m = keep m' + (1 - keep) mean(z), then R = keep R' + (1 - keep) (z - m)'(z - m) / N; gradients go
    through both.

    Args:
        a: one view of each sample, as it is.
        b: the other views.
        means: m' of both views, what the step before gave; zeros at first.
        covariances: R'; identities at first.
        keep: share of what was before.
        eps: added to the diagonal.
        weight: of the mean squared difference, over items and dimensions.
    """
    z = single(torch.stack([a, b]))
    now = keep * means.detach().to(z.dtype) + (1 - keep) * mean(z.mean(1))
    centred = z - now[:, None]
    spread = mean(centred.transpose(1, 2) @ centred / z.shape[1])
    spread = keep * covariances.detach().to(z.dtype) + (1 - keep) * spread
    eye = torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
    volume = torch.logdet(spread + eps * eye).sum() / z.shape[2]
    return weight * F.mse_loss(z[0], z[1]) - volume, now.detach(), spread.detach()


def emp_ssl(
    patches: Float[Tensor, "patches batch dim"], eps: float = 0.2, weight: float = 200.0
) -> Float[Tensor, ""]:
    """-mean over patches of R(Z_p) - weight mean cos(z_p, their mean over patches), where
    R(Z) = 1/2 log det(I + d / (B eps) Z'Z) (EMP-SSL, Tong et al., 2023, as its code has it).

    Args:
        patches: many crops of each sample; normalised here.
        eps: the paper's epsilon squared.
        weight: of the likeness.
    """
    z = unit(patches)
    alike = F.cosine_similarity(z, z.mean(0, keepdim=True), dim=2).mean()
    everyone = gather(z.transpose(0, 1)).transpose(0, 1)
    return -coding_rate(everyone, eps**0.5).mean() - weight * alike


def counting(
    whole: Float[Tensor, "batch dim"],
    tiles: Float[Tensor, "batch tiles dim"],
    other: Float[Tensor, "batch dim"],
    margin: float = 10.0,
) -> Float[Tensor, ""]:
    """Mean over pictures of |c - s|^2 + max(0, margin - |c' - s|^2), s the sum over tiles: there is as much to count
    in a picture as in its parts together (Noroozi et al., ICCV 2017, whose counts are not negative).

    Args:
        whole: c, what the network counts in a picture scaled down to the size of a tile.
        tiles: what it counts in each of the picture's tiles, four in the paper.
        other: c' of another picture, scaled down; without it to count nothing would be perfect.
        margin: M, what another picture differs by at least.
    """
    parts = tiles.sum(1)
    same, strange = ((single(x) - parts).square().sum(1) for x in (whole, other))
    return (same + (margin - strange).clamp(min=0)).mean()
