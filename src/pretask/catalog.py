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


def file_of(row: Row) -> str:
    """The method's file below `src`."""
    return row.path.partition(":")[0].replace(".", "/") + ".py"


def summary() -> str:
    """For the README: the methods of each kind of data, as links to their files."""
    lines = ["| learns from | methods |", "| --- | --- |"]
    for modality in dict.fromkeys(row.modality for row in ROWS):
        links = [f"[`{row.slug}`](src/{file_of(row)})" for row in ROWS if row.modality == modality]
        lines.append(f"| {modality} | {' '.join(links)} |")
    return "\n".join(lines)


def table() -> str:
    """Every method with its paper, what it hides and what it asks."""
    lines = [
        "| method | learns from | hides | asks | paper | file |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in ROWS:
        cells = (f"`{row.slug}`", row.modality, row.hides, row.asks, row.paper, f"`{file_of(row)}`")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def between_marks(text: str, content: str) -> str:
    """A page's text with the content between its two comments."""
    start, end = "<!-- methods -->", "<!-- /methods -->"
    before, _, rest = text.partition(start)
    return f"{before}{start}\n{content}\n{end}{rest.partition(end)[2]}"


if __name__ == "__main__":
    for page, content in ((Path("README.md"), summary()), (Path("docs/methods.md"), table())):
        page.write_text(between_marks(page.read_text(encoding="utf-8"), content), encoding="utf-8")
