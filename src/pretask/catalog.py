"""Every method, one row each (`pretask.catalogue`). Importing this module imports neither torch nor any method."""

from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pretask.catalogue import image, masked, others, surveys
from pretask.catalogue.row import Modality, Row
from pretask.errors import UsageError

__all__ = ["BY_SLUG", "ROWS", "TASKS", "Modality", "Row", "find"]

ROWS: tuple[Row, ...] = (*image.ROWS, *masked.ROWS, *others.ROWS, *surveys.ROWS)
BY_SLUG = {row.slug: row for row in ROWS}
TASKS = tuple(row for row in ROWS if row.kind == "task")


def find(slug: str, kind: Literal["task", "study", "any"] = "task") -> Row:
    """The row of a slug.

    Raises:
        UsageError: no such method (the message names the nearest), or it is of the other kind.
    """
    row = BY_SLUG.get(slug)
    if row is None:
        near = get_close_matches(slug, BY_SLUG, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "`pretask list` shows all methods"
        raise UsageError(f"there is no method '{slug}': {hint}")
    if kind == "task" and row.kind == "study":
        raise UsageError(f"{slug} is a study, there is nothing to train: run `pretask study {slug}`")
    if kind == "study" and row.kind == "task":
        raise UsageError(f"{slug} is a pretext task, no study: run `pretask train {slug}`")
    return row


def markdown() -> str:
    """The methods as a table for the README."""
    lines = ["| method | learns from | hides | asks |", "| --- | --- | --- | --- |"]
    for row in ROWS:
        link = f"[`{row.slug}`](src/{file_of(row)})"
        lines.append(f"| {link} {row.paper} | {row.modality} | {row.hides} | {row.asks} |")
    return "\n".join(lines)


def file_of(row: Row) -> str:
    """The method's file below `src`."""
    return row.path.partition(":")[0].replace(".", "/") + ".py"


def write_table(path: Path) -> None:
    """Put the table between the two comments of a page."""
    start, end = "<!-- methods -->", "<!-- /methods -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(start)
    path.write_text(f"{before}{start}\n{markdown()}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


if __name__ == "__main__":
    write_table(Path("README.md"))
