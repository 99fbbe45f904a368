"""Clusters of vectors of length 1, found by the angle between them (spherical k-means)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.objectives.chunks import PRODUCT, row_parts


@torch.no_grad()
def nearest(x: Float[Tensor, "items dim"], centres: Float[Tensor, "clusters dim"]) -> Int[Tensor, "items"]:
    """The centre with the largest inner product, a few rows at a time."""
    parts = row_parts(len(x), len(centres), x.device, PRODUCT)
    return torch.cat([(x[part] @ centres.T).argmax(1) for part in parts])


@torch.no_grad()
def spherical_kmeans(
    x: Float[Tensor, "items dim"], first: Float[Tensor, "clusters dim"], steps: int = 10
) -> tuple[Float[Tensor, "clusters dim"], Int[Tensor, "items"]]:
    """Centres of length 1, and which of them each vector belongs to.

    In turn each vector goes to its nearest centre, and each centre to the normalised mean of its vectors; one without
    any stays where it is.

    Args:
        x: vectors of length 1.
        first: centres to begin with.
        steps: of both.
    """
    centres = first.clone()
    for _ in range(steps):
        own = nearest(x, centres)
        total = torch.zeros_like(centres).index_add_(0, own, x)
        taken = torch.bincount(own, minlength=len(centres)) > 0
        centres = torch.where(taken[:, None], F.normalize(total, dim=1), centres)
    return centres, nearest(x, centres)
