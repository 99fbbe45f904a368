"""Losses of clusters and visual words that the surveys name and no method here trains by (see `cookbook`)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.objectives.contrastive import log_sum_exp, single, unit
from pretask.objectives.distillation import soft_cross_entropy
from pretask.objectives.distributed import gather, mean, world_size
from pretask.objectives.sinkhorn import sinkhorn

CHECK = 10  # rounds of Sinkhorn-Knopp between two looks at whether it goes on


@torch.no_grad()
def sela(
    log_probability: Float[Tensor, "items labels"],
    sharpness: float = 25.0,
    tolerance: float = 0.1,
    rounds: int = 1000,
) -> Float[Tensor, "items labels"]:
    """Labels for a data set, each given to equally many items: the Q that makes <Q, -log P> + KL(Q || even) /
    sharpness least while its rows have equal sums and its columns too (SeLa, Asano et al., ICLR 2020).

    It is Q = diag(u) P^sharpness diag(v), here in float64 and with rows that sum to 1. An item's label is the largest
    of its row, and the network learns labels by cross-entropy until they are assigned anew.

    Args:
        log_probability: log P of all items, what the network says of labels now; of a process's share of the items
            where there are several.
        sharpness: lambda; the larger, the nearer to hard labels.
        tolerance: a round in which the rows' sums change by less, all in all, is the last; looked at every 10.
        rounds: the most there are.
    """
    scores = log_probability.double() * sharpness
    # the first thing a round does is to divide columns by their sums: without their maxima none of them is 0 / 0
    scores = scores - gather(scores.amax(0, keepdim=True)).amax(0)
    for _ in range(0, rounds, CHECK):
        code = sinkhorn(scores, 1.0, CHECK)
        rows = (code / (mean(code.mean(0)) * code.shape[1])).sum(1)
        if mean((rows - 1).abs().sum()) * world_size() <= tolerance:
            break
        scores = code.log()
    return code


@torch.no_grad()
def concentrations(
    features: Float[Tensor, "items dim"],
    prototypes: Float[Tensor, "prototypes dim"],
    own: Int[Tensor, "items"],
    temperature: float = 0.2,
    smooth: float = 10.0,
) -> Float[Tensor, "prototypes"]:
    """phi_c = sum over the Z items of a cluster of |v - c| / (Z log(Z + smooth)), how wide it is (PCL, Li et al.,
    ICLR 2021, equation 12).

    As in the paper's code, clusters of fewer than two items are as wide as the widest, what is below the 10th or
    above the 90th percentile becomes that, and the mean over clusters is made the temperature.

    Args:
        features: v of the whole data set, of length 1, by the momentum encoder.
        prototypes: c, means of clusters (the paper's code measures from them before they are normalised).
        own: the cluster of each item.
        temperature: tau.
        smooth: alpha, so that small clusters do not count as wide.
    """
    features, prototypes = single(features), single(prototypes)
    apart = (features - prototypes[own]).norm(dim=1)
    count = torch.bincount(own, minlength=len(prototypes)).to(apart.dtype)
    total = torch.zeros_like(count).index_add_(0, own, apart)
    wide = total / (count.clamp(min=1) * (count + smooth).log())
    wide = torch.where(count > 1, wide, torch.where(count > 1, wide, 0.0).max())
    low, high = wide.quantile(wide.new_tensor([0.1, 0.9]))
    wide = wide.clamp(low, high)
    return temperature * wide / wide.mean()


def prototype_nce(
    query: Float[Tensor, "batch dim"],
    own: Int[Tensor, "batch"],
    prototypes: Float[Tensor, "prototypes dim"],
    concentration: Float[Tensor, "prototypes"],
    others: Int[Tensor, "negatives"],
) -> Float[Tensor, ""]:
    """-log exp(q.c_s / phi_s) / (exp(q.c_s / phi_s) + sum_j exp(q.c_j / phi_j)), s a sample's cluster and j over
    others, mean over the batch (PCL, Li et al., ICLR 2021, equation 11).

    The paper adds MoCo's `info_nce` and takes the mean of this over several clusterings. Its code has the clusters of
    the batch's other samples in the sum as well, as often as they occur.

    Args:
        query: what the encoder says of a view; normalised here.
        own: the cluster of each sample.
        prototypes: means of clusters; normalised here, they learn nothing.
        concentration: phi, by `concentrations`.
        others: clusters drawn from those that no sample of the batch belongs to.
    """
    query = unit(query)
    scaled = unit(prototypes.detach()) / concentration.detach()[:, None]
    scaled = scaled.to(query.dtype)
    agreement = (query * scaled[own]).sum(1)
    return log_sum_exp(query, scaled[others], extra=agreement) - agreement.mean()


@torch.no_grad()
def bag_of_words(
    features: Float[Tensor, "batch places dim"],
    words: Float[Tensor, "words dim"],
    distance: Float[Tensor, ""],
    sharpness: float = 15.0,
    keep: float = 0.99,
) -> tuple[Float[Tensor, "batch words"], Float[Tensor, ""]]:
    """Which visual words a picture has: of softmax over words of -|x - word|^2 / delta the largest over places,
    divided by the sum over words; and the distance for the next step (OBoW, Gidaris et al., CVPR 2021).

    delta is d / sharpness, with d = keep d' + (1 - keep) the mean squared distance of a place to its nearest word.

    Args:
        features: the teacher's features of places as they are, without the map's border in the paper's code.
        words: the vocabulary, before this batch enters it: a `Queue` that does not normalise, of one feature a
            picture, of a random place of the map after a mean over 3 x 3.
        distance: d', what the step before gave; 0.5 at first.
        sharpness: how hard places are assigned.
        keep: share of d' in d.
    """
    features, words = single(features), single(words)
    square = words.square().sum(1) - 2 * features @ words.T + features.square().sum(2, keepdim=True)
    now = keep * distance.to(square.dtype) + (1 - keep) * mean(square.amin(2).mean())
    found = (-square * (sharpness / now)).softmax(2).amax(1)
    return found / found.sum(1, keepdim=True), now


def obow(
    features: Float[Tensor, "views*batch width"],
    bag: Float[Tensor, "batch words"],
    words: Float[Tensor, "words dim"],
    generator: nn.Module,
    kappa: float = 8.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of a picture's bag with softmax over words of kappa f.G(word), G of length 1 (OBoW, Gidaris et
    al., CVPR 2021). Words change with every step: their weights are made from them, not kept.

    Args:
        features: f, what the student says of crops, as it is; each view's batch together.
        bag: the teacher's word of the whole pictures, by `bag_of_words`; it learns nothing.
        words: the vocabulary that the bags were made with; normalised here.
        generator: G, `mlp(dim, 2 * width, width, batch_norm=True)` in the paper; it learns.
        kappa: how sharp answers are.
    """
    said = single(features) @ unit(generator(unit(words.detach()))).T
    each = said.new_full((len(said),), 1 / len(said))
    truth = bag.detach().to(said.dtype).repeat(len(features) // len(bag), 1)
    return soft_cross_entropy(said, truth, each, 1 / kappa)
