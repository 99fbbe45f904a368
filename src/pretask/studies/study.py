"""Run a study of the catalogue: something that is checked or compared, with nothing to train."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from pretask import catalog
from pretask.errors import UsageError

START, END = "<!-- results -->", "<!-- /results -->"


def run_study(slug: str) -> list[dict[str, Any]]:
    """The study's results, a row each; `holds` says of a row whether it came out as it must.

    Raises:
        UsageError: there is no such study.
    """
    module, _, name = catalog.find(slug, "study").path.partition(":")
    return getattr(importlib.import_module(module), name)()


def cell(value: Any) -> str:
    """A value in words."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {number:,}" for key, number in value.items())
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return str(value)


def write_into(page: str | Path, rows: list[dict[str, Any]]) -> None:
    """Put the results into a Markdown page as a table, between its two marks.

    Raises:
        UsageError: the page has no marks.
    """
    path = Path(page)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if START not in text or END not in text.partition(START)[2]:
        raise UsageError(f"{path} has no place for results: a line {START} and, below it, a line {END}")
    before, _, rest = text.partition(START)
    after = rest.partition(END)[2]
    cells = [
        list(rows[0]),
        ["---"] * len(rows[0]),
        *([cell(value) for value in row.values()] for row in rows),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    path.write_text(f"{before}{START}\n{table}\n{END}{after}", encoding="utf-8")
