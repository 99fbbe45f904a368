"""Did it work? The answer in words, from the curves and the scores, with what to do next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pretask.reports.board import BASELINES, Entry, Group, groups, main_group
from pretask.reports.record import Record

Level = Literal["good", "mixed", "bad", "unknown"]
Fall = Literal["fell", "flat", "rose", "broken", "missing"]

AT_CHANCE = 0.02
"""A loss within this share of its chance level rests there."""


@dataclass
class Verdict:
    """The top of a report.

    Args:
        level: colours the headline.
        headline: one sentence.
        reasons: what it rests on, a sentence each.
        advice: what to do next, a sentence each.
    """

    level: Level
    headline: str
    reasons: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)


def ends(values: np.ndarray) -> tuple[float, float]:
    """A curve's level at its start and at its end: medians of its first and last twentieth."""
    few = max(1, len(values) // 20)
    return float(np.median(values[:few])), float(np.median(values[-few:]))


def loss_fall(record: Record) -> Fall:
    curve = record.loss()
    if curve is None or len(curve[1]) == 0:
        return "missing"
    if not np.isfinite(curve[1][-1]):
        return "broken"
    finite = curve[1][np.isfinite(curve[1])]
    start, end = ends(finite)
    margin = 0.01 * max(abs(start), abs(end), 1e-12)
    return "fell" if end < start - margin else "rose" if end > start + margin else "flat"


def at_chance(record: Record) -> list[str]:
    """Losses that still rest at the value of an encoder that knows nothing."""
    resting = []
    for term in record.terms:
        chance = record.chance(term)
        values = record.curves[f"loss/{term}"][1]
        finite = values[np.isfinite(values)]
        if chance and len(finite) and abs(ends(finite)[1] - chance) <= AT_CHANCE * abs(chance):
            resting.append(term)
    return resting


def collapsed(record: Record) -> str | None:
    """Why the features are taken as collapsed, or None."""
    for key, floor, what in (
        ("watch/rankme", 2.0, "the features use only one direction (RankMe {:.1f})"),
        ("watch/feature_std", 1e-3, "different pictures get the same features (spread {:.1e})"),
    ):
        values = record.curves.get(key, (None, np.array([])))[1]
        if len(values) and np.isfinite(values[-1]) and values[-1] < floor:
            return what.format(values[-1])
    return None


def compare_words(group: Group, own: Entry, other: Entry, name: str) -> str:
    """One encoder against a baseline, in a sentence."""
    versus = f"{group.show(own.value)} against {group.show(other.value)} for {name}"
    if own.clearly_above(other):
        return f"{versus}: clearly better, the 95 % intervals do not overlap."
    if other.clearly_above(own):
        return f"{versus}: clearly worse, the 95 % intervals do not overlap."
    return f"{versus}: too close to call, the 95 % intervals overlap."


def judge(record: Record) -> Verdict:
    """The verdict on a run."""
    group = main_group(groups(record.scores))
    own = group.of_kind("run") if group else None
    fall, resting, collapse = loss_fall(record), at_chance(record), collapsed(record)
    reasons = training_words(record, fall, resting, collapse)
    if fall == "broken":
        return Verdict("bad", "No: the loss stopped being a number.", reasons, BROKEN_ADVICE)
    if collapse:
        return Verdict("bad", "No: the features collapsed.", reasons, COLLAPSE_ADVICE)
    if group is None or own is None:
        return unmeasured(record, fall, resting, reasons)
    interval = f", 95 % interval {group.show(own.low)} to {group.show(own.high)}" if own.has_interval else ""
    others = {kind: entry for kind in BASELINES if (entry := group.of_kind(kind))}
    worth = [f"{group.title}: {group.show(own.value)} {group.metric}{interval} ({group.meaning})."]
    worth += [compare_words(group, own, entry, entry.in_words) for entry in others.values()]
    return measured(own, others, worth + reasons)


def measured(own: Entry, others: dict[str, Entry], reasons: list[str]) -> Verdict:
    """The verdict on a run whose features were measured."""
    beaten = {kind: own.clearly_above(entry) for kind, entry in others.items()}
    ahead = {kind: own.value > entry.value for kind, entry in others.items()}
    if not others:
        return Verdict("mixed", "Measured, but with nothing to compare it with.", reasons, [BASELINE])
    if all(beaten.values()):
        return Verdict("good", "Yes, it worked.", reasons, [USE])
    if beaten.get("random") and not ahead.get("pixels", True):
        raw = others["pixels"].label.lower()
        return Verdict("mixed", f"It learned, but {raw} are still better.", reasons, [LONGER])
    if all(ahead.values()):
        return Verdict("mixed", "Probably: it is ahead, but not beyond doubt.", reasons, [MORE_TESTS, LONGER])
    return Verdict("bad", "No: it is not better than doing nothing.", reasons, [LONGER, SHORTCUT])


def unmeasured(record: Record, fall: Fall, resting: list[str], reasons: list[str]) -> Verdict:
    """The verdict on a run of which only the training is known."""
    if fall == "missing":
        train = "Train it, or continue it with `pretask train --resume`."
        return Verdict("unknown", "Nothing can be said yet.", reasons, [train])
    if resting and len(resting) == len(record.terms):
        return Verdict("bad", "No: the loss rests at its chance level.", reasons, STUCK_ADVICE)
    if fall == "fell":
        headline = "It learned its puzzle; what that is worth was not measured."
        return Verdict("mixed", headline, reasons, [MEASURE])
    return Verdict("bad", "Not so far: the loss did not fall.", reasons, [*STUCK_ADVICE, MEASURE])


def training_words(record: Record, fall: Fall, resting: list[str], collapse: str | None) -> list[str]:
    """What the curves say, a sentence each."""
    curve = record.loss()
    if curve is None or fall == "missing":
        return ["There is no training log (metrics.csv) to judge by."]
    if fall == "broken":
        step = int(curve[0][~np.isfinite(curve[1])][0])
        return [f"At step {step} the loss was no number any more."]
    start, end = ends(curve[1][np.isfinite(curve[1])])
    moved = {"fell": f"fell from {start:.4g} to", "rose": f"rose from {start:.4g} to", "flat": "stayed at"}[
        fall
    ]
    words = [f"The training loss {moved} {end:.4g}."]
    for term in resting:
        level = record.chance(term)
        words.append(f"The loss “{term}” rests at {level:.4g}, the value of an encoder that only guesses.")
    if collapse:
        words.append(f"Collapse: {collapse}.")
    elif any(key.startswith("watch/") for key in record.curves):
        words.append("The features did not collapse: different samples still get different features.")
    return words


MEASURE = "Measure what the features are worth: `pretask evaluate RUN --data ... --protocol knn,linear`."
BASELINE = (
    "Measure the baselines, `pretask evaluate random:NAME` and `pretask evaluate pixels`: without them "
    "nobody can say what training added."
)
USE = "Use the encoder: “Use it” below shows how. More data or more epochs may still add to it."
LONGER = "Train longer (`--epochs`), on more data, or try other methods: `pretask compare`."
MORE_TESTS = "Measure on more test samples, or train with several seeds: `pretask compare --seeds 5`."
SHORTCUT = (
    "Check whether the puzzle can be solved without looking at the content: `pretask shortcuts`. A loss that "
    "falls while features stay poor is the sign of it."
)
BROKEN_ADVICE = [
    "Lower the learning rate (`--lr`), or train without half precision (`--precision 32-true`).",
    "Look at the batch that was saved when it happened: samples of a single value are a common cause.",
]
COLLAPSE_ADVICE = [
    "Lower the learning rate (`--lr`).",
    "Use a larger batch (`--batch-size`): methods that compare the samples of a batch need many of them.",
    "For methods with a teacher: lower its temperature or raise its momentum.",
]
STUCK_ADVICE = [
    "Train longer (`--epochs`): many puzzles rest at chance for the first epochs.",
    "Try a higher or lower learning rate (`--lr`).",
    "Look at the contact sheets: could you solve the puzzle?",
]
