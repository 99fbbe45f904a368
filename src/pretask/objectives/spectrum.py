"""How many directions features use and how far apart they lie: what shows a collapse."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def singular_values(x: Float[Tensor, "items dim"]) -> Float[Tensor, "rank"]:
    """Largest first, in float64; from the smaller Gram matrix, many times faster than an SVD."""
    x = x.double()
    gram = x @ x.T if x.shape[1] > x.shape[0] else x.T @ x
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)


def rankme(x: Float[Tensor, "items dim"], eps: float = 1e-7) -> float:
    """exp(entropy of the singular values), p_k = s_k / sum(s) + eps (Garrido et al., ICML 2023, eq. 1-2).

    Features are not centred. Between 1 and min(items, dim).
    """
    s = singular_values(x)
    if s.sum() == 0:
        return 1.0
    p = s / s.sum() + eps
    return float((-(p * p.log()).sum()).exp())


def collapse_std(x: Float[Tensor, "items dim"]) -> float:
    """Mean over dimensions of the standard deviation of L2-normalised features; healthy is 1/sqrt(dim)."""
    return float(F.normalize(x.double(), dim=1).std(0).mean())
