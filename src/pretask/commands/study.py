"""The command that runs what is checked and not trained: study."""

from pathlib import Path
from typing import Annotated

import typer

from pretask.commands.explore import Json
from pretask.commands.output import print_json, print_table
from pretask.errors import PretaskError


def study(
    slug: Annotated[str, typer.Argument(help="A study of `pretask list`.")],
    page: Annotated[
        Path | None, typer.Option(help="Also write the table into this Markdown page, between its marks.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Theory made executable: run the checks of a study and print what they found."""
    from pretask.studies.study import cell, run_study, write_into

    rows = run_study(slug)
    if as_json:
        print_json(rows)
    else:
        print_table(slug, tuple(rows[0]), [[cell(value) for value in row.values()] for row in rows])
    if page is not None:
        write_into(page, rows)
    failed = sum(not row.get("holds", True) for row in rows)
    if failed:
        raise PretaskError(f"{failed} of {len(rows)} checks of {slug} do not hold")


COMMANDS = (study,)
