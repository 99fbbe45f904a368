"""How well a score tells two kinds of samples apart: AUROC, AUPR, false positives at a recall.

The positives are what the score is large for (in-distribution); the negatives are what it should reject.
"""

from __future__ import annotations

from math import floor
from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.errors import PretaskError
from pretask.evaluation.score import LEVEL

RECALL = 0.95


def placements(
    positive: Float[Tensor, "positives"], negative: Float[Tensor, "negatives"]
) -> tuple[Float[Tensor, "positives"], Float[Tensor, "negatives"]]:
    """For each positive the share of negatives below it, for each negative that of positives above it; ties
    count half. The mean of either is the AUROC.

    Raises:
        PretaskError: a score is not a number, or one side is empty.
    """
    if not len(positive) or not len(negative) or bool(torch.cat([positive, negative]).isnan().any()):
        raise PretaskError("scores to compare must be numbers, and at least one on each side")

    def below(values: Tensor, others: Tensor) -> Tensor:
        others = others.sort().values
        count = [torch.searchsorted(others, values, right=right) for right in (False, True)]
        return (count[0] + count[1]).double() / (2 * len(others))

    return below(positive, negative), 1 - below(negative, positive)


def auroc(positive: Float[Tensor, "positives"], negative: Float[Tensor, "negatives"]) -> float:
    """The probability that a positive scores above a negative, ties counted half."""
    return float(placements(positive, negative)[0].mean())


def auroc_interval(pairs: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """95 % interval of the mean AUROC of the same positives against several sets of negatives
    (DeLong et al., 1988: the variance is that of the placements, over either side's count).

    Args:
        pairs: for every set of negatives its `placements`.
    """
    positive = torch.stack([pair[0] for pair in pairs]).mean(0)
    parts = [positive.var() / len(positive)] if len(positive) > 1 else []
    parts += [pair[1].var() / len(pair[1]) / len(pairs) ** 2 for pair in pairs if len(pair[1]) > 1]
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * float(sum(parts)) ** 0.5
    middle = float(positive.mean())
    return max(middle - half, 0.0), min(middle + half, 1.0)


def threshold_at(positive: Float[Tensor, "positives"], recall: float = RECALL) -> float:
    """The score that floor(recall n) of the n positives reach."""
    return float(positive.sort().values[-floor(recall * len(positive))])


def false_positives(
    positive: Float[Tensor, "positives"], negative: Float[Tensor, "negatives"], recall: float = RECALL
) -> float:
    """Share of negatives at or above `threshold_at`: FPR95 with the default recall."""
    return float((negative >= threshold_at(positive, recall)).double().mean())


def aupr(positive: Float[Tensor, "positives"], negative: Float[Tensor, "negatives"]) -> float:
    """Area under the precision-recall curve by trapezoids. AUPR-out: swap the sides and negate both."""
    from sklearn.metrics import auc, precision_recall_curve

    scores = np.concatenate([positive.numpy(), negative.numpy()])
    rank = np.unique(scores, return_inverse=True)[1]  # infinite scores keep their place
    truth = np.concatenate([np.ones(len(positive)), np.zeros(len(negative))])
    precision, recall, _ = precision_recall_curve(truth, rank)
    return float(auc(recall, precision))


def aupro(heat: Float[Tensor, "samples h w"], truth: Int[Tensor, "samples h w"], limit: float = 0.3) -> float:
    """Area under the curve of per-region overlap against false positives (Bergmann et al., CVPR 2019), up to a share
    `limit` of false positives and divided by it.

    At each threshold the overlap is the mean over abnormal regions (8-connected) of the share of their pixels at or
    above it. Unknown pixels (negative) do not count.

    Raises:
        PretaskError: there is no region, or no normal pixel.
    """
    from scipy.ndimage import label

    weight = torch.zeros(truth.shape, dtype=torch.double)
    regions = 0
    for mask, share in zip(truth > 0, weight, strict=True):
        numbers, count = label(mask.numpy(), structure=np.ones((3, 3)))
        parts = torch.from_numpy(numbers).long()
        sizes = torch.bincount(parts.flatten(), minlength=count + 1).double()
        share += torch.where(parts > 0, 1 / sizes[parts].clamp(min=1), 0.0)
        regions += count
    normal = (truth == 0).double()
    if not regions or not normal.any():
        raise PretaskError("AUPRO needs abnormal regions and normal pixels")
    order = heat.flatten().argsort(descending=True)
    values = heat.flatten()[order]
    overlap = (weight / regions).flatten()[order].cumsum(0)
    wrong = (normal / normal.sum()).flatten()[order].cumsum(0)
    ends = torch.cat([values[1:] != values[:-1], values.new_ones(1, dtype=torch.bool)])  # of equal scores
    x, y = np.append(0, wrong[ends].numpy()), np.append(0, overlap[ends].numpy())
    inside = x <= limit
    x, y = np.append(x[inside], limit), np.append(y[inside], np.interp(limit, x, y))
    return float(np.trapezoid(y, x) / limit)


def mood_threshold(inside: Float[Tensor, "positives"]) -> float:
    """The 5th percentile of known samples' scores, between two of them where it falls there."""
    return -float(np.percentile(-inside.numpy(), 95))


def mood_false_positives(inside: Float[Tensor, "positives"], outside: Float[Tensor, "negatives"]) -> float:
    """MOOD's FPR95: the share of others that lie above `mood_threshold`. MOODv2 takes a known sample's score as
    threshold, and counts who reaches it."""
    return float((outside > mood_threshold(inside)).double().mean())


def average_precision(positive: Float[Tensor, "positives"], negative: Float[Tensor, "negatives"]) -> float:
    """MOOD's AUPR: the mean of the precision over the steps of recall. AUPR-out: swap the sides and negate both."""
    from sklearn.metrics import average_precision_score

    truth = np.concatenate([np.ones(len(positive)), np.zeros(len(negative))])
    order = torch.cat([positive, negative]).unique(return_inverse=True)[
        1
    ]  # all that counts; scores may be infinite
    return float(average_precision_score(truth, order.numpy()))
