"""The command that runs studies: checks that train nothing, and surveys of many methods."""

from pathlib import Path
from typing import Annotated

import typer

from pretask.commands.explore import Data, Json, Where
from pretask.commands.output import print_json, print_table
from pretask.errors import PretaskError


def study(
    slug: Annotated[str, typer.Argument(help="A study of `pretask list`.")],
    data: Data = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only show that it runs: two steps, few samples.")
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Steps of a method that shows two views of a picture; others see as many pictures."
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Repetitions; default the study's own.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A family or member of a survey; repeatable; default all.")
    ] = None,
    where: Where = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder that keeps what is finished, for the next time.")
    ] = Path("runs/studies"),
    page: Annotated[
        Path | None, typer.Option(help="Also write the tables into this Markdown page, between its marks.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw the curves of a theory into this .png, .svg or .pdf.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Theory made executable, and surveys: many methods under one budget, their table and what it shows."""
    from pretask.studies.study import cell, run_study, sweeps_of, tables, write_into
    from pretask.studies.survey import Settings

    if plot is not None:
        from pretask.reports.sweeps import check_path, draw

        check_path(plot)
    rows = run_study(slug, Settings(data, quick, steps, seeds, tuple(only or ()), tuple(where or ()), out))
    if as_json:
        print_json(rows)
    else:
        for table in tables(rows):
            print_table(slug, tuple(table[0]), [[cell(value) for value in row.values()] for row in table])
    if page is not None:
        write_into(page, rows)
    if plot is not None:
        draw(sweeps_of(slug), plot)
    failed = sum(not row.get("holds", True) for row in rows)
    if failed:
        raise PretaskError(f"{failed} of {len(rows)} checks of {slug} do not hold")


COMMANDS = (study,)
