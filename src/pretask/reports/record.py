"""What a run folder holds, read so that a missing or damaged part becomes a sentence, not a crash."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from pretask import catalog
from pretask.errors import PretaskError
from pretask.run import Run

T = TypeVar("T")
Curve = tuple[np.ndarray, np.ndarray]


@dataclass
class Record:
    """A run as a report needs it.

    Args:
        folder: the run folder.
        config: config.yaml.
        curves: steps and values of every column of metrics.csv; empty cells are left out.
        scores: evaluation.json.
        environment: environment.json.
        skipped: path and reason of every file that was not used.
        sheets: contact sheets with their steps, in order.
        problems: by part of the folder, why it could not be read.
    """

    folder: Path
    config: dict[str, Any]
    curves: dict[str, Curve] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    sheets: list[tuple[int, Path]] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def slugs(self) -> list[str]:
        return str(self.config.get("task", "")).split("+")

    @property
    def rows(self) -> list[catalog.Row]:
        """The catalogue's rows of the methods; of an unknown method there is none."""
        return [catalog.BY_SLUG[slug] for slug in self.slugs if slug in catalog.BY_SLUG]

    @property
    def title(self) -> str:
        titles = [catalog.BY_SLUG[slug].title if slug in catalog.BY_SLUG else slug for slug in self.slugs]
        return " + ".join(filter(None, titles)) or "A run"

    @property
    def terms(self) -> list[str]:
        """Names of the losses besides their total."""
        return [
            key.removeprefix("loss/")
            for key in self.curves
            if key.startswith("loss/") and key != "loss/total"
        ]

    def loss(self) -> Curve | None:
        """The loss that is minimised."""
        if "loss/total" in self.curves:
            return self.curves["loss/total"]
        return self.curves.get(f"loss/{self.terms[0]}") if len(self.terms) == 1 else None

    def chance(self, term: str) -> float | None:
        """What a loss rests at when the encoder knows nothing."""
        if f"chance/{term}" in self.curves:
            return float(self.curves[f"chance/{term}"][1][-1])
        levels = self.config.get("chance")
        level = levels.get(term) if isinstance(levels, dict) else None
        return float(level) if isinstance(level, int | float) else None


def read(folder: str | Path) -> Record:
    """Read a run folder.

    Raises:
        PretaskError: it is no run folder, or its config.yaml cannot be read.
    """
    run = Run(folder)
    try:
        config = run.config
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        why = f"{getattr(error, 'problem', None) or error}".splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 1})"
        raise PretaskError(
            f"'{folder}' has a config.yaml that cannot be read: {why}{where}; mend it, or train anew with --overwrite"
        ) from error
    if not isinstance(config, dict):
        raise PretaskError(f"'{folder}' has a config.yaml that holds no settings: is it a run folder?")
    record = Record(run.folder, config)

    def part(file: str, reader: Callable[[], T], otherwise: T) -> T:
        try:
            return reader()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, csv.Error) as error:
            record.problems[file] = f"{file} cannot be read: {error}"
            return otherwise

    record.curves = part("metrics.csv", lambda: columns(run.metrics), {})
    record.scores = part("evaluation.json", lambda: whole_scores(run.scores), [])
    record.environment = part("environment.json", lambda: read_json(run.folder / "environment.json"), {})
    record.skipped = part("skipped.csv", lambda: read_skipped(run.folder / "skipped.csv"), [])
    record.sheets = find_sheets(run.folder / "preview")
    return record


def columns(rows: list[dict[str, float]]) -> dict[str, Curve]:
    """Rows of metrics as curves over the step."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for number, row in enumerate(rows):
        for key, value in row.items():
            if key and key != "step":
                steps, values = found.setdefault(key, ([], []))
                steps.append(row.get("step", float(number)))
                values.append(value)
    return {key: (np.array(steps), np.array(values)) for key, (steps, values) in found.items()}


def whole_scores(scores: Any) -> list[dict[str, Any]]:
    """The scores that say what was measured."""
    if not isinstance(scores, list):
        raise ValueError("it is no list of scores")
    return [s for s in scores if isinstance(s, dict) and {"protocol", "metric", "value"} <= s.keys()]


def read_json(path: Path) -> dict[str, Any]:
    loaded = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not isinstance(loaded, dict):
        raise ValueError("it is no mapping")
    return loaded


def read_skipped(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return [(row.get("path") or "", row.get("reason") or "") for row in csv.DictReader(file)]


def find_sheets(folder: Path) -> list[tuple[int, Path]]:
    """Contact sheets `step-NUMBER.png`, by step."""
    numbered = [(re.fullmatch(r"step-(\d+)", path.stem), path) for path in folder.glob("step-*.png")]
    return sorted((int(match[1]), path) for match, path in numbered if match)
