"""How commands print: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Sequence
from typing import Any


def print_json(data: Any) -> None:
    json.dump(data, sys.stdout, indent=1, default=str)
    sys.stdout.write("\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table as wide as the terminal allows; cells are text or numbers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(show(cell)) for cell in row))
    Console().print(table)


def show(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def score_rows(scores: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """Scores as table rows: what was measured, its value and its 95 % interval."""
    return [
        [
            score.get("arm", "encoder"), score["protocol"], score["metric"], f"{score['value']:.4f}",
            f"[{score['low']:.4f}, {score['high']:.4f}]" if score["low"] is not None else "", score["n"],
        ]
        for score in scores
    ]  # fmt: skip


SCORE_COLUMNS = ("encoder", "protocol", "metric", "value", "95 % interval", "n")
