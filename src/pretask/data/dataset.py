"""A data set: samples by number, in batches; in memory, or decoded when asked for."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pretask.data.batch import to_float
from pretask.data.layout import UNLABELLED
from pretask.errors import DataError, UsageError
from pretask.task import Batch

log = logging.getLogger("pretask.data")

MEASURED = 2000  # samples that stand for a data set's mean and standard deviation


class Skipped(NamedTuple):
    """A file that is not used, and why."""

    path: str
    reason: str


class Samples(Protocol):
    """Where samples come from; rows that cannot be read are named with the reason, their columns are void."""

    in_memory: bool

    def __len__(self) -> int: ...

    def name(self, row: int) -> str: ...

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]: ...


@dataclass(repr=False)
class Memory:
    """Samples held as tensors: a batch is one gather."""

    columns: dict[str, Tensor]
    names: Sequence[str] | None = None
    in_memory = True

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def name(self, row: int) -> str:
        return self.names[row] if self.names is not None else str(row)

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]:
        return {key: column.index_select(0, rows) for key, column in self.columns.items()}, {}


@dataclass(eq=False, repr=False)
class Dataset:
    """Samples with a number each, in batches on the CPU.

    Args:
        samples: where they come from.
        name: what a person calls the set.
        channels: of its pictures; 0 for other data.
        image_size: side an encoder should take, in pixels; 0 for other data.
        modality: as in the catalogue.
        inputs: what an encoder of these data must be told to be built, as keyword arguments; of pictures
            channels and side.
        rows: which of `samples` belong to this set; default all.
        targets: a class for each of `samples`, or -1.
        classes: their names.
        parts: for each of `samples` the place of its split in `part_names`, or -1.
        part_names: the splits there are.
        skipped: files that could not be used; grows when one breaks during a run.
        max_broken: the largest share of broken files that is put up with.
        workers: processes that decode, where samples are not in memory.
        facts: what else `describe` should say.
        connected: samples are parts of one whole that every batch holds (the nodes of a graph): all are there
            in pretraining, whatever their split, and all are encoded at once.
    """

    samples: Samples
    name: str
    channels: int = 0
    image_size: int = 0
    modality: str = "image"
    inputs: dict[str, Any] = field(default_factory=dict)
    rows: Tensor = None  # type: ignore[assignment]  # set below
    targets: Tensor | None = None
    classes: list[str] | None = None
    parts: Tensor | None = None
    part_names: tuple[str, ...] = ()
    skipped: list[Skipped] = field(default_factory=list)
    max_broken: float = 0.2
    workers: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    connected: bool = False
    stream = False

    def __post_init__(self) -> None:
        if self.rows is None:
            self.rows = torch.arange(len(self.samples))
        if self.modality == "image":
            self.inputs = {"in_chans": self.channels, "image_size": self.image_size}

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {len(self.rows)} samples>"

    @property
    def in_memory(self) -> bool:
        return self.samples.in_memory

    @cached_property
    def labels(self) -> Int[Tensor, "items"] | None:
        """A class for every sample; None unless every sample has one and there are at least two."""
        if self.targets is None:
            return None
        labels = self.targets[self.rows]
        known = len(labels) > 0 and bool((labels != UNLABELLED).all())
        return labels if known and len(self.classes or ()) > 1 else None

    def batch(self, indices: Int[Tensor, "batch"] | Sequence[int]) -> Batch:
        """These samples as one batch.

        Raises:
            DataError: too many files turn out to be broken.
        """
        batch, broken = self.fetch(torch.as_tensor(indices, dtype=torch.long))
        self.record(broken)
        return batch

    def fetch(self, indices: Int[Tensor, "batch"]) -> tuple[Batch, dict[int, str]]:
        """A batch, and the rows that proved unreadable; each gives way to another sample, always the same."""
        rows = self.rows[indices]
        columns, broken = self.samples.get(rows)
        found, attempt = dict(broken), 0
        bad = [place for place, row in enumerate(rows.tolist()) if row in broken] if broken else []
        while bad:
            attempt += 1
            if attempt > 100:
                raise DataError(
                    f"{self.name}: 100 samples running are unreadable: {list(found.values())[:3]}"
                )
            indices = indices.clone()
            for place in bad:
                rng = np.random.default_rng([int(indices[place]), attempt])
                indices[place] = int(rng.integers(len(self)))
            rows = self.rows[indices[bad]]
            fresh, broken = self.samples.get(rows)
            for key, column in fresh.items():
                columns[key][bad] = column
            found.update(broken)
            bad = [place for place, row in zip(bad, rows.tolist(), strict=True) if row in broken]
        batch: Batch = {**columns, "index": indices}
        if self.labels is not None:
            batch["label"] = self.labels[indices]
        return batch, found

    def record(self, broken: dict[int, str]) -> None:
        """Remember files that broke during a run.

        Raises:
            DataError: they are more than `max_broken` of the set.
        """
        if not broken:
            return
        known = {item.path for item in self.skipped}
        names = {self.samples.name(row): reason for row, reason in broken.items()}
        self.skipped += [Skipped(name, reason) for name, reason in names.items() if name not in known]
        check_broken(self.name, self.skipped, len(self.samples), self.max_broken)

    def subset(self, indices: Int[Tensor, "some"] | Sequence[int]) -> Dataset:
        """The samples with these numbers, numbered anew; storage is shared."""
        return replace(self, rows=self.rows[torch.as_tensor(indices, dtype=torch.long)])

    def split(self, name: str) -> Dataset | None:
        """The part that the source itself calls `train`, `val` or `test`; None if it has no such part."""
        if self.parts is None or name not in self.part_names:
            return None
        mine = self.parts[self.rows] == self.part_names.index(name)
        part = replace(self, rows=self.rows[mine], parts=None, part_names=(), name=f"{self.name} ({name})")
        return part if len(part) else None

    @property
    def pretraining_part(self) -> Dataset:
        """What is learned from: the split `train`; everything where there is none, or where splits only say
        whose labels may be used."""
        return self if self.connected else self.split("train") or self

    def channel_stats(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel of pictures in [0, 1], over samples spread evenly."""
        chosen = torch.linspace(0, len(self) - 1, min(MEASURED, len(self))).long()
        count, total, square = 0, torch.zeros(self.channels).double(), torch.zeros(self.channels).double()
        for indices in chosen.split(64):
            pixels = to_float(self.batch(indices)["image"]).transpose(0, 1).flatten(1).double()
            count += pixels.shape[1]
            total += pixels.sum(1)
            square += pixels.square().sum(1)
        mean = total / count
        std = (square / count - mean.square()).clamp(min=1 / 255**2).sqrt()
        return tuple(mean.tolist()), tuple(std.tolist())

    def describe(self) -> dict[str, Any]:
        """What is there, in plain types."""
        labels = self.labels
        facts: dict[str, Any] = {"name": self.name, "modality": self.modality, "count": len(self)}
        if self.modality == "image":
            facts |= {"channels": self.channels, "image size": self.image_size}
        facts |= self.facts
        if labels is not None and self.classes is not None:
            counts = torch.bincount(labels, minlength=len(self.classes)).tolist()
            facts["classes"] = len(self.classes)
            facts["labels"] = dict(zip(self.classes, counts, strict=True))
        else:
            facts["labels"] = "none"
        if self.parts is not None:
            parts = self.parts[self.rows]
            facts["splits"] = {name: int((parts == i).sum()) for i, name in enumerate(self.part_names)}
        facts["broken"] = len(self.skipped)
        if self.skipped:
            facts["why broken"] = dict(Counter(item.reason for item in self.skipped).most_common(10))
            facts["broken files"] = [f"{path}: {reason}" for path, reason in self.skipped[:20]]
        return facts


def part_of(dataset: Dataset, split: str) -> Dataset:
    """A split of a data set.

    Raises:
        UsageError: it has none of this name.
    """
    part = dataset.split(split)
    if part is None:
        raise no_split(dataset.name, split, dataset.part_names)
    return part


def no_split(name: str, split: str, there: Iterable[str]) -> UsageError:
    return UsageError(f"{name} has no split '{split}'; it has {', '.join(there) or 'none'}")


def spread(count: int, limit: int) -> Int[Tensor, "some"]:
    """At most `limit` of `count` numbers, evenly spaced."""
    return torch.linspace(0, count - 1, min(count, limit), dtype=torch.float64).long()


def check_broken(name: str, skipped: Sequence[Skipped], total: int, max_broken: float) -> None:
    """
    Raises:
        DataError: more than `max_broken` of `total` files are broken.
    """
    if len(skipped) > max_broken * total:
        first = "; ".join(f"{path}: {reason}" for path, reason in skipped[:3])
        raise DataError(
            f"{name}: {len(skipped)} of {total} files cannot be used ({first}), more than max_broken="
            f"{max_broken:g} allows. Mend or remove them, or allow a larger share."
        )


def name_skipped(name: str, skipped: Sequence[Skipped], what: str = "file") -> None:
    """Warn of what is skipped: how much, and the first with its reason."""
    if skipped:
        several = f"{what}s are" if len(skipped) > 1 else f"{what} is"
        log.warning("%s: %d %s skipped, the first %s: %s", name, len(skipped), several, *skipped[0])
