"""Commands that train: train, compare, demo."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pretask import config
from pretask.commands.explore import Data, Json, Modality, Reading, Set
from pretask.commands.output import SCORE_COLUMNS, print_json, print_table, score_rows
from pretask.errors import UsageError

Encoder = Annotated[
    str | None, typer.Option("--encoder", "-e", help="Any timm image model; arguments behind a colon.")
]
ImageSize = Annotated[int | None, typer.Option(help="Side of the input in pixels; default from the data.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the data; default by the documented rule.")]
Steps = Annotated[int | None, typer.Option("--max-steps", help="Optimiser steps, instead of epochs.")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", "-b", help="Samples a step, all devices together.")
]
Lr = Annotated[str, typer.Option(help="Learning rate, or auto: the paper's, scaled to the batch.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start anew in a used run folder.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue where the last checkpoint was written.")]


def train(
    ctx: typer.Context,
    slug: Annotated[str | None, typer.Argument(help="A method, or several joined by +.")] = None,
    data: Data = None,
    encoder: Encoder = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; default runs/SLUG.")] = None,
    epochs: Epochs = None,
    max_steps: Steps = None,
    batch_size: BatchSize = None,
    accumulate: Annotated[int, typer.Option(help="Parts a batch is computed in.")] = 1,
    lr: Lr = "auto",
    image_size: ImageSize = None,
    patch_size: Annotated[int | None, typer.Option(help="Side of a patch, for transformers.")] = None,
    channels: Annotated[int | None, typer.Option(help="Channels to read pictures as.")] = None,
    read: Reading = None,
    init: Annotated[str | None, typer.Option(help="Start from a run folder's or timm's weights.")] = None,
    precision: Annotated[str, typer.Option(help="auto, 32-true, bf16-mixed or 16-mixed.")] = "auto",
    devices: Annotated[int, typer.Option(help="Devices a node.")] = 1,
    nodes: Annotated[int, typer.Option(help="Nodes.")] = 1,
    strategy: Annotated[str, typer.Option(help="auto, ddp, fsdp, ... as Lightning names them.")] = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile the task.")] = False,
    seed: int = 0,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
    workers: Annotated[
        int | None, typer.Option(help="Decoding processes, when data do not fit in memory.")
    ] = None,
    logger: Annotated[
        list[str] | None, typer.Option(help="tensorboard; metrics.csv is always written.")
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    set_: Set = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="YAML with any of these settings.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train an encoder on unlabelled data, measure it, and leave a run folder."""
    from pretask import api

    given = {
        name: value
        for name, value in ctx.params.items()
        if name not in ("set_", "config_file", "as_json", "read")
    }
    settings = merge(given, read_config(config_file), ctx)
    settings["reading"] = {**(settings.pop("reading", None) or {}), **config.values(read or [])}
    settings["options"] = {**(settings.pop("options", None) or {}), **config.pairs(set_ or [])}
    settings["loggers"] = settings.pop("logger", None) or ()
    run = api.train(settings.pop("slug"), settings.pop("data"), **settings)
    if as_json:
        print_json({"run": str(run.folder), "config": run.config, "scores": run.scores})
        return
    if run.scores:
        print_table("what the encoder is worth", SCORE_COLUMNS, score_rows(run.scores))
    typer.echo(f"\nrun:    {run.folder}\nreport: {run.folder / 'report.html'}")
    layout = "timm" if run.config["data"]["modality"] == "image" else "safetensors"
    typer.echo(f"next:   pretask export {run.folder} --format {layout} --out {run.folder / 'export'}")


def read_config(path: Path | None) -> dict[str, Any]:
    """Settings from a YAML file.

    Raises:
        UsageError: it is missing, no YAML, or no mapping.
    """
    if path is None:
        return {}
    import yaml  # here, because it would slow the start of every command

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"--config {path}: {error}") from error
    if not isinstance(loaded, dict):
        raise UsageError(f"--config {path} must be a mapping of settings")
    return {str(key).replace("-", "_"): value for key, value in loaded.items()}


def merge(given: dict[str, Any], file: dict[str, Any], ctx: typer.Context) -> dict[str, Any]:
    """Settings of the file, overruled by what was typed."""
    if "method" in file:
        file["slug"] = file.pop("method")
    config_keys = {*given, "options", "reading"}
    unknown = sorted(set(file) - config_keys)
    if unknown:
        raise UsageError(
            f"--config: unknown settings {', '.join(unknown)}; known: {', '.join(sorted(config_keys))}"
        )
    typed = {
        name
        for name in given
        if (source := ctx.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }
    return {**given, **{key: value for key, value in file.items() if key not in typed}}


def compare(
    slugs: Annotated[list[str], typer.Argument(help="Methods to compare.")],
    data: Data = None,
    encoder: Encoder = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for runs and results.")] = Path(
        "runs/compare"
    ),
    epochs: Epochs = None,
    max_steps: Steps = None,
    batch_size: BatchSize = None,
    image_size: ImageSize = None,
    seeds: Annotated[int, typer.Option(help="Repetitions with other seeds.")] = 2,
    protocol: Annotated[str | None, typer.Option(help="Comma-separated protocols.")] = None,
    vary: Annotated[
        str | None, typer.Option(help="option=a,b,c: one method's option instead of methods.")
    ] = None,
    overwrite: Overwrite = False,
    read: Reading = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """The same data, encoder, budget and seeds for each method; baselines included."""
    from pretask import api

    board = api.compare(
        slugs, data, encoder=encoder, out=out, epochs=epochs, max_steps=max_steps, batch_size=batch_size,
        image_size=image_size, seeds=seeds, protocols=protocol, vary=vary, overwrite=overwrite,
        reading=config.values(read or []), options=config.pairs(set_ or []),
    )  # fmt: skip
    if as_json:
        print_json(board)
        return
    if board["rows"]:
        print_table("leaderboard", tuple(board["rows"][0]), [tuple(row.values()) for row in board["rows"]])
    typer.echo(f"\nreport: {board['report']}")


def advise(
    slugs: Annotated[list[str] | None, typer.Argument(help="Methods; default all that fit the data.")] = None,
    data: Data = None,
    encoder: Encoder = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the runs.")] = Path("runs/advice"),
    max_steps: Annotated[int | None, typer.Option(help="Steps of the last round, the longest.")] = None,
    batch_size: BatchSize = None,
    image_size: ImageSize = None,
    seeds: Annotated[int, typer.Option(help="Repetitions of the last round.")] = 2,
    labels: Annotated[bool, typer.Option(help="Judge by few labels where there are any.")] = True,
    overwrite: Overwrite = False,
    modality: Modality = None,
    read: Reading = None,
    as_json: Json = False,
) -> None:
    """Which pretext fits these data? Methods race; in each round the worse half drops out."""
    from pretask import api

    found = api.advise(
        slugs or (), data, encoder=encoder, out=out, max_steps=max_steps, batch_size=batch_size,
        modality=modality, image_size=image_size, reading=config.values(read or []), seeds=seeds,
        labels=labels, overwrite=overwrite,
    )  # fmt: skip
    if as_json:
        print_json(found)
        return
    columns = tuple(dict.fromkeys(name for row in found["rows"] for name in row))
    print_table("the race", columns, [[row.get(name) for name in columns] for row in found["rows"]])
    for slug, why in found["left_out"].items():
        typer.echo(f"left out: {slug}: {why}")
    typer.echo(
        f"\npick: {found['pick']}, judged by {found['by']} scores of '{found['encoder']}'; it comes first in "
        f"{found['sure']:.0%} of resampled last rounds"
    )
    if found["by"] == "label-free":
        typer.echo("docs/advice.md says how far scores without labels can be trusted")


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the demo's runs.")] = Path("demo"),
    overwrite: Overwrite = False,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Two methods on data that ship with the dependencies, against pixels and a random network."""
    from pretask import demo as demonstration

    result = demonstration.run(out, overwrite=overwrite, seed=seed)
    if as_json:
        print_json(result)
        return
    print_table("digits on textures: what each encoder is worth", SCORE_COLUMNS, score_rows(result["scores"]))
    typer.echo(f"\n{result['summary']}\nreport:        {result['report']}\ncontact sheet: {result['sheet']}")


COMMANDS = (train, compare, advise, demo)
