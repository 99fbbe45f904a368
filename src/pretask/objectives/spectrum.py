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


def stable_rank(x: Float[Tensor, "items dim"]) -> float:
    """|x|_F^2 / |x|_2^2: how many directions there would be if all were as strong as the strongest."""
    s = singular_values(x)
    return float(s.square().sum() / s[0].square()) if len(s) and s[0] > 0 else 1.0


def directions(x: Float[Tensor, "items dim"], share: float) -> int:
    """The fewest directions that hold this share of the features' variance."""
    variance = singular_values(x - x.mean(0)).square()
    total = variance.sum()
    if total <= 0:
        return 0
    return int((variance.cumsum(0) < share * total - 1e-12 * total).sum()) + 1


def cka(x: Float[Tensor, "items dim"], y: Float[Tensor, "items other"]) -> float:
    """Linear centred kernel alignment of two layers' features of the same items (Kornblith et al., ICML 2019):
    |Y'X|_F^2 / (|X'X|_F |Y'Y|_F); 1 where they agree up to a rotation and a scale."""
    x, y = (part.double() - part.double().mean(0) for part in (x, y))
    both, own, other = (y.T @ x).norm() ** 2, (x.T @ x).norm(), (y.T @ y).norm()
    return float(both / (own * other)) if own > 0 and other > 0 else 0.0
