"""Leaderboards: scores grouped by what was measured, best first, with their intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import erf, isfinite, sqrt
from typing import Any

MEANING = {
    "linear": ("Linear probe", "a linear classifier is trained on the frozen features"),
    "knn": (
        "Nearest neighbours",
        "a picture gets the label of the pictures most like it; nothing is trained",
    ),
    "finetune": ("Fine-tuning", "the whole encoder is trained further on labelled data"),
    "fewshot": ("Few examples", "a classifier is fitted to a handful of labelled examples of each class"),
    "rankme": ("RankMe", "how many directions the features use; needs no labels; higher is better"),
    "lidar": ("LiDAR", "how many directions tell pictures apart; needs no labels; higher is better"),
    "alpha_req": ("α-ReQ", "how fast the features' spectrum decays; needs no labels; about 1 is best"),
    "retrieval": ("Retrieval", "whether the pictures found for a picture are of its class"),
    "bitext": ("Bitext retrieval", "whether a sentence finds its translation among all others, both ways"),
    "transfer": ("Transfer", "a classifier that learned in one language, judged in another"),
    "collapse": ("Spread", "how different the features of different samples are; zero is collapse"),
    "uniformity": ("Uniformity", "how evenly features fill their space; lower is better"),
    "alignment": ("Alignment", "how close two views of one picture lie; lower is better"),
    "mlp": ("Two-layer probe", "a network with one hidden layer is trained on the frozen features"),
    "lowshot": ("Few labels", "the whole encoder is trained further on a small share of the labels"),
    "robustness": ("Robustness", "a linear classifier of clean pictures, judged on spoilt ones"),
    "layers": ("Block by block", "a linear classifier at every block of the network"),
    "pasted": ("Pasted pieces", "whether the places of a piece of another picture are found"),
    "spectrum": ("Spectrum", "how many directions hold the features' variance; higher is better"),
    "sensitivity": ("Sensitivity", "how far an augmentation moves features; 0 is blind, 1 is another picture"),
    "projector": ("Projector, layer by layer", "what each layer behind the encoder (@0) keeps"),
    "schedule": ("Schedule", "how loss and features changed in each phase of the learning rate"),
}
"""Name and meaning of a protocol for someone who has not met it."""

LABELLED = ("linear", "knn", "finetune", "fewshot", "retrieval", "bitext", "transfer")
"""Protocols that say what an encoder is worth, the most telling first."""

BASELINES = ("random", "pixels")
"""Kinds of encoders that a method must beat to be worth its cost: the same network untrained, the raw data."""

SHARES = ("accuracy", "top1", "top5", "map", "recall", "auroc", "f1")
"""Metrics in [0, 1] that are printed as percentages."""


@dataclass(frozen=True)
class Entry:
    """One encoder's place.

    Args:
        arm: its name in the scores.
        label: its name for a reader.
        kind: `run`, `random`, `pixels` (raw data of any kind) or `other`.
        low: lower end of the 95 % interval, or None where none was measured.
        high: upper end.
        n: test samples.
        chance: what always answering the commonest class would score.
    """

    arm: str
    label: str
    kind: str
    value: float
    low: float | None
    high: float | None
    n: int | None
    chance: float | None = None

    @property
    def in_words(self) -> str:
        """What it is, inside a sentence."""
        return "the same network untrained" if self.kind == "random" else f"the {self.label.lower()}"

    @property
    def has_interval(self) -> bool:
        return self.low is not None and self.high is not None

    def clearly_above(self, other: Entry) -> bool:
        """The two 95 % intervals do not overlap."""
        return self.has_interval and other.has_interval and self.low > other.high  # type: ignore[operator]


@dataclass(frozen=True)
class Group:
    """All encoders by one measure, best first where there is a best."""

    protocol: str
    metric: str
    data: str
    title: str
    meaning: str
    share: bool
    entries: list[Entry]

    @property
    def ranked(self) -> bool:
        return self.protocol in LABELLED

    def show(self, value: float | None) -> str:
        if value is None or not isfinite(value):
            return "–"
        return f"{100 * value:.1f} %" if self.share else f"{value:.4g}"

    @property
    def span(self) -> tuple[float, float]:
        """The scale of the bars."""
        numbers = [x for e in self.entries for x in (e.value, e.low, e.high) if x is not None and isfinite(x)]
        low, high = min([0.0, *numbers]), max([0.0, *numbers])
        if self.share:
            return 0.0, 1.0 if high > 0.5 else max(high * 1.3, 1e-9)
        return low, high * 1.05 if high > low else low + 1.0

    def place(self, value: float | None) -> float:
        """Where a value lies on the bars' scale, in percent."""
        low, high = self.span
        if value is None or not isfinite(value):
            return 0.0
        return round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 2)

    def of_kind(self, kind: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.kind == kind), None)


def kind_of(arm: str) -> str:
    if arm in ("pixels", "raw"):
        return "pixels"
    if arm.partition(":")[0] in ("random", "untrained"):
        return "random"
    return "other" if arm.startswith("timm:") else "run"


def label_of(arm: str) -> str:
    name = arm.partition(":")[2]
    known = {"pixels": "Raw pixels", "raw": "Raw data"}.get(arm)
    if known or kind_of(arm) == "random":
        return known or "Untrained network"
    return f"{name} (published weights)" if arm.startswith("timm:") else arm


def to_entry(score: dict[str, Any], own: str) -> Entry:
    """An entry from a score; one without an arm, or of the arm `encoder`, is the run's own."""
    arm = str(score.get("arm") or "encoder")
    is_own = arm in ("encoder", "run")
    ends = [score.get(end) for end in ("low", "high")]
    low, high = (float(end) if isinstance(end, int | float) and isfinite(end) else None for end in ends)
    detail = score.get("detail")
    chance = detail.get("chance") if isinstance(detail, dict) else None
    label = own if is_own else label_of(arm)
    return Entry(arm, label, kind_of(arm), float(score["value"]), low, high, score.get("n"), chance)


def groups(scores: Iterable[dict[str, Any]], own: str = "This run") -> list[Group]:
    """Scores by protocol, metric and test data; those that need labels come first."""
    found: dict[tuple[str, str, str], list[Entry]] = {}
    for score in scores:
        value = score.get("value")
        if isinstance(value, int | float) and isfinite(value):
            key = str(score["protocol"]), str(score["metric"]), str(score.get("data") or "")
            found.setdefault(key, []).append(to_entry(score, own))
    made = []
    for (protocol, metric, data), entries in found.items():
        base = protocol.split("-")[0].split("@")[0]
        title, meaning = MEANING.get(protocol) or MEANING.get(base) or (protocol, "")
        share = metric.split("@")[0] in SHARES and all(0 <= entry.value <= 1 for entry in entries)
        if protocol in LABELLED:
            entries = sorted(entries, key=lambda entry: -entry.value)
        made.append(Group(protocol, metric, data, title, meaning, share, entries))
    order = {protocol: number for number, protocol in enumerate(LABELLED)}
    return sorted(made, key=lambda group: order.get(group.protocol, len(order)))


def main_group(all_groups: list[Group]) -> Group | None:
    """The measure a verdict rests on."""
    return next((group for group in all_groups if group.ranked), None)


def sureness(best: Entry, other: Entry) -> float | None:
    """Probability that `best` is truly above `other`, from the widths of their intervals.

    Normal errors, independent of each other: where both were measured on the same test samples the
    errors go together and the true probability is higher.
    """
    if not (best.has_interval and other.has_interval):
        return None
    errors = [(entry.high - entry.low) / (2 * 1.96) for entry in (best, other)]  # type: ignore[operator]
    spread = sqrt(sum(error**2 for error in errors))
    if spread == 0:
        return None
    return 0.5 * (1 + erf((best.value - other.value) / spread / sqrt(2)))


def in_words(probability: float | None) -> str:
    """How sure one may be, for a reader without statistics."""
    if probability is None:
        return "no interval was measured, so nobody can say how sure that is"
    if probability >= 0.995:
        return "that is as good as certain on these test samples (more than 99 %)"
    if probability >= 0.95:
        return f"that is quite sure (about {100 * probability:.0f} %)"
    if probability >= 0.8:
        return f"that is likely, not sure (about {100 * probability:.0f} %): more seeds or test samples tell"
    return f"that is too close to call (about {100 * probability:.0f} %): take them as equal"
