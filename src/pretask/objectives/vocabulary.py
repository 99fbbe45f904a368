"""Classification among a few of many classes, as a batch of captions is one (Wen et al., NeurIPS 2024)."""

from __future__ import annotations

from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.objectives.distributed import gather

LARGEST = 100.0  # what cosines are multiplied by at most


def draw_vocabulary(
    label: Int[Tensor, "batch"], weight: Float[Tensor, "classes"], size: int, generator: torch.Generator
) -> Int[Tensor, "chosen"]:
    """The classes of the batch (of all processes: one process' batch is a GPU's in the paper), and others drawn
    without replacement with probability in proportion to their weight until there are `size`; sorted.

    Where the batch has as many classes already, they are all; where fewer others have a weight, those are all.

    Args:
        label: of the batch.
        weight: of each class; those of the batch need none.
        size: n.
        generator: the randomness, the same in all processes.
    """
    appeared = gather(label).unique()
    if len(appeared) >= size:
        return appeared
    chance = weight.to(generator.device).float().index_fill(0, appeared.to(generator.device), 0.0)
    count = min(size - len(appeared), int((chance > 0).sum()))
    if not count:
        return appeared
    more = torch.multinomial(chance, count, replacement=False, generator=generator)
    return torch.cat([appeared, more.to(appeared.device)]).sort().values


def class_weights(
    count: Int[Tensor, "classes"], by: Literal["uniform", "linear", "sqrt"]
) -> Float[Tensor, "classes"]:
    """How likely a class is drawn: all alike, by its frequency, or by the root of that."""
    return count.float() ** {"uniform": 0.0, "linear": 1.0, "sqrt": 0.5}[by]


class CosineHead(nn.Module):
    """exp(s) cos(f, w) for each class, with s learned.

    Args:
        dim: D, width of features.
        classes: rows of W.
        temperature: 1 / exp(s) at first.
        fixed: rows that do not learn; none draws them from a normal of spread D^-1/2, and they learn.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        temperature: float = 0.07,
        fixed: Float[Tensor, "classes dim"] | None = None,
    ):
        super().__init__()
        start = torch.randn(classes, dim) * dim**-0.5 if fixed is None else fixed.detach().clone()
        self.weight = nn.Parameter(start, requires_grad=fixed is None)
        self.log_scale = nn.Parameter(torch.tensor(log(1 / temperature)))

    def forward(
        self, features: Float[Tensor, "batch dim"], among: Int[Tensor, "chosen"] | None = None
    ) -> Float[Tensor, "batch chosen"]:
        """Logits of all classes, or of those `among` them."""
        rows = self.weight if among is None else self.weight[among]
        return self.log_scale.exp() * F.normalize(features, dim=1) @ F.normalize(rows, dim=1).T

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep s in [0, ln 100]: called after each step."""
        self.log_scale.clamp_(0, log(LARGEST))
