"""Volumes (CT, MRI, microscopy), whatever they lie in, as one kind of data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pretask.data.dataset import Dataset, part_of, spread
from pretask.data.decode import threads
from pretask.data.formats import Broken, reasons
from pretask.data.gather import PROBED, Cache, chosen, gathered
from pretask.data.stores import Opener
from pretask.data.volume_files import Volumes, find_volumes
from pretask.data.voxels import Reading, Scan, Triple, at_spacing
from pretask.errors import UsageError

LARGEST, STEP = 96, 8  # voxels along an axis by default: at most, and in such steps
MOST_WORKERS = 8


def open_volumes(
    source: Any,
    *,
    split: str | None = None,
    limit: int | None = None,
    max_broken: float = 0.2,
    workers: int | None = None,
    size: int | Sequence[int] | None = None,
    spacing: float | Sequence[float] | None = None,
    window: Sequence[float] | None = None,
    foreground: float | None = None,
    channels: int | None = None,
    cache: Cache = "auto",
) -> Dataset:
    """Volumes from files, a folder, arrays or the embedded set `phantoms`, all of one size.

    The batch has `volume` (B, C, D, H, W) with values in [0, 1], `size` (B, 3), the voxels it had, and
    `segmentation` (B, D, H, W) where there are any, -1 where nothing is known. Axes run to the right, to the
    front and up (RAS) where files say how they lie; arrays stay as they are.

    Args:
        source: what `docs/data.md` lists.
        split: only this part (`train`, `val` or `test`) of what the source itself splits.
        limit: at most so many samples, spread evenly over the source.
        max_broken: the largest share of unreadable files that is put up with.
        workers: processes that decode what is not in memory; default one a core, at most 8.
        size: voxels along each axis, or one number for all three; default the median of the volumes', in steps
            of 8, made smaller in proportion where one is above 96.
        spacing: of voxels in millimetres, one number or three: volumes are resampled to it, then cut or filled
            up to `size` about their middle. Default: the whole volume is stretched onto `size`.
        window: the two values that become 0 and 1, such as -175 and 250 Hounsfield units; default percentiles
            0.5 and 99.5 of each volume.
        foreground: cut off what lies outside of the box of all that is brighter, in [0, 1].
        channels: of a voxel; default as many as most volumes have.
        cache: `memory` decodes everything now, `never` when asked for, `auto` by the memory that is free.

    Raises:
        DataError: there is nothing, too much is broken, or the source cannot be understood.
        UsageError: a split that is not there, or a number that makes no sense.
    """
    found = find_volumes(source)
    rows = chosen(found, torch.arange(len(found.store.names)), split, limit)
    wanted = None if spacing is None else three(spacing, "spacing")
    span = None if window is None else pair_of(window)
    seen = look(found.store, rows[spread(len(rows), PROBED)].tolist())
    if channels is None:
        channels = Counter(len(scan.values) for scan in seen).most_common(1)[0][0] if seen else 1
    fitted = default_size(seen, wanted) if size is None else whole(three(size, "size"))
    reading = Reading(fitted, channels, found.store.segmented, wanted, span, foreground)  # type: ignore[attr-defined]
    inputs = {"in_chans": channels, "size": list(reading.size)}
    size = sum(column.nbytes for column in reading.void(1).values())
    dataset = gathered(
        found, rows, LazyVolumes(found.store, reading), size, cache, max_broken, modality="volume", inputs=inputs
    )
    dataset.facts |= facts_of(found.store, seen, reading)
    dataset.workers = min(threads(), MOST_WORKERS) if workers is None else workers
    return dataset if split is None else part_of(dataset, split)


def three(value: Any, name: str) -> tuple[float, float, float]:
    """
    Raises:
        UsageError: it is neither one positive number nor three.
    """
    given = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * 3
    numbers = [x for x in given if isinstance(x, (int, float)) and not isinstance(x, bool) and x > 0]
    if len(given) != 3 or len(numbers) != 3:
        raise UsageError(f"{name} is a positive number or three ([1, 1, 3]), not {value}")
    return numbers[0], numbers[1], numbers[2]


def whole(value: tuple[float, float, float]) -> Triple:
    """
    Raises:
        UsageError: some are no whole numbers.
    """
    if any(x != int(x) for x in value):
        raise UsageError(f"size counts voxels: whole numbers, not {value}")
    return int(value[0]), int(value[1]), int(value[2])


def pair_of(value: Any) -> tuple[float, float]:
    """
    Raises:
        UsageError: it is not two numbers, the lower one first.
    """
    given = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if len(given) != 2 or any(not isinstance(x, (int, float)) for x in given) or given[0] >= given[1]:
        raise UsageError(f"window is two numbers, the lower one first ([-175, 250]), not {value}")
    return float(given[0]), float(given[1])


def look(store: Any, rows: Iterable[int]) -> list[Scan]:
    """Some volumes, without those that cannot be read."""
    seen = []
    for row in rows:
        try:
            with reasons():
                seen.append(store.read(row))
        except Broken:
            continue
    return seen


def default_size(seen: Sequence[Scan], spacing: tuple[float, float, float] | None) -> Triple:
    """The median along each axis in whole steps; without a spacing made smaller in proportion where it is large."""
    sizes = [scan.size if spacing is None else at_spacing(scan.size, scan.spacing, spacing) for scan in seen]
    median = [
        sorted(size[axis] for size in sizes)[len(sizes) // 2] if sizes else LARGEST for axis in range(3)
    ]
    factor = min(1.0, LARGEST / max(median)) if spacing is None else 1.0
    depth, height, width = (max(1, round(count * factor / STEP)) * STEP for count in median)
    return depth, height, width


def facts_of(store: Any, seen: Sequence[Scan], reading: Reading) -> dict[str, Any]:
    """What `describe` says beyond counts."""
    times = " x ".join
    said: dict[str, Any] = {"volumes become": f"{times(map(str, reading.size))} voxels"}
    if seen:
        by_size = sorted((scan.size for scan in seen), key=lambda size: size[0] * size[1] * size[2])
        said["voxels"] = f"{times(map(str, by_size[0]))} to {times(map(str, by_size[-1]))}"
        steps = sorted({times(f"{step:.3g}" for step in scan.spacing) for scan in seen})
        said["spacing (mm)"] = ", ".join(steps[:3]) + (" ..." if len(steps) > 3 else "")
    if reading.channels > 1:
        said["channels"] = reading.channels
    if reading.segmented:
        said["segmentations"] = ", ".join(store.segment_names) or "yes"
    return said


def read(
    store: Any, reading: Reading, rows: list[int], pool: ThreadPoolExecutor
) -> tuple[dict[str, Tensor], dict[int, str]]:
    """These volumes, and those that cannot be read with the reason."""
    columns = reading.void(len(rows))

    def one(place: int, row: int) -> tuple[int, str] | None:
        try:
            with reasons():
                found = reading.columns(store.read(row))
        except Broken as error:
            return row, str(error)
        for key, value in found.items():
            columns[key][place] = value
        return None

    return columns, dict(filter(None, pool.map(one, range(len(rows)), rows)))


class LazyVolumes:
    """Volumes decoded when they are asked for.

    Args:
        store: where they lie.
        reading: what they are made into.
    """

    in_memory = False

    def __init__(self, store: Any, reading: Reading):
        self.store: Volumes = store
        self.reading = reading
        self.opener = Opener()  # threads are not for sharing between processes

    def __len__(self) -> int:
        return len(self.store.names)

    def name(self, row: int) -> str:
        return self.store.names[row]

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]:
        worker = torch.utils.data.get_worker_info() is not None  # then there are other processes to decode
        pool = self.opener.get(lambda: ThreadPoolExecutor(1 if worker else threads()))
        return read(self.store, self.reading, rows.tolist(), pool)
