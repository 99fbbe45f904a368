"""Learning classes of which few are common: margins, weights and scores that LoRot (Moon et al., ECCV 2022) takes
over.

LDAM and its deferred weights are those of Cao et al. (NeurIPS 2019), the focal loss Lin et al.'s (ICCV 2017) in their
form, weights by effective numbers Cui et al.'s (CVPR 2019).
"""

from __future__ import annotations

from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.objectives.contrastive import single


class NormedLinear(nn.Module):
    """The cosine of the features with a row of each class, times nothing.

    Args:
        dim: width of the features.
        classes: rows.
    """

    def __init__(self, dim: int, classes: int):
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.rand(classes, dim) * 2 - 1, dim=1))

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        return F.normalize(x, dim=1) @ F.normalize(self.weight, dim=1).T


def ldam(
    cosines: Float[Tensor, "batch classes"],
    label: Int[Tensor, "batch"],
    count: Int[Tensor, "classes"],
    weight: Float[Tensor, "classes"] | None = None,
    largest: float = 0.5,
    scale: float = 30.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of scale (cos - margin of the true class), a weighted mean; margins are n^(-1/4), the largest of
    them `largest`.

    Args:
        cosines: of `NormedLinear`.
        label: true classes.
        count: n, how many samples each class has; of a class without any, 1.
        weight: of each class.
        largest: margin of the rarest class.
        scale: of the logits.
    """
    cosines = single(cosines)
    margin = count.clamp(min=1).to(cosines.dtype) ** -0.25
    margin = margin * (largest / margin.max())
    less = margin[label, None] * F.one_hot(label, len(count))
    weight = None if weight is None else weight.to(cosines)
    return F.cross_entropy(scale * (cosines - less), label, weight=weight)


def focal(
    logits: Float[Tensor, "batch classes"],
    label: Int[Tensor, "batch"],
    weight: Float[Tensor, "classes"] | None = None,
    gamma: float = 1.0,
) -> Float[Tensor, ""]:
    """The plain mean of (1 - p)^gamma s, s the weighted cross-entropy of a sample and p = exp(-s).

    Args:
        logits: of all classes.
        label: true classes.
        weight: of each class.
        gamma: how much less a sample counts that is known; 0 is the cross-entropy.
    """
    logits = single(logits)
    weight = None if weight is None else weight.to(logits)
    surprise = F.cross_entropy(logits, label, weight=weight, reduction="none")
    return ((1 - (-surprise).exp()) ** gamma * surprise).mean()


def effective_weights(count: Int[Tensor, "classes"], beta: float = 0.9999) -> Float[Tensor, "classes"]:
    """(1 - beta) / (1 - beta^n), together as many as classes; a class without samples has 0.

    Args:
        count: n of each class.
        beta: 0 weighs all alike, 1 in the limit by 1 / n.
    """
    present = count > 0
    weight = (1 - beta) / (1 - beta ** count.clamp(min=1).double()) * present
    return (weight / weight.sum() * len(count)).float()


def long_tail_counts(most: int, classes: int, factor: float) -> list[int]:
    """Samples that each class keeps: int(most factor^(j / (C - 1))), from `most` down to a share `factor` of it.

    Args:
        most: samples of the commonest class, the first.
        classes: C, at least 2.
        factor: the rarest class' share.
    """
    return [int(most * factor ** (place / (classes - 1.0))) for place in range(classes)]


def divergence_from_uniform(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch"]:
    """KL(U || softmax), in bits: the higher, the more a sample looks like the data the classifier knows."""
    return -(logits.log_softmax(1).mean(1) + log(logits.shape[1])) / log(2)
