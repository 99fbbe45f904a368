"""How far what was rebuilt is from the real thing."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

EPS = 1e-6  # inside the root, on pixels that were normalised for the encoder (MAE)


def patchify(
    image: Float[Tensor, "batch chans height width"], patch: int
) -> Float[Tensor, "batch patches values"]:
    """Cut into patches, row by row; values lie as (row, column, channel), the channel fastest."""
    batch, chans, height, width = image.shape
    cells = image.reshape(batch, chans, height // patch, patch, width // patch, patch)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * chans)


def unpatchify(
    patches: Float[Tensor, "batch patches values"], patch: int, grid: tuple[int, int]
) -> Float[Tensor, "batch chans height width"]:
    """The inverse of `patchify`; `grid` is the number of patches per column and row."""
    rows, columns = grid
    cells = patches.reshape(len(patches), rows, columns, patch, patch, -1)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, rows * patch, columns * patch)


def greyed(
    view: Float[Tensor, "batch chans h w"],
    hidden: Bool[Tensor, "batch patches"],
    size: int,
    grid: tuple[int, int],
) -> Float[Tensor, "batch chans h w"]:
    """Pictures in [0, 1] with grey where patches of this size are covered, as a person is shown them."""
    return painted(view, hidden, view.new_full((1, 1, size**2 * view.shape[1]), 0.5), size, grid)


def painted(
    image: Float[Tensor, "batch chans height width"],
    where: Bool[Tensor, "batch patches"],
    filling: Float[Tensor, "#batch #patches values"],
    patch: int,
    grid: tuple[int, int],
) -> Float[Tensor, "batch chans height width"]:
    """A picture in [0, 1] of which some patches are replaced."""
    patches = patchify(image, patch)
    return unpatchify(torch.where(where.unsqueeze(2), filling.to(patches), patches), patch, grid).clamp(0, 1)


class Standardised(NamedTuple):
    """Patches without their mean and contrast, and what was taken away."""

    values: Float[Tensor, "*patches values"]
    mean: Float[Tensor, "*patches 1"]
    std: Float[Tensor, "*patches 1"]


def standardise(patches: Float[Tensor, "*patches values"]) -> Standardised:
    """(t - mean) / sqrt(var + 1e-6) within each patch, with the unbiased variance (MAE's norm_pix)."""
    mean = patches.mean(-1, keepdim=True)
    centred = patches - mean
    variance = centred.square().sum(-1, keepdim=True) / (patches.shape[-1] - 1)
    std = (variance + EPS).sqrt()
    return Standardised(centred / std, mean, std)


def scaled_cosine_error(
    rebuilt: Float[Tensor, "items values"], truth: Float[Tensor, "items values"], power: float = 3.0
) -> Float[Tensor, ""]:
    """Mean of (1 - cosine)^power: what is nearly right hardly counts (GraphMAE, Hou et al., KDD 2022,
    equation 2)."""
    if rebuilt.dtype != torch.float64:
        rebuilt, truth = rebuilt.float(), truth.float()
    return (1 - F.cosine_similarity(rebuilt, truth, dim=-1, eps=1e-12)).pow(power).mean()
