"""Puzzles drawn on a person's data: `Puzzles.draw` is a method's, `Puzzles.ask` a trained run's."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pretask import catalog, modalities
from pretask.errors import PretaskError

if TYPE_CHECKING:
    from pretask.data import Dataset
    from pretask.pretrain import DataSource
    from pretask.task import PretextTask

T = TypeVar("T")

SAMPLES, ROWS = 64, 4
"""Samples of the data that puzzles are drawn on; rows of a drawing."""


class Kept:
    """The last few things that were made, by what they were made from."""

    def __init__(self, most: int):
        self.most, self.things = most, OrderedDict[Hashable, Any]()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self.things:
            self.things[key] = make()
            while len(self.things) > self.most:
                self.things.popitem(last=False)
        self.things.move_to_end(key)
        return self.things[key]


class Asked(NamedTuple):
    """A task with the samples it asks about, and whether these are the person's own."""

    task: PretextTask
    dataset: Dataset
    own: bool


class Puzzles:
    """Draws puzzles, one at a time, and keeps what is slow to make. torch is imported when the first is drawn.

    Args:
        data: the person's own data; None leaves the embedded sets alone.
        modality: what `data` are; default what their files say.
        reading: settings of their reader.
    """

    def __init__(
        self,
        data: DataSource | None = None,
        modality: str | None = None,
        reading: dict[str, Any] | None = None,
    ):
        self.data, self.modality, self.reading = data, modality, dict(reading or {})
        self.lock = Lock()
        self.datasets, self.encoders, self.tasks, self.drawn = Kept(12), Kept(6), Kept(6), Kept(100)

    def warm(self) -> None:
        """Import what drawing needs."""
        with self.lock:
            from pretask import api  # noqa: F401

    def kind(self) -> str | None:
        """What the person's own data are."""
        if self.data is None or self.modality is not None:
            return self.modality
        from pretask.data.open import modality_of

        return getattr(self.data, "modality", None) or modality_of(self.data)

    def source(self, kind: str) -> tuple[DataSource, dict[str, Any], bool]:
        """What a method of this kind of data is shown on, how it is read, and whether it is the person's own."""
        kind = "image" if kind == "any" else kind
        if self.data is not None and self.kind() == kind:
            return self.data, self.reading, True
        return modalities.find(kind).embedded[0], {}, False

    def samples(self, kind: str) -> tuple[Dataset, bool]:
        """Some of the data for methods of a kind, and whether they are the person's own.

        Raises:
            PretaskError: they cannot be read.
        """
        from pretask.data import open_data

        def read() -> tuple[Dataset, bool]:
            source, reading, own = self.source(kind)
            asked = None if kind == "any" else kind
            return open_data(source, modality=asked, **{**reading, "limit": SAMPLES}), own

        return self.datasets.get(kind, read)

    def task(self, slug: str, options: dict[str, Any]) -> Asked:
        """An untrained task, prepared on the data."""
        import torch

        from pretask import api
        from pretask.pretrain import default_encoder, make_encoder
        from pretask.registry import build_task

        row = catalog.find(slug)
        dataset, own = self.samples(row.modality)

        def make() -> PretextTask:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                name = default_encoder([row])
                fresh = self.encoders.get((name, row.modality), lambda: make_encoder(name, dataset))
                task = build_task(slug, copy.deepcopy(fresh), options)
                task.prepare(api.whole_batches(dataset), len(dataset))
            return task

        key = slug, json.dumps(options, sort_keys=True, default=str)
        return Asked(self.tasks.get(key, make), dataset, own)

    def draw(self, slug: str, options: dict[str, Any], seed: int) -> dict[str, Any]:
        """A method's puzzle with these options, as plain data.

        Raises:
            PretaskError: the method, an option or the data are wrong.
        """
        key = slug, json.dumps(options, sort_keys=True, default=str), seed
        with self.lock:
            return self.drawn.get(key, lambda: self.show(self.task(slug, options), seed, answers=False))

    def ask(self, folder: Path, seed: int) -> dict[str, Any]:
        """What a trained run answers about samples of what it learned from.

        Raises:
            PretaskError: the run is not whole, or its data are gone.
        """
        from pretask.data import open_data
        from pretask.run import Run

        def make() -> Asked:
            run = Run(folder)
            own = run.config["data"]
            reading = {**own["reading"], "limit": SAMPLES}
            return Asked(run.load_task(), open_data(own["source"], modality=own["modality"], **reading), True)

        checkpoint = folder / "checkpoint"
        if not checkpoint.is_dir():
            raise PretaskError(f"'{folder}' has no checkpoint: its network cannot be asked")
        age = max(path.stat().st_mtime_ns for path in (checkpoint, *checkpoint.iterdir()))
        with self.lock:
            asked = self.tasks.get(("run", folder, age), make)
            return self.show(asked, seed, answers=True)

    def show(self, asked: Asked, seed: int, answers: bool) -> dict[str, Any]:
        """Some samples' panels. The task is left as it was."""
        import torch

        from pretask.gallery.panels import rows_of
        from pretask.task import Step

        task, dataset, own = asked
        chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:ROWS]
        with torch.no_grad():
            sheet = task.eval().preview(dataset.batch(chosen), Step.at(0, 1, 1, seed))
        return {
            "title": sheet.title,
            "note": sheet.note,
            "rows": rows_of(sheet, answers, dataset.inputs.get("rate", 16_000))[:ROWS],
            "data": dataset.name,
            "own": own,
        }
