"""Commands that judge: evaluate, report, claim."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pretask import config
from pretask.commands.explore import Data, Json, Modality, Reading
from pretask.commands.output import SCORE_COLUMNS, print_json, print_table, score_rows
from pretask.errors import UsageError


def evaluate(
    reference: Annotated[str, typer.Argument(help="A run folder, timm:NAME, random:NAME or pixels.")],
    data: Data = None,
    test_data: Annotated[
        str | None, typer.Option(help="Test data; default the data's own test split.")
    ] = None,
    ood_data: Annotated[
        list[str] | None,
        typer.Option(help="Data that `ood` should tell apart; may be repeated; default other embedded sets."),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", "-p", help="Comma-separated protocols.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the input in pixels.")] = None,
    modality: Modality = None,
    read: Reading = None,
    pool: Annotated[str | None, typer.Option(help="token or avg instead of the encoder's own.")] = None,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """An honest measure of what an encoder is worth."""
    from pretask import api

    scores = api.evaluate(
        reference, data, test_data=test_data, ood_data=ood_data or (), protocols=protocol,
        image_size=image_size, modality=modality, reading=config.values(read or []), pool=pool, seed=seed,
    )  # fmt: skip
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


def claim(
    slug: Annotated[str | None, typer.Argument(help="A claim, or all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only show that it runs: no verdict.")] = False,
    seeds: Annotated[int | None, typer.Option(help="Repetitions; default the claim's own.")] = None,
    processes: Annotated[int, typer.Option(help="Arms measured at a time; they share a GPU.")] = 1,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of evidence.")] = Path("evidence"),
    table: Annotated[bool, typer.Option("--table", help="Write docs/evidence.md from the evidence.")] = False,
    as_json: Json = False,
) -> None:
    """Run the experiment that a method's central statement stands or falls by."""
    if table:
        from pretask.studies.evidence import write_table

        typer.echo(f"wrote {write_table(out)}")
        return
    from pretask.studies.claim import list_claims
    from pretask.studies.experiment import run_claim

    if slug is None:
        raise UsageError(f"which claim? There is: all, {', '.join(list_claims())}")
    slugs = list_claims() if slug == "all" else [slug]
    if processes != 1:
        from pretask.studies.parallel import measure_arms

        if quick:
            raise UsageError("--quick needs no --processes: it takes seconds a claim")
        measure_arms(slugs, processes, seeds)
    results = [run_claim(name, quick=quick, seeds=seeds, out=out) for name in slugs]
    if as_json:
        print_json(results)
        return
    for result in results:
        if quick:
            typer.echo(f"{result['slug']}: it runs")
            continue
        print_table(
            f"{result['slug']}: {result['verdict']}\n{result['statement']}",
            ("comparison", "effect", "95 % interval", "verdict"),
            [comparison_row(part) for part in result["comparisons"]],
        )


def comparison_row(part: dict[str, Any]) -> list[Any]:
    low, high = part["interval"]
    name = f"{part['metric']}: {part['arm']}" + (f" - {part['against']}" if part["against"] else "")
    sign = ">" if part["claimed"] == "higher" else "<"
    interval = "" if low is None else f"[{low:+.4f}, {high:+.4f}]"
    return [f"{name} {sign} {part['margin']:g}", f"{part['effect']:+.4f}", interval, part["verdict"]]


COMMANDS = (evaluate, report, claim)
