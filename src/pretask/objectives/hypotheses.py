"""Several answers to one question: the nearest counts, and they shall not all be the same."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def nearest(
    candidates: Float[Tensor, "batch count dim"], truth: Float[Tensor, "batch dim"]
) -> tuple[Float[Tensor, "batch"], Int[Tensor, "batch"]]:
    """Distance of the nearest candidate to the truth, and which it is: winner takes all."""
    found = (candidates - truth[:, None]).norm(dim=2).min(dim=1)
    return found.values, found.indices


def repulsion(candidates: Float[Tensor, "batch count dim"], scale: float = 1.0) -> Float[Tensor, ""]:
    """Mean over pairs of exp(-|a - b|^2 / scale): 1 if all are one, 0 if they are far apart (PPT, L_div)."""
    first, second = torch.triu_indices(candidates.shape[1], candidates.shape[1], 1, device=candidates.device)
    square = (candidates[:, first] - candidates[:, second]).square().sum(2)
    return (-square / scale).exp().mean()
