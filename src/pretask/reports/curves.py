"""Curves as small inline SVGs whose colours follow the page's theme."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import ceil, floor, isfinite, log10

import numpy as np
from markupsafe import Markup, escape

from pretask.reports.record import Record

WIDTH, HEIGHT = 440, 230
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 12, 28
POINTS = 240  # a curve is drawn with at most so many


@dataclass(frozen=True)
class Series:
    """One curve; `color` picks one of the page's eight."""

    name: str
    x: np.ndarray
    y: np.ndarray
    color: int = 0


@dataclass(frozen=True)
class Chart:
    """Curves over the step.

    Args:
        title: what is drawn.
        note: what it means, for someone who sees it the first time.
        levels: labelled horizontal lines, such as the loss of an encoder that guesses.
        floor: the least the vertical axis must reach down to; None lets the curves decide.
    """

    title: str
    note: str
    series: list[Series]
    levels: list[tuple[str, float]] = field(default_factory=list)
    floor: float | None = None


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from `low` to `high`."""
    rough = (high - low) / about
    unit = 10.0 ** floor(log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first = ceil(low / step - 1e-9)
    return [float(f"{step * k:.12g}") for k in range(first, floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number in few characters."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    return f"{value:.3g}" if size < 100 or value != round(value) else f"{value:.0f}"


def smooth(y: np.ndarray, window: int) -> np.ndarray:
    """Running mean over `window` points, shorter at both ends."""
    if window < 2:
        return y
    total = np.concatenate([[0.0], np.cumsum(y)])
    centre = np.arange(len(y))
    start, end = np.maximum(centre - window // 2, 0), np.minimum(centre + window // 2 + 1, len(y))
    return (total[end] - total[start]) / (end - start)


def thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep = np.unique(np.linspace(0, len(x) - 1, min(POINTS, len(x))).round().astype(int))
    return x[keep], y[keep]


def limits(chart: Chart, curves: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Vertical range: all of the curves but a few spikes, and every level."""
    y = np.concatenate([y for _, y in curves])
    low, high = float(y.min()), float(y.max())
    calm_low, calm_high = np.quantile(y, [0.02, 0.98]) if len(y) > 40 else (low, high)
    slack = 1.5 * (calm_high - calm_low)
    if slack > 0:
        low, high = max(low, calm_low - slack), min(high, calm_high + slack)
    extra = [level for _, level in chart.levels if isfinite(level)]
    extra += [chart.floor] if chart.floor is not None else []
    low, high = min([low, *extra]), max([high, *extra])
    gap = (high - low) or abs(high) or 1.0
    return (low if low == chart.floor else low - 0.05 * gap), high + 0.07 * gap


class Frame:
    """Where numbers lie on the drawing."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float]):
        self.x_range, self.y_range = x_range, y_range

    def x(self, value):
        low, high = self.x_range
        return LEFT + (np.asarray(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        low, high = self.y_range
        return HEIGHT - BOTTOM - (np.asarray(value) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def path(self, x: np.ndarray, y: np.ndarray) -> str:
        return "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(self.x(x), self.y(y), strict=True))


def axes(frame: Frame) -> list[str]:
    parts = []
    for value in ticks(*frame.y_range):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 8}" y="{y + 4:.1f}">{short(value)}</text>')
    for value in ticks(*frame.x_range, about=5):
        parts.append(
            f'<text class="tick mid" x="{frame.x(value):.1f}" y="{HEIGHT - 8}">{short(value)}</text>'
        )
    return parts


def svg(chart: Chart) -> Markup | None:
    """The drawing, or None where no curve has a finite point. Pointer and arrow keys read values off it."""
    finite = [(s, s.x[np.isfinite(s.y)], s.y[np.isfinite(s.y)]) for s in chart.series]
    drawn = [(s, x, y) for s, x, y in finite if len(x)]
    if not drawn:
        return None
    first, last = min(float(x.min()) for _, x, _ in drawn), max(float(x.max()) for _, x, _ in drawn)
    frame = Frame((first, last if last > first else first + 1), limits(chart, [(x, y) for _, x, y in drawn]))
    parts = axes(frame)
    for number, (name, level) in enumerate(chart.levels):
        y = float(frame.y(level))
        parts.append(f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        at = y - 5 if y > TOP + 24 else y + 14
        parts.append(
            f'<text class="leveltext end" x="{WIDTH - RIGHT - 2}" y="{at:.1f}" data-n="{number}">'
            f"{escape(name)} {short(level)}</text>"
        )
    readout = []
    for series, x, y in drawn:
        colour, mean = f"s{series.color % 8}", smooth(y, len(y) // 30)
        if len(x) == 1:
            spot = f'cx="{float(frame.x(x[0])):.1f}" cy="{float(frame.y(y[0])):.1f}"'
            parts.append(f'<circle class="dot {colour}" {spot} r="4"/>')
        elif len(x) > 60:
            parts.append(f'<path class="raw {colour}" d="{frame.path(*thin(x, y))}"/>')
        sx, sy = thin(x, mean)
        if len(x) > 1:
            parts.append(f'<path class="line {colour}" d="{frame.path(sx, sy)}"/>')
        readout.append({
            "name": series.name, "color": series.color % 8, "x": [float(f"{v:.6g}") for v in sx],
            "y": [float(f"{v:.4g}") for v in sy], "px": frame.x(sx).round(1).tolist(),
            "py": frame.y(sy).round(1).tolist(),
        })  # fmt: skip
    clip = f'<svg x="0" y="0" width="{WIDTH}" height="{HEIGHT}">' + "".join(parts) + "</svg>"
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" '
        f'aria-label="{escape(spoken(chart, drawn))}" data-chart="{escape(json.dumps(readout))}">{clip}</svg>'
    )


def spoken(chart: Chart, drawn: list[tuple[Series, np.ndarray, np.ndarray]]) -> str:
    """The chart in words, for a reader who does not see it."""
    curves = [f"{s.name} from {y[0]:.4g} to {y[-1]:.4g} at step {x[-1]:.0f}" for s, x, y in drawn]
    levels = [f"{name} at {level:.4g}" for name, level in chart.levels]
    return f"{chart.title}: {'; '.join(curves + levels)}"


PLAIN = {
    "watch/feature_std": (
        "Spread of the features",
        "How different the features of different samples are. Near zero the encoder has collapsed.",
    ),
    "watch/rankme": ("RankMe", "How many directions the features use. One means collapse; more is richer."),
    "lr": ("Learning rate", "How large a step the optimiser takes."),
    "weight_decay": ("Weight decay", "How strongly weights are pulled towards zero."),
    "samples_per_second": ("Speed", "Samples a second."),
    "utilisation": ("Utilisation", "Share of the arithmetic the machine could do that the run did."),
}
"""Title and meaning of columns that every run has."""


def loss_charts(record: Record) -> list[Chart]:
    """The loss that is minimised and its parts, each with its chance level."""
    terms = record.terms
    charts = []
    for term in terms:
        chance = record.chance(term)
        levels = [("chance", chance)] if chance is not None else []
        title = "Loss" if len(terms) == 1 else f"Loss: {term}"
        note = "Lower is better."
        note += " The dashed line is where an encoder rests that only guesses." if levels else ""
        x, y = record.curves[f"loss/{term}"]
        charts.append(Chart(title, note, [Series(term, x, y)], levels))
    if len(terms) != 1 and "loss/total" in record.curves:
        x, y = record.curves["loss/total"]
        charts.insert(0, Chart("Loss in all", "The weighted sum that is minimised.", [Series("total", x, y)]))
    return charts


def wait_chart(record: Record) -> Chart | None:
    """The share of a step spent waiting for data."""
    if not {"seconds/data", "seconds/compute"} <= record.curves.keys():
        return None
    (x, wait), (_, work) = record.curves["seconds/data"], record.curves["seconds/compute"]
    if len(wait) != len(work):
        return None
    share = 100 * wait / np.maximum(wait + work, 1e-12)
    note = "Percent of each step spent waiting for data; the rest is computing. Above 20, decode faster."
    return Chart("Waiting for data", note, [Series("waiting, %", x, share, 1)], floor=0.0)


def charts(record: Record) -> list[Chart]:
    """All charts of a run, the telling ones first."""
    found = loss_charts(record)
    for key, (x, y) in record.curves.items():
        if key.startswith("metric/"):
            name = key.removeprefix("metric/")
            found.append(
                Chart(name.replace("_", " ").capitalize(), "What the task reports.", [Series(name, x, y, 2)])
            )
    colors = {"watch/rankme": 3, "watch/feature_std": 3, "lr": 4, "samples_per_second": 5, "utilisation": 5}
    for key, color in colors.items():
        if key in record.curves:
            title, note = PLAIN[key]
            x, y = record.curves[key]
            found.append(Chart(title, note, [Series(title, x, y, color)], floor=0.0))
        if key == "lr" and (waiting := wait_chart(record)):
            found.append(waiting)
    return found
