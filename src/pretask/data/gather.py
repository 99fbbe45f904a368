"""A source's samples as a data set: read into memory once if they fit, else when they are asked for."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from pretask.data.dataset import (
    Dataset,
    Memory,
    Samples,
    Skipped,
    check_broken,
    name_skipped,
    no_split,
    spread,
)
from pretask.data.decode import memory_budget
from pretask.data.source import Source

Cache = Literal["auto", "memory", "never"]
PROBED = 8  # samples looked at to know what all are like
SHARE = 5  # of the files of a class every fifth is for testing, where the source does not say


class Parted(Protocol):
    """Files with splits and classes: `source.Source`, or what a reader has instead."""

    @property
    def name(self) -> str: ...

    @property
    def parts(self) -> Tensor | None: ...

    @property
    def part_names(self) -> tuple[str, ...]: ...

    @property
    def targets(self) -> Tensor | None: ...


def chosen(
    found: Parted, file: Int[Tensor, "samples"], split: str | None, limit: int | None
) -> Int[Tensor, "some"]:
    """The samples that are asked for, spread evenly where they are limited.

    Args:
        found: the files.
        file: for each sample its file.
        split: only this part of what the source itself splits.
        limit: at most so many.

    Raises:
        UsageError: the split is not there.
    """
    rows = torch.arange(len(file))
    if split is not None:
        if found.parts is None or split not in found.part_names:
            raise no_split(found.name, split, found.part_names)
        rows = rows[found.parts[file] == found.part_names.index(split)]
    return rows if limit is None else rows[spread(len(rows), limit)]


def fifth(found: Parted, file: Int[Tensor, "samples"]) -> Int[Tensor, "files"] | None:
    """Every fifth file of each class for testing, where there are several samples of a file and the source does not
    say: else samples of one file would be learned from and judged by. None where that is not needed."""
    if found.parts is not None or found.targets is None or len(file.unique()) == len(file):
        return None
    place = torch.zeros_like(found.targets)
    for target in found.targets.unique():
        own = (found.targets == target).nonzero().flatten()
        place[own] = torch.arange(len(own))
    parts = (place % SHARE == SHARE - 1).long()
    return parts if parts.any() else None


def gathered(
    found: Source,
    rows: Int[Tensor, "some"],
    samples: Samples,
    sample_bytes: int,
    cache: Cache,
    max_broken: float,
    **about: Any,
) -> Dataset:
    """These samples as a data set.

    Args:
        found: where they come from: splits, classes and other files there.
        rows: of `samples`.
        samples: which reads them when asked for.
        sample_bytes: what one of them needs in memory.
        cache: `memory` reads everything now, `never` when asked for, `auto` by the memory that is free.
        max_broken: the largest share of broken files that is put up with.
        about: what else the data set is told of itself.

    Raises:
        DataError: too many are broken.
    """
    needed = sample_bytes * len(rows)
    in_memory = cache == "memory" or (cache == "auto" and needed <= memory_budget())
    tried = rows if in_memory else rows[spread(len(rows), PROBED)]
    columns, broken = samples.get(tried)
    skipped = [Skipped(samples.name(row), reason) for row, reason in sorted(broken.items())]
    readable = torch.tensor([row not in broken for row in rows.tolist()], dtype=torch.bool)
    check_broken(found.name, skipped, len(tried), max_broken if readable.any() else 0)
    name_skipped(found.name, skipped)
    size = f"{needed / 1e6:.1f} MB"
    facts: dict[str, Any] = {
        "memory": f"decoded once into memory ({size})"
        if in_memory
        else f"decoded when needed ({size} in all)"
    }
    if found.ignored:
        facts["other files"] = found.ignored
    if in_memory:
        samples = Memory(columns, [samples.name(row) for row in rows.tolist()])
    kept = rows if in_memory else torch.arange(len(samples))
    return Dataset(
        samples, found.name, rows=readable.nonzero().flatten() if in_memory else rows[readable],
        targets=None if found.targets is None else found.targets[kept], classes=found.classes,
        parts=None if found.parts is None else found.parts[kept], part_names=found.part_names,
        skipped=skipped, max_broken=max_broken, facts=facts, **about,
    )  # fmt: skip
