"""How large a difference is, how sure that is, and what follows for a claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.evaluation.score import LEVEL, resampled_means, seed_interval

Verdict = Literal["holds", "does not hold at this scale", "inconclusive"]
DRAWS = 10_000

RULE = (
    "The effect is the difference between two arms, averaged over seeds. Its 95 % interval joins two doubts: "
    f"test items, resampled in pairs ({DRAWS:,} bootstrap draws), and seeds, by Student's t. A comparison "
    "holds if the interval lies wholly on the claimed side of its margin, does not hold at this scale if it "
    "lies wholly on the other side, and is inconclusive otherwise. A claim holds if all of its comparisons "
    "hold; it does not hold at this scale if one of them does not; else it is inconclusive."
)


@dataclass(frozen=True)
class Effect:
    """A difference with its 95 % interval; without an interval where it can only be guessed."""

    value: float
    low: float | None
    high: float | None


def effect(
    differences: Sequence[float] | Float[Tensor, "seeds"], items: Float[Tensor, "seeds items"] | None = None
) -> Effect:
    """The mean over seeds with its interval.

    The test items are the same for every seed, so their doubt does not shrink with more seeds and is not
    seen in the spread over seeds: the two add up. A single seed leaves only the first, none of both no
    interval.

    Args:
        differences: of the metric, a value a seed.
        items: the same for each test item, where arms share them.
    """
    values = torch.as_tensor(differences, dtype=torch.float64)
    mean = float(values.mean())
    if items is None:
        return Effect(mean, *seed_interval(values.tolist()))
    draws = resampled_means(items.double().mean(0), DRAWS)
    if len(values) > 1:
        draws = draws + seed_deviations(len(draws), len(values)) * values.std() / len(values) ** 0.5
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.quantile(draws, ends).tolist()
    return Effect(mean, low, high)


def seed_deviations(draws: int, seeds: int) -> Float[Tensor, "draws"]:
    """Student's t with seeds - 1 degrees of freedom at evenly spaced quantiles, shuffled."""
    from scipy.stats import t

    quantiles = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    order = torch.randperm(draws, generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(t.ppf(quantiles.numpy(), seeds - 1))[order]


def judge(found: Effect, claimed: str, margin: float = 0.0) -> Verdict:
    """What the interval says of a comparison."""
    if found.low is None or found.high is None:
        return "inconclusive"
    above, below = found.low > margin, found.high < margin
    yes, no = (above, below) if claimed == "higher" else (below, above)
    return "holds" if yes else "does not hold at this scale" if no else "inconclusive"


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """What the comparisons together say of the claim."""
    if all(verdict == "holds" for verdict in verdicts):
        return "holds"
    failed: Verdict = "does not hold at this scale"
    return failed if failed in verdicts else "inconclusive"
