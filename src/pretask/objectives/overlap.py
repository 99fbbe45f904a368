"""How far a crop reaches into others, told from likeness: VoCo's losses (Wu et al., CVPR 2024).

Similarities are clipped cosines, compared with shares directly: there is no temperature and no softmax.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

EPS = 1e-6


def likeness(
    crops: Float[Tensor, "*batch crops dim"], bases: Float[Tensor, "*batch bases dim"]
) -> Float[Tensor, "*batch crops bases"]:
    """relu(cos) of each crop and each base of the same volume."""
    return F.cosine_similarity(crops.unsqueeze(-2), bases.unsqueeze(-3), dim=-1).relu()


def share_losses(
    told: Float[Tensor, "*batch crops bases"], share: Float[Tensor, "*batch crops bases"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Of each volume, sum -y log(1 - |y - s| + eps) / (sum y + eps) for shares y and what is told, s; and the mean
    of s^2 where y is 0."""
    gap = (share - told).abs()
    there = -(share * torch.log(1 - gap + EPS)).sum((-2, -1)) / (share.sum((-2, -1)) + EPS)
    none = (share == 0).to(told.dtype)
    return there, (none * told.square()).sum((-2, -1)) / (none.sum((-2, -1)) + EPS)


def repulsion(bases: Float[Tensor, "*batch bases dim"]) -> Float[Tensor, "*batch"]:
    """Of each volume, the mean of relu(cos(b_i, sg(b_j)))^2 over the pairs i < j of its bases; 0 for a single one."""
    alike = likeness(bases, bases.detach()).square()
    pairs = bases.shape[-2] * (bases.shape[-2] - 1) / 2
    return alike.triu(1).sum((-2, -1)) / max(pairs, 1)
