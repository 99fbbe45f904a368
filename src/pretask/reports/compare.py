"""Several runs side by side: which is best, how sure that is, and what differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pretask.reports.board import Entry, Group, groups, in_words, kind_of, main_group, sureness
from pretask.reports.curves import PLAIN, Chart, Series
from pretask.reports.page import Picture, drawn, flatten
from pretask.reports.record import Record
from pretask.reports.verdict import Verdict, compare_words, ends, judge


def comparison(
    records: list[Record], rows: Sequence[dict[str, Any]] | None, sheets: list[Picture | None]
) -> dict[str, Any]:
    """Everything the page of a comparison shows."""
    labels = names(records)
    board = groups(list(rows) if rows is not None else own_rows(records, labels))
    runs = [
        {"label": label, "folder": record.folder.as_posix(), "sheet": sheet, "verdict": judge(record)}
        for record, label, sheet in zip(records, labels, sheets, strict=True)
    ]
    return {
        "runs": runs,
        "groups": board,
        "verdict": decide(board),
        "charts": drawn(overlaid(records, labels)),
        "differences": differences(records),
    }


def names(records: list[Record]) -> list[str]:
    """Titles of the runs; where two would be the same, with the folder's name."""
    titles = [record.title for record in records]
    if len(set(titles)) == len(titles):
        return titles
    folders = [record.name for record in records]
    unique = folders if len(set(folders)) == len(folders) else [r.folder.as_posix() for r in records]
    return [f"{title} · {name}" for title, name in zip(titles, unique, strict=True)]


def own_rows(records: list[Record], labels: list[str]) -> list[dict[str, Any]]:
    """The scores kept in the run folders; a baseline that several runs measured is taken once."""
    rows: dict[tuple, dict[str, Any]] = {}
    for record, label in zip(records, labels, strict=True):
        for score in record.scores:
            arm = str(score.get("arm") or "encoder")
            named = label if kind_of(arm) == "run" else arm
            key = named, score["protocol"], score["metric"], str(score.get("data"))
            rows.setdefault(key, {**score, "arm": named})
    return list(rows.values())


def decide(board: list[Group]) -> Verdict:
    """Which encoder is best, and how sure that is."""
    group = main_group(board)
    if group is None or not group.entries:
        return Verdict("unknown", "Nobody can say yet: nothing was measured.", [], [
            "Measure each run: `pretask evaluate RUN --data ... --protocol knn,linear`."])  # fmt: skip
    if len(group.entries) == 1:
        only = group.entries[0]
        return Verdict("mixed", "There is nothing to compare with.", [
            f"Only {only.label} was measured: {group.show(only.value)}."], ["Measure the other runs and baselines."])  # fmt: skip  # noqa: E501
    best, second = group.entries[:2]
    sure = sureness(best, second)
    reasons = [
        f"By {group.title.lower()} ({group.meaning}) {best.label} reaches {group.show(best.value)}, "
        f"the next, {second.label}, {group.show(second.value)}: {in_words(sure)}."
    ]
    reasons += [against(group, best, kind) for kind in ("random", "pixels") if group.of_kind(kind)]
    reasons += elsewhere(board, group, best)
    if best.kind in ("random", "pixels"):
        headline = f"None of them: {best.label.lower()} did best."
        return Verdict("bad", headline, reasons, ["Train longer, on more data, or try other methods."])
    if sure is not None and sure >= 0.95:
        return Verdict("good", f"{best.label} is best.", reasons, [])
    return Verdict("mixed", f"{best.label} is ahead, but not beyond doubt.", reasons, [
        "More seeds (`pretask compare --seeds 5`) or more test samples would tell."])  # fmt: skip


def against(group: Group, best: Entry, kind: str) -> str:
    other = group.of_kind(kind)
    if other is None or other is best:
        return f"The best is the baseline itself: {best.label.lower()}."
    return f"Against the baseline: {compare_words(group, best, other, other.label.lower())}"


def elsewhere(board: list[Group], main: Group, best: Entry) -> list[str]:
    """Whether other measures agree."""
    others = [
        g for g in board if g.ranked and g is not main and g.metric == main.metric and len(g.entries) > 1
    ]
    agree = [group.title for group in others if group.entries[0].arm == best.arm]
    differ = [f"{group.title} puts {group.entries[0].label} first" for group in others
              if group.entries[0].arm != best.arm]  # fmt: skip
    words = [f"The same encoder is first by: {', '.join(agree)}."] if agree else []
    return words + ([f"But {'; '.join(differ)}."] if differ else [])


def overlaid(records: list[Record], labels: list[str]) -> list[Chart]:
    """Curves of all runs in one drawing each."""
    relative = []
    for number, (record, label) in enumerate(zip(records, labels, strict=True)):
        curve = record.loss()
        if curve is not None and np.isfinite(curve[1]).any():
            start = ends(curve[1][np.isfinite(curve[1])])[0]
            if start:
                relative.append(Series(label, curve[0], 100 * curve[1] / abs(start), number))
    note = "Each loss in percent of its own start, since different losses have different scales."
    made = [Chart("Loss, from 100", note, relative)] if relative else []
    shared = sorted({key for record in records for key in record.curves if key.startswith("metric/")})
    shared = [key for key in shared if sum(key in record.curves for record in records) > 1]
    for key in [*shared, "watch/rankme", "watch/feature_std", "lr", "samples_per_second"]:
        series = [
            Series(label, *record.curves[key], number)
            for number, (record, label) in enumerate(zip(records, labels, strict=True))
            if key in record.curves
        ]
        title, note = PLAIN.get(key, (key.removeprefix("metric/").replace("_", " ").capitalize(), ""))
        if series:
            made.append(Chart(title, note, series, floor=0.0))
    return made


def differences(records: list[Record]) -> list[tuple[str, list[str]]]:
    """Settings in which the runs are not all alike."""
    settings = [dict(flatten(record.config)) for record in records]
    keys = list(dict.fromkeys(key for setting in settings for key in setting))
    rows = [(key, [setting.get(key, "–") for setting in settings]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]
