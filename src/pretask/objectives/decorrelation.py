"""Features that agree between two views and do not repeat each other."""

import torch
from jaxtyping import Float
from torch import Tensor


def decorrelation(
    a: Float[Tensor, "items dim"], b: Float[Tensor, "items dim"], weight: float = 1e-3
) -> Float[Tensor, ""]:
    """|(z_a - z_b) / N| + weight (|I - z_a'z_a / N| + |I - z_b'z_b / N|), Frobenius norms, not squared.

    z is standardised over the N items with the unbiased standard deviation. CCA-SSG (Zhang et al., NeurIPS
    2021, equation 5) squares the norms; this is the form ParetoGNN gives it.

    Args:
        a: features of one view.
        b: features of the other view, item by item.
        weight: of the two decorrelation terms.
    """
    z_a, z_b = standardised(a), standardised(b)
    count = len(a)
    eye = torch.eye(a.shape[1], dtype=z_a.dtype, device=a.device)
    apart = ((z_a - z_b) / count).norm()
    repeated = (eye - z_a.T @ z_a / count).norm() + (eye - z_b.T @ z_b / count).norm()
    return apart + weight * repeated


def standardised(x: Float[Tensor, "items dim"]) -> Float[Tensor, "items dim"]:
    x = x if x.dtype == torch.float64 else x.float()
    return (x - x.mean(0)) / x.std(0).clamp_min(torch.finfo(x.dtype).tiny)
