"""Commands that judge what was trained: evaluate, report, claim."""

from pathlib import Path
from typing import Annotated

import typer

from pretask.commands.explore import Data, Json
from pretask.commands.output import SCORE_COLUMNS, print_json, print_table, score_rows


def evaluate(
    reference: Annotated[str, typer.Argument(help="A run folder, timm:NAME, random:NAME or pixels.")],
    data: Data = None,
    test_data: Annotated[
        str | None, typer.Option(help="Test data; default the data's own test split.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", "-p", help="Comma-separated protocols.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the input in pixels.")] = None,
    pool: Annotated[str | None, typer.Option(help="token or avg instead of the encoder's own.")] = None,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """An honest measure of what an encoder is worth."""
    from pretask import api

    scores = api.evaluate(
        reference, data, test_data=test_data, protocols=protocol, image_size=image_size, pool=pool, seed=seed
    )
    if as_json:
        print_json(scores)
    else:
        print_table(str(reference), SCORE_COLUMNS, score_rows(scores))


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The page to write.")] = None,
) -> None:
    """One self-contained HTML page for a run, or for several side by side."""
    from pretask import api

    typer.echo(f"wrote {api.report(runs, out)}")


COMMANDS = (evaluate, report)
