"""metrics.csv, and TensorBoard where it is asked for."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretask.errors import UsageError, need
from pretask.run import write_text

LOGGERS = ("tensorboard",)


class Log:
    """One row a logged step, appended to metrics.csv; a new column rewrites the file.

    Args:
        folder: the run folder.
        step: steps that are done; rows of later ones, left by a run that was killed, are removed.
        loggers: what else gets the rows: `tensorboard`.
        write: whether this process is the one that writes.

    Raises:
        UsageError: there is no such logger.
    """

    def __init__(self, folder: Path, step: int, loggers: Sequence[str] = (), write: bool = True):
        unknown = [name for name in loggers if name not in LOGGERS]
        if unknown:
            raise UsageError(f"there is no logger '{unknown[0]}': {', '.join(LOGGERS)}")
        self.path = folder / "metrics.csv"
        self.columns: list[str] = []
        self.board: Any = None
        if not write:
            return
        self.rewrite(self.read(step))
        if "tensorboard" in loggers:
            need("tensorboard", "log")
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def read(self, step: int) -> list[dict[str, str]]:
        """The whole rows up to a step."""
        if step == 0 or not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8")
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        rows = [row for row in reader if int(float(row["step"])) <= step]
        self.columns = list(reader.fieldnames or ())
        return rows

    def rewrite(self, rows: Sequence[dict[str, Any]]) -> None:
        text = io.StringIO()
        if self.columns:
            writer = csv.DictWriter(text, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        write_text(self.path, text.getvalue())

    def row(self, values: dict[str, float]) -> None:
        """Add a row; `values` holds the step."""
        new = [name for name in values if name not in self.columns]
        if new:
            rows = self.read(int(values["step"]) - 1)
            self.columns = [*self.columns, *new]
            self.rewrite([*rows, values])
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns, lineterminator="\n").writerow(values)
        if self.board is not None:
            step = int(values["step"])
            for name, value in values.items():
                if name not in ("step", "epoch"):
                    self.board.add_scalar(name, value, step)

    def flush(self) -> None:
        """See to it that all rows are on disk before a checkpoint says that their steps are done."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        if self.board is not None:
            self.board.flush()

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
