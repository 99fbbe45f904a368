"""Run a study of the catalogue: checks with nothing to train, or a survey that trains many methods alike."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretask import catalog
from pretask.errors import UsageError
from pretask.studies.survey import Settings, Survey

if TYPE_CHECKING:
    from pretask.studies.theory.check import Sweep

START, END = "<!-- results -->", "<!-- /results -->"
NAMES, WIDE = 2, 5  # columns that name a row of a wide table, and further ones in each of its parts


def find_study(slug: str) -> Any:
    """What the catalogue's row names: a function that checks something and returns rows, or a `Survey`.

    Raises:
        UsageError: there is no such study.
    """
    module, _, name = catalog.find(slug, "study").path.partition(":")
    return getattr(importlib.import_module(module), name)


def run_study(slug: str, settings: Settings | None = None) -> list[dict[str, Any]]:
    """The study's results, a row each; rows of the same columns make a table. `holds` says of a row whether it came
    out as it must.

    Args:
        slug: the study.
        settings: data, budget and choice, of a survey.

    Raises:
        UsageError: there is no such study, or it is none that these settings could change.
    """
    study, settings = find_study(slug), settings or Settings()
    if isinstance(study, Survey):
        from pretask.studies.table import tabulate

        return tabulate(slug, study, settings)
    if settings.asked:
        raise UsageError(f"{slug} computes and trains nothing: it takes no --{settings.asked[0]}")
    return study()


def sweeps_of(slug: str) -> list[Sweep]:
    """The curves of a theory, computed once with its rows.

    Raises:
        UsageError: there is no such study, or it has no curves.
    """
    module = importlib.import_module(catalog.find(slug, "study").path.partition(":")[0])
    if not hasattr(module, "sweeps"):
        raise UsageError(f"{slug} has no curves: there is nothing to plot")
    return module.sweeps()


def tables(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows that follow one another with the same columns, together; a wide table in parts, each with its first two
    columns."""
    made = []
    for keys, group in groupby(rows, key=list):
        table, head, rest = list(group), keys[:NAMES], keys[NAMES:]
        for start in range(0, len(rest), WIDE) if len(keys) > NAMES + WIDE else (None,):
            shown = keys if start is None else [*head, *rest[start : start + WIDE]]
            made.append([{key: row[key] for key in shown} for row in table])
    return made


def cell(value: Any) -> str:
    """A value in words."""
    if isinstance(value, dict) and set(value) == {"value", "low", "high"}:
        ends = [value["low"], value["high"]]
        between = "" if None in ends else f" [{', '.join(f'{end:.3g}' for end in ends)}]"
        return f"{value['value']:.3g}{between}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {brief(number)}" for key, number in value.items())
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return "" if value is None else str(value)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table for each kind of row."""
    made = []
    for table in tables(rows):
        cells = [list(table[0]), ["---"] * len(table[0]), *([cell(v) for v in row.values()] for row in table)]
        made.append("\n".join(f"| {' | '.join(row)} |" for row in cells))
    return "\n\n".join(made)


def brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def write_into(page: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    """Put the results into a Markdown page as tables, between its two marks.

    Raises:
        UsageError: the page has no marks.
    """
    path = Path(page)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if START not in text or END not in text.partition(START)[2]:
        raise UsageError(f"{path} has no place for results: a line {START} and, below it, a line {END}")
    before, _, rest = text.partition(START)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{START}\n{markdown(rows)}\n{END}{after}", encoding="utf-8")
