"""The command that opens the gallery: app."""

from pathlib import Path
from typing import Annotated

import typer

from pretask import config
from pretask.commands.explore import Data, Modality, Reading


def app(
    data: Data = None,
    runs: Annotated[Path, typer.Option(help="The folder of run folders.")] = Path("runs"),
    evidence: Annotated[Path, typer.Option(help="The folder of claims' results.")] = Path("evidence"),
    port: Annotated[int, typer.Option(help="Of 127.0.0.1; 0 takes any that is free.")] = 8088,
    modality: Modality = None,
    read: Reading = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """The gallery, a local page: every method's puzzle on your data, runs as they train, the evidence."""
    from pretask.gallery.server import app as serve

    serve(
        data, runs, evidence=evidence, port=port, modality=modality, reading=config.values(read or []),
        browser=browser,
    )  # fmt: skip


COMMANDS = (app,)
