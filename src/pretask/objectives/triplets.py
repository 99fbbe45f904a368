"""Triplets whose negative is just farther away than the positive."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.objectives.contrastive import own_places, single
from pretask.objectives.distributed import gather


def semi_hard_triplets(
    embedding: Float[Tensor, "batch dim"], group: Int[Tensor, "batch"], margin: float
) -> Float[Tensor, ""]:
    """Mean over pairs of an anchor and a positive of max(0, d_ap - d_an + margin) with squared distances: the
    negative is the closest one that is farther away than the positive, else the farthest of all (FaceNet, Schroff
    et al., CVPR 2015, as TensorFlow has it).

    Args:
        embedding: a row a sample; those of all processes are compared.
        group: which rows belong together.
        margin: of squared distances.
    """
    own, place = single(embedding), own_places(len(embedding), embedding.device)
    everyone, groups = gather(own), gather(group)
    distance = (own.square().sum(1, keepdim=True) + everyone.square().sum(1) - 2 * own @ everyone.T).clamp(
        min=0
    )
    same = group[:, None] == groups
    positive = same.scatter(1, place[:, None], False)
    # every anchor's negatives in order: the first that is farther than a positive is found by halving
    negatives, order = distance.masked_fill(same, torch.inf).sort(dim=1)
    rank = torch.searchsorted(negatives.detach(), distance.detach(), right=True)
    count = (~same).sum(1, keepdim=True)
    farther = negatives.gather(1, rank.clamp(max=negatives.shape[1] - 1))
    farthest = negatives.gather(1, (count - 1).clamp(min=0)).expand_as(farther)
    negative = torch.where(rank < count, farther, farthest)
    losses = (distance - negative + margin).clamp(min=0)
    return torch.where(positive, losses, 0).sum() / positive.sum().clamp(min=1)
