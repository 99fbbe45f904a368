"""`pretask`: the entry point. Exit codes: 0 done, 1 failed, 2 wrong usage."""

import sys
from typing import Any

import typer

from pretask import __version__
from pretask.commands import explore, judge, learn, look, reward, share, study
from pretask.errors import PretaskError, UsageError

app = typer.Typer(
    name="pretask",
    help="Learn encoders from unlabelled data by pretext tasks: train, compare, look, probe, export.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

for module in (explore, learn, judge, look, share, study, reward):
    for command in module.COMMANDS:
        app.command(command.__name__.rstrip("_"))(command)


def print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback when something fails."),
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=print_version, is_eager=True
    ),
) -> None:
    """What stands before any command."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line; errors a user can mend are one line, everything else keeps its traceback."""
    arguments: list[Any] = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = ["--debug", *(a for a in arguments if a != "--debug")] if debug else arguments
    try:
        app(arguments)
    except PretaskError as error:
        if debug:
            raise
        print(f"pretask: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        print("pretask: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        print(
            f"pretask: {type(error).__name__}: {error} (run with --debug for the traceback)", file=sys.stderr
        )
        sys.exit(1)
