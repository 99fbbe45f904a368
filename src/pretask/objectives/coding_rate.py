"""How many bits features need: at large, and within the subspaces of an attention (Yu et al., NeurIPS 2023)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def coding_rate(tokens: Float[Tensor, "batch tokens dim"], eps: float = 0.5) -> Float[Tensor, "batch"]:
    """R(Z) = 1/2 log det(I + d / (N eps^2) Z' Z), tokens as rows."""
    count, dim = tokens.shape[-2:]
    gram = tokens.transpose(-2, -1) @ tokens
    eye = torch.eye(dim, dtype=tokens.dtype, device=tokens.device)
    return 0.5 * torch.logdet(eye + dim / (count * eps**2) * gram)


def subspace_rate(
    projected: Float[Tensor, "batch heads tokens width"], eps: float = 0.01, normalise: bool = True
) -> Float[Tensor, ""]:
    """R^c = 1/2 sum over heads of log det(I + p / (N eps) W W'), the mean over samples.

    Args:
        projected: W, the tokens in each subspace.
        eps: precision; the official code does not square it. For the paper's R^c it is the paper's eps squared.
        normalise: make each token's length 1 first, as the official code does; the paper's R^c does not.
    """
    w = F.normalize(projected, dim=-1) if normalise else projected
    count, width = w.shape[-2:]
    # det(I + a W W') = det(I + a W' W): the smaller of the two
    gram = w @ w.transpose(-2, -1) if count < width else w.transpose(-2, -1) @ w
    eye = torch.eye(gram.shape[-1], dtype=w.dtype, device=w.device)
    return 0.5 * torch.logdet(eye + width / (count * eps) * gram).sum(1).mean()
