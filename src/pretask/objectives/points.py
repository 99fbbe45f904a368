"""How far one cloud is from another, and one field of normals from another."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pretask.data.geometry import at, distances

NormalLoss = Literal["cosine", "abs_cosine", "mse"]
LENGTH = 0.1  # weight of the predicted normals' length (MaskFeat3D)


def to_nearest(
    a: Float[Tensor, "batch n 3"], b: Float[Tensor, "batch m 3"]
) -> tuple[Float[Tensor, "batch n 3"], Float[Tensor, "batch m 3"]]:
    """From each point of a cloud to the nearest of the other, both ways; gradients reach both clouds."""
    with torch.no_grad():
        apart = distances(a, b)
        there, back = apart.argmin(2), apart.argmin(1)
    return at(b, there) - a, at(a, back) - b


def chamfer_l2(a: Float[Tensor, "batch n 3"], b: Float[Tensor, "batch m 3"]) -> Float[Tensor, ""]:
    """Mean squared distance to the nearest point of the other cloud, both directions added (Point-MAE, eq. 5;
    Fan et al., CVPR 2017)."""
    there, back = to_nearest(a, b)
    return there.square().sum(-1).mean() + back.square().sum(-1).mean()


def chamfer_l1(a: Float[Tensor, "batch n 3"], b: Float[Tensor, "batch m 3"]) -> Float[Tensor, ""]:
    """Mean distance to the nearest point of the other cloud, averaged over both directions."""
    there, back = to_nearest(a, b)
    return (there.norm(dim=-1).mean() + back.norm(dim=-1).mean()) / 2


CHAMFER = {"l1": chamfer_l1, "l2": chamfer_l2}


def agree(
    normals: Float[Tensor, "*points 3"], predicted: Float[Tensor, "*points 3"]
) -> Float[Tensor, "*points 3"]:
    """Normals of unknown sign, turned to the side the prediction lies on."""
    return torch.where((normals * predicted.detach()).sum(-1, keepdim=True) < 0, -normals, normals)


def normal_loss(
    predicted: Float[Tensor, "*points 3"], normals: Float[Tensor, "*points 3"], kind: NormalLoss = "cosine"
) -> Float[Tensor, ""]:
    """How far predicted vectors are from unit normals (MaskFeat3D, section 3.3).

    `cosine`: mean(1 - cos) + 0.1 mean((|predicted| - 1)^2); `abs_cosine`: the same with |cos|, for normals of
    unknown sign; `mse`: the mean over all coordinates, and nothing about the length.
    """
    predicted = predicted.to(normals.dtype)  # lengths and angles are not for half precision
    if kind == "mse":
        return F.mse_loss(predicted, normals)
    cosine = F.cosine_similarity(predicted, normals, dim=-1)
    if kind == "abs_cosine":
        cosine = cosine.abs()
    return (1 - cosine).mean() + LENGTH * (predicted.norm(dim=-1) - 1).square().mean()
