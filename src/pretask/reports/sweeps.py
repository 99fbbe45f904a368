"""The curves of a study, as one picture: bounds dashed, what was measured as lines with points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from pretask.errors import UsageError
from pretask.studies.theory.check import Sweep

SUFFIXES = (".png", ".svg", ".pdf")
ACROSS, WIDTH, HEIGHT = 2, 5.6, 3.6  # panels a row, and the inches of each


def check_path(path: Path) -> None:
    """
    Raises:
        UsageError: the file's name says no format that can be drawn.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot must end in {', '.join(SUFFIXES)}, not '{path.name}'")


def draw(sweeps: Sequence[Sweep], path: str | Path) -> Path:
    """Draw every sweep as a panel.

    Raises:
        UsageError: the file's name says no format that can be drawn.
    """
    path = Path(path)
    check_path(path)
    down = -(-len(sweeps) // ACROSS)
    figure = Figure(figsize=(WIDTH * ACROSS, HEIGHT * down), layout="constrained", facecolor="white")
    panes = figure.subplots(down, ACROSS, squeeze=False).ravel()
    for pane in panes[len(sweeps) :]:
        pane.set_visible(False)
    for pane, sweep in zip(panes, sweeps, strict=False):
        for name, values in sweep.curves.items():
            style = (
                {"linestyle": "--"}
                if "bound" in name or "no f below" in name
                else {"marker": "o", "markersize": 3}
            )
            pane.plot(sweep.x, values, label=name, linewidth=1.2, **style)
        for name, place in sweep.marks.items():
            pane.axvline(place, color="#9aa3af", linewidth=0.8)
            pane.annotate(name, (place, 1), xycoords=("data", "axes fraction"), fontsize=7, va="top")
        pane.set_xscale("log")
        if sweep.log:
            pane.set_yscale("log")
        pane.set(title=sweep.title, xlabel=sweep.across, ylabel=sweep.up)
        pane.set_xticks(list(sweep.x), [f"{x:g}" for x in sweep.x], fontsize=7)
        pane.minorticks_off()
        pane.legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
