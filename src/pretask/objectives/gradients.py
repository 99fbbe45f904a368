"""What happens to gradients between the backward pass and the optimiser's step."""

from collections.abc import Iterable

import torch
from torch import nn


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Scale every gradient whose own norm exceeds `limit` down to it (DINO's clipping, not that of the
    joint norm)."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if grads:
        norms = torch._foreach_norm(grads)
        torch._foreach_mul_(grads, [(limit / (norm + 1e-6)).clamp_(max=1) for norm in norms])
