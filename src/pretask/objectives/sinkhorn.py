"""Codes that use all prototypes alike: Sinkhorn-Knopp (SwAV, Caron et al., NeurIPS 2020, equation 3)."""

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.objectives.distributed import mean, world_size


@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "batch prototypes"], epsilon: float = 0.05, iterations: int = 3
) -> Float[Tensor, "batch prototypes"]:
    """Soft assignments: rows sum to 1, and over the batch of all processes columns are near to equal.

    exp(scores / epsilon), then in turn each column (a prototype) is divided by its sum and each row by its own.

    Args:
        scores: similarities of samples and prototypes; no gradient comes back.
        epsilon: how soft; small numbers give hard assignments.
        iterations: of both divisions.
    """
    scores = scores if scores.dtype == torch.float64 else scores.float()
    code = (scores / epsilon).exp()
    world = world_size()
    total, prototypes = mean(code.sum()) * world, code.shape[1]
    code = code / total
    samples = len(code) * world
    for _ in range(iterations):
        code = code / (mean(code.sum(0)) * world) / prototypes
        code = code / code.sum(1, keepdim=True) / samples
    return code * samples
