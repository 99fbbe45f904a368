"""What each part of a run's schedule did: the loss and the features over warm-up, high rate and decay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pretask.errors import UsageError
from pretask.evaluation.score import Score

if TYPE_CHECKING:
    from pretask.data import Dataset
    from pretask.run import Run

WATCHED = {"loss": "loss/total", "rank": "watch/rankme", "std": "watch/feature_std"}
HIGH = 0.5  # of the peak rate: above it lies the part between warm-up and decay


def phases(rates: Sequence[tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """First and last step of each phase of a rate given as (step, rate): `warm-up` ends where the rate first comes to
    its peak, `high` where it last lies above half of it, `decay` at the end. A phase without length is left out."""
    peak = max(rate for _, rate in rates)
    start, end = rates[0][0], rates[-1][0]
    top = next(step for step, rate in rates if rate >= peak * (1 - 1e-6))
    half = max(step for step, rate in rates if rate >= HIGH * peak)
    cuts = {"warm-up": (start, top), "high": (top, half), "decay": (half, end)}
    return {name: (first, last) for name, (first, last) in cuts.items() if last > first}


def at(curve: Sequence[tuple[float, float]], step: float) -> float:
    """The value that was written nearest to a step; of two as near the earlier."""
    return min(curve, key=lambda point: abs(point[0] - step))[1]


def changes(rows: Sequence[dict[str, float]], column: str) -> dict[str, tuple[float, float]]:
    """What a column was at the first and last step of each phase; nothing where it was not written twice."""
    rate = next((name for name in rows[0] if name == "lr" or name.startswith("lr/")), None)
    curve = [(row["step"], row[column]) for row in rows if column in row]
    if rate is None or len(curve) < 2:
        return {}
    found = phases([(row["step"], row[rate]) for row in rows if rate in row])
    return {name: (at(curve, first), at(curve, last)) for name, (first, last) in found.items()}


def schedule(
    run: Run,
    train_set: Dataset,
    test_set: Dataset,
    *,
    seed: int = 0,
    device: Any = None,
) -> list[Score]:
    """How loss, RankMe and spread of the features changed in each phase of the rate, from the run's own log.

    Args:
        run: what was trained.
        train_set: not looked at, like the rest.
        test_set: likewise.
        seed: likewise.
        device: likewise.

    Raises:
        UsageError: the run kept no log.
    """
    rows = run.metrics
    if not rows:
        raise UsageError(f"'{run.folder}' has no metrics.csv: nothing is known of its training")
    return [
        Score("schedule", f"{name}@{phase}", last - first, n=len(rows), detail={"from": first, "to": last})
        for name, column in WATCHED.items()
        for phase, (first, last) in changes(rows, column).items()
    ]
