"""What a numerical study finds: rows of a table, and curves to draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Check(NamedTuple):
    """One thing that was computed.

    Args:
        theorem: which statement it belongs to.
        case: for which world, or at which point of a sweep.
        says: what must come out.
        measured: what came out, by name.
        holds: whether it is what must; in words where it could not be computed.
    """

    theorem: str
    case: str
    says: str
    measured: dict[str, Any]
    holds: bool | str

    def row(self) -> dict[str, Any]:
        """Plain data."""
        return self._asdict()


class Sweep(NamedTuple):
    """Curves over one axis.

    Args:
        title: what is drawn.
        across: name of the horizontal axis.
        up: name of the vertical axis.
        x: where it was measured; on a logarithmic axis.
        curves: by name a value for each x.
        marks: named vertical lines.
        log: whether the vertical axis is logarithmic.
    """

    title: str
    across: str
    up: str
    x: Sequence[float]
    curves: dict[str, list[float]]
    marks: dict[str, float] = {}
    log: bool = False


def averaged(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each value over repetitions."""
    return {name: sum(run[name] for run in runs) / len(runs) for name in runs[0]}
