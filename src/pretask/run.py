"""A run folder: what a training leaves behind, and how to read it back.

config.yaml           everything that made the run
metrics.csv           one row a logged step
encoder.safetensors   the encoder, under its library's own names
checkpoint/           what `--resume` continues from
preview/              contact sheets through training
evaluation.json       the scores measured so far
environment.json      versions and machine
skipped.csv           files that could not be used, and why
report.html           all of it for a reader
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pretask.errors import PretaskError, UsageError

if TYPE_CHECKING:
    from pretask.encoders import Encoder
    from pretask.task import PretextTask

CONFIG, SCORES = "config.yaml", "evaluation.json"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


class Run:
    """A run folder.

    Args:
        folder: where it is.

    Raises:
        UsageError: it is no run folder.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / CONFIG).is_file():
            raise UsageError(f"'{folder}' is no run folder: it has no {CONFIG}")

    @classmethod
    def create(cls, folder: str | Path, config: dict[str, Any], resume: bool, overwrite: bool) -> Run:
        """Start a folder, or take up a used one.

        Raises:
            UsageError: the folder holds something and neither `resume` nor `overwrite` was asked.
        """
        folder = Path(folder)
        used = folder.is_dir() and any(folder.iterdir())
        is_run = (folder / CONFIG).is_file()
        if used and not (resume or overwrite):
            what = "holds a run" if is_run else "is not empty"
            raise UsageError(f"'{folder}' {what}: use --resume to continue, --overwrite to start anew")
        if used and overwrite and not resume:
            if not is_run:
                raise UsageError(f"'{folder}' is not a run folder; it is not overwritten")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not (resume and is_run):
            write_text(folder / CONFIG, yaml.safe_dump(config, sort_keys=False))
        return cls(folder)

    @property
    def config(self) -> dict[str, Any]:
        return yaml.safe_load((self.folder / CONFIG).read_text(encoding="utf-8"))

    @property
    def finished(self) -> bool:
        return (self.folder / "encoder.safetensors").is_file()

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The rows of metrics.csv; empty cells are left out."""
        path = self.folder / "metrics.csv"
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return [
                {key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)
            ]

    @property
    def scores(self) -> list[dict[str, Any]]:
        path = self.folder / SCORES
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []

    def add_scores(self, scores: list[dict[str, Any]]) -> None:
        """Keep scores beside those measured before; the same measurement is replaced."""

        def key(score: dict[str, Any]) -> tuple:
            return score.get("arm"), score["protocol"], score["metric"], str(score.get("data"))

        merged = {key(score): score for score in [*self.scores, *scores]}
        write_text(self.folder / SCORES, json.dumps(list(merged.values()), indent=1))

    def load_encoder(self) -> Encoder:
        """The encoder this run trained.

        Raises:
            PretaskError: the run is not finished.
        """
        from pretask.encoders import load_encoder

        if not self.finished:
            raise PretaskError(
                f"'{self.folder}' has no encoder yet: continue it with `pretask train --resume`"
            )
        return load_encoder(self.folder)

    def load_task(self) -> PretextTask:
        """The whole task as the last checkpoint holds it: encoder, heads, teachers."""
        from pretask.encoders.weights import restore
        from pretask.registry import build_task
        from pretask.training.checkpoint import load_task_state

        config = self.config
        task = build_task(config["task"], restore(config["encoder"]), config["options"])
        load_task_state(task, self.folder)
        return task
