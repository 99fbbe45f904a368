"""Commands that take results away: embed, export."""

from pathlib import Path
from typing import Annotated

import typer

from pretask import config
from pretask.commands.explore import Data, Modality, Reading


def embed(
    reference: Annotated[str, typer.Argument(help="A run folder, timm:NAME, random:NAME or pixels.")],
    data: Data = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .parquet or .npy file.")] = Path(
        "embeddings.parquet"
    ),
    image_size: Annotated[int | None, typer.Option(help="Side of the input in pixels.")] = None,
    modality: Modality = None,
    read: Reading = None,
    pool: Annotated[str | None, typer.Option(help="token or avg instead of the encoder's own.")] = None,
) -> None:
    """One vector a sample."""
    from pretask import api

    path, shape = api.embed(
        reference, data, out, image_size=image_size, modality=modality, reading=config.values(read or []),
        pool=pool,
    )  # fmt: skip
    typer.echo(f"wrote {shape[0]} x {shape[1]} to {path}")


def export(
    reference: Annotated[str, typer.Argument(help="A run folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write into.")] = Path("export"),
    format: Annotated[
        str, typer.Option("--format", "-f", help="timm, transformers, diffusers, safetensors, onnx or torch.")
    ] = "timm",
) -> None:
    """The encoder for use without pretask, with a model card."""
    from pretask import api

    typer.echo(f"wrote {api.export(reference, out, format)}")


COMMANDS = (embed, export)
