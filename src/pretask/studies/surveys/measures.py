"""Measures that several surveys share, and how findings are computed from their tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan

import torch
from torch import Tensor

from pretask.data import Dataset
from pretask.data.dataset import spread
from pretask.errors import UsageError
from pretask.evaluation.features import extract
from pretask.evaluation.linear import linear
from pretask.evaluation.projector import probe_layers
from pretask.evaluation.protocols import read_alike, test_part
from pretask.evaluation.score import known_labels
from pretask.studies.bench import Bench, opened
from pretask.studies.claim import Trained
from pretask.studies.survey import Values

ELSEWHERE = ("digits-on-textures", "digits")


def elsewhere(bench: Bench) -> tuple[Dataset, Dataset]:
    """Other pictures than the bench's, as many to learn from and to be judged by at most, read alike."""
    own = bench.test.name.partition(" (")[0]
    name = next(name for name in ELSEWHERE if name != own)
    parts = test_part(opened(name, "image", tuple(read_alike(bench.test).items())), 0)
    counts = len(bench.labelled), len(bench.test)
    train, test = (part.subset(spread(len(part), count)) for part, count in zip(parts, counts, strict=True))
    return train, test


def transfer(trained: Trained, bench: Bench) -> dict[str, Tensor | float]:
    """A linear probe on another data set."""
    train, test = (known_labels(extract(trained.encoder, part)) for part in elsewhere(bench))  # type: ignore[arg-type]
    (score,) = linear(train, test)
    assert score.items is not None
    return {"transfer": score.items}


def behind(trained: Trained, bench: Bench) -> dict[str, Tensor | float]:
    """Of methods with a projector: probes of class and colour on its output, RankMe and spread there, and probes of
    class on the features (`layer 0`) and behind every layer."""
    if trained.task is None:
        return {}
    try:
        judged = probe_layers(trained.task, bench.labelled, bench.test)
    except UsageError:
        return {}
    scores = {score.metric: score for score in judged}
    last = max(int(name.partition("@")[2]) for name in scores)
    found: dict[str, Tensor | float] = {
        f"accuracy, layer {number}": scores[f"accuracy@{number}"].items  # type: ignore[misc]
        for number in range(last + 1)
        if f"accuracy@{number}" in scores
    }
    for name in ("accuracy", "colour", "rank", "std"):
        for place, number in (("encoder", 0), ("projector", last)):
            score = scores.get(f"{name}@{number}")
            if score is not None and (place == "projector" or name == "colour"):
                found[f"{name}, {place}"] = score.value if score.items is None else score.items
    return found


def column(values: Values, metric: str, arms: Iterable[str]) -> list[float]:
    """The metric of those of these arms that have it."""
    return [values[arm][metric] for arm in arms if arm in values and metric in values[arm]]


def mean(values: Values, metric: str, arms: Iterable[str]) -> float | None:
    """The mean over those of these arms that have the metric; None without any."""
    known = column(values, metric, arms)
    return sum(known) / len(known) if known else None


def difference(values: Values, metric: str, arms: Iterable[str], others: Iterable[str]) -> float | None:
    """By how much these arms are above the others on average."""
    ours, theirs = mean(values, metric, arms), mean(values, metric, others)
    return None if ours is None or theirs is None else ours - theirs


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Rank correlation; None of less than three, or where one side is constant."""
    from scipy.stats import spearmanr

    if len(x) < 3 or min(len(set(x)), len(set(y))) < 2:
        return None
    found = float(spearmanr(x, y).statistic)
    return None if isnan(found) else found


def agreement(values: Values, first: str, second: str, arms: Iterable[str]) -> float | None:
    """Rank correlation of two metrics over arms."""
    known = [values[arm] for arm in arms if arm in values and {first, second} <= values[arm].keys()]
    return spearman([row[first] for row in known], [row[second] for row in known])


def relative(gap: float, of: float) -> float:
    return gap / max(abs(of), torch.finfo(torch.float32).eps)
