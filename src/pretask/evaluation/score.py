"""A measured number with its 95 % interval."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.errors import UsageError

Labelled = tuple[Float[Tensor, "items dim"], Int[Tensor, "items"] | None]
"""Features and labels; no labels where there are none."""

Known = tuple[Float[Tensor, "items dim"], Int[Tensor, "items"]]
"""Features and labels, where every label is known."""

LEVEL = 0.95
CHUNK = 2_000_000  # resampled items held at once


@dataclass(frozen=True)
class Score:
    """What a protocol found.

    Args:
        protocol: its name in `PROTOCOLS`.
        metric: what was counted (`accuracy`, `accuracy@5`, `rank` ...).
        value: the number.
        low: lower end of the 95 % interval; None where none can be given.
        high: upper end.
        n: items (or repetitions) the number rests on.
        detail: plain data on how it came about.
        items: the value of each test item, for paired comparisons; not written to files.
    """

    protocol: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int = 0
    detail: dict[str, Any] = field(default_factory=dict)
    items: Tensor | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the items are left out."""
        names = ("protocol", "metric", "value", "low", "high", "n", "detail")
        return {name: getattr(self, name) for name in names}


def resampled_means(items: Float[Tensor, "n"], draws: int = 1000, seed: int = 0) -> Float[Tensor, "draws"]:
    """Means of `draws` bootstrap samples of the items (Efron, 1979)."""
    generator = torch.Generator().manual_seed(seed)
    items, n = items.double().cpu(), len(items)
    rows = max(1, CHUNK // n)
    means = [
        items[torch.randint(n, (min(rows, draws - start), n), generator=generator)].mean(1)
        for start in range(0, draws, rows)
    ]
    return torch.cat(means)


def bootstrap_interval(items: Float[Tensor, "n"], draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean over test items."""
    means = resampled_means(items, draws, seed)
    low, high = torch.quantile(means, torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=means.dtype))
    return float(low), float(high)


def seed_interval(values: list[float]) -> tuple[float | None, float | None]:
    """95 % Student interval of the mean over repetitions; no interval for a single one."""
    from scipy.stats import t

    if len(values) < 2:
        return None, None
    mean, error = np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * error)
    return float(mean) - half, float(mean) + half


def accuracy_score(
    protocol: str, metric: str, predicted: Tensor, truth: Tensor, seed: int = 0, **detail: Any
) -> Score:
    """Share of right answers, with a bootstrap interval over the test items.

    `detail` also gets the mean over classes of the share right in a class (`balanced`) and what always
    answering the test set's commonest class would score (`chance`).
    """
    right = (predicted == truth).double().cpu()
    truth = truth.cpu()
    count = torch.bincount(truth)
    by_class = torch.bincount(truth, weights=right)[count > 0] / count[count > 0]
    low, high = bootstrap_interval(right, seed=seed)
    detail |= {"balanced": float(by_class.mean()), "chance": float(count.max() / len(truth))}
    return Score(protocol, metric, float(right.mean()), low, high, len(truth), detail, right)


def known_labels(part: Labelled) -> Known:
    """Without the samples whose label is unknown (negative).

    Raises:
        UsageError: there are no labels at all.
    """
    x, y = part
    if y is None:
        raise UsageError("these data have no labels")
    if bool((y >= 0).all()):
        return x, y
    return (x[y >= 0], y[y >= 0])
