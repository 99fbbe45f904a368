"""Point clouds, whatever they lie in, as one kind of data set."""

from __future__ import annotations

from typing import Any, Literal

import torch

from pretask.data.cloud_sources import find_clouds
from pretask.data.clouds import Cloud, decode
from pretask.data.dataset import Dataset, part_of, spread
from pretask.data.decode import threads
from pretask.data.formats import Broken, reasons
from pretask.data.gather import PROBED, Cache, chosen, gathered
from pretask.data.scans import LazyClouds, Reading
from pretask.data.source import Source
from pretask.data.stores import Store
from pretask.errors import UsageError

TESTED = 0.25  # share of the scans of each cloud that are for testing
MOST_WORKERS = 8


def open_points(
    source: Any,
    *,
    split: str | None = None,
    limit: int | None = None,
    max_broken: float = 0.2,
    workers: int | None = None,
    points: int = 1024,
    scale: Literal["sphere", "none"] = "sphere",
    features: int | None = None,
    scans: int = 1,
    turn: Literal["none", "x", "y", "z"] = "none",
    noise: float = 0.0,
    window: int = 60,
    cache: Cache = "auto",
) -> Dataset:
    """Point clouds from a folder, archive, stack, arrays or an embedded set, equally many points of each.

    The batch has `points`; and `normals` and `variation`, measured on the whole cloud before points are taken
    of it, with `oriented` telling whether the normals' signs are known: they are where the file gives normals
    or is a mesh.

    Args:
        source: what `docs/data.md` lists.
        split: only this part (`train`, `val` or `test`) of what the source itself splits.
        limit: at most so many samples, spread evenly over the source.
        max_broken: the largest share of unreadable files that is put up with.
        workers: processes that decode what is not in memory; default one a core, at most 8.
        points: of each cloud; always the same of it, and some twice where there are fewer.
        scale: `sphere` moves a cloud's mean to the origin and its farthest point to distance 1; `none` keeps
            the file's coordinates.
        features: numbers a point carries besides its place (colour in [0, 1], intensity ...); default as many
            as all have.
        scans: samples made of each cloud, each of other points while they last; the last quarter is for
            testing where the source has no splits.
        turn: turn every scan by a random angle about this axis.
        noise: standard deviation of a scan's errors along each axis.
        window: frames that make one cloud, where a file holds recordings of frames.
        cache: `memory` decodes everything now, `never` when asked for, `auto` by the memory that is free.

    Raises:
        DataError: there is nothing, too much is broken, or the source cannot be understood.
        UsageError: a split that is not there, or a number that makes no sense.
    """
    if points < 1 or scans < 1 or window < 1:
        raise UsageError(f"points ({points}), scans ({scans}) and window ({window}) are whole numbers from 1")
    found = find_clouds(source, window)
    rows = chosen(found, torch.arange(as_scans(found, scans)), split, limit)
    numbers = (rows // scans).unique()
    sizes, carried = look(found.store, numbers[spread(len(numbers), PROBED)].tolist())
    width = min(carried, default=0) if features is None else features
    reading = Reading(points, width, scale, scans, turn, noise)
    size = sum(column.nbytes for column in reading.void(1).values())
    dataset = gathered(
        found, rows, LazyClouds(found.store, reading), size, cache, max_broken, modality="points",
        inputs={"in_chans": 3 + width},
    )  # fmt: skip
    if width:
        dataset.facts["numbers a point"] = 3 + width
    dataset.workers = min(threads(), MOST_WORKERS) if workers is None else workers
    if sizes:
        dataset.facts["points a cloud"] = f"{min(sizes)} to {max(sizes)}, of which {points} are taken"
    return dataset if split is None else part_of(dataset, split)


def as_scans(found: Source, scans: int) -> int:
    """The number of scans; the source's classes and parts are those of scans afterwards."""
    if scans > 1:
        split_scans(found, scans)
    count = len(found.store.names) * scans
    if found.classes is not None and count < 2 * len(found.classes):
        found.targets, found.classes = None, None  # names rather than classes
    return count


def look(store: Store, rows: list[int]) -> tuple[list[int], list[int]]:
    """How many points these clouds have, and how many numbers each of their points carries besides its place;
    nothing of clouds that cannot be read, and no size of meshes, whose points are drawn."""
    sizes, carried = [], []
    for row in rows:
        try:
            with reasons():
                shape = decode(store.read(row), str(store.names[row]))
        except Broken:
            continue
        if isinstance(shape, Cloud):
            sizes.append(len(shape.places))
        carried.append(shape.features.shape[1] if isinstance(shape, Cloud) else 0)
    return sizes, carried


def split_scans(found: Source, scans: int) -> None:
    """Targets and parts for every scan instead of every cloud."""
    if found.targets is not None:
        found.targets = found.targets.repeat_interleave(scans)
    if found.parts is not None:
        found.parts = found.parts.repeat_interleave(scans)
    else:
        number = torch.arange(len(found.store.names) * scans) % scans
        found.parts = (number >= scans - max(1, round(TESTED * scans))).long()
        found.part_names = ("train", "test")
