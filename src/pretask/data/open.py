"""`open_data`: whatever a person has, as one kind of data set."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from pretask.data.dataset import Dataset, Skipped, check_broken
from pretask.data.decode import PROBED, Lazy, load, memory_budget, probe, threads
from pretask.data.find import find_source
from pretask.data.pictures import Canvas, Facts, value_range
from pretask.data.source import Source
from pretask.errors import DataError, UsageError

log = logging.getLogger("pretask.data")

Cache = Literal["auto", "memory", "never"]
CANVAS = 9 / 7  # canvas over input: an average random crop (60 % of the area) then has the input's pixels
SMALL, SIDE_FEW, SIDE_MANY, MANY = 64, 128, 224, 10_000


def open_data(
    source: Any,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    split: str | None = None,
    modality: str | None = None,
    max_broken: float = 0.2,
    cache: Cache = "auto",
    workers: int | None = None,
    limit: int | None = None,
) -> Dataset:
    """Samples from a folder, list, archive, table, shards, arrays, a torch data set or an embedded set's name.

    Args:
        source: what `docs/data.md` lists.
        image_size: side in pixels that encoders shall take; default from the pictures (`default_side`).
        channels: of the pictures; default 3 if any of them has colour, 1 if none has, or what arrays have.
        split: only this part (`train`, `val` or `test`) of what the source itself splits.
        modality: refuse anything else.
        max_broken: the largest share of unreadable files that is put up with.
        cache: `memory` decodes everything now, `never` when it is asked for, `auto` by the memory that is free.
        workers: processes that decode what is not in memory; default one a core, at most 8.
        limit: at most so many samples, spread evenly over the source.

    Raises:
        DataError: there is nothing, too much is broken, or the source cannot be understood.
        UsageError: a split that is not there.
    """
    if modality not in (None, "image"):
        raise DataError(f"{source} would be read as pictures, and {modality} data are asked for")
    if isinstance(source, Dataset):
        dataset = source if split is None else part_of(source, split)
        return dataset if limit is None else dataset.subset(spread(len(dataset), limit))
    found = find_source(source, channels)
    rows = torch.arange(len(found.store.names))
    if split is not None:
        if split not in found.part_names:
            raise no_split(found.name, split, found.part_names)
        rows = (found.parts == found.part_names.index(split)).nonzero().flatten()
    if limit is not None:
        rows = rows[spread(len(rows), limit)]
    dataset = decoded(found, rows, image_size, channels, max_broken, cache, workers)
    return dataset if split is None else part_of(dataset, split)


def part_of(dataset: Dataset, split: str) -> Dataset:
    part = dataset.split(split)
    if part is None:
        raise no_split(dataset.name, split, dataset.part_names)
    return part


def no_split(name: str, split: str, there: tuple[str, ...]) -> UsageError:
    return UsageError(f"{name} has no split '{split}'; it has {', '.join(there) or 'none'}")


def spread(count: int, limit: int) -> Int[Tensor, "some"]:
    """At most `limit` of `count` numbers, evenly spaced."""
    return torch.linspace(0, count - 1, min(count, limit), dtype=torch.float64).long()


def decoded(
    found: Source,
    rows: Int[Tensor, "some"],
    image_size: int | None,
    channels: int | None,
    max_broken: float,
    cache: Cache,
    workers: int | None,
) -> Dataset:
    """The pictures of a source on one canvas, in memory if they fit."""
    seen, broken = probe(found.store, rows[spread(len(rows), PROBED)].tolist())
    check_broken(found.name, skips(found, broken), len(seen) + len(broken), max_broken)
    if not seen:
        raise DataError(f"{found.name}: no picture can be read: {list(broken.values())[:3]}")
    facts = list(seen.values())
    side, canvas = choose_canvas(facts, len(rows), image_size, channels)
    needed = len(rows) * canvas.channels * canvas.side**2 * canvas.dtype.itemsize
    in_memory = cache == "memory" or (cache == "auto" and needed <= memory_budget())
    made: dict[str, Any] = {"name": found.name, "image_size": side, "channels": canvas.channels}
    made |= {"classes": found.classes, "part_names": found.part_names, "max_broken": max_broken}
    if in_memory:
        memory, broken = load(found.store, canvas, rows.tolist())
        memory.names = found.store.names if len(rows) == len(found.store.names) else None
        readable = torch.tensor([row not in broken for row in rows.tolist()])
        dataset = Dataset(
            memory, rows=readable.nonzero().flatten(), targets=pick(found.targets, rows),
            parts=pick(found.parts, rows), **made,
        )  # fmt: skip
        sizes = memory.columns["size"][dataset.rows]
    else:
        readable = torch.tensor([row not in broken for row in rows.tolist()])
        workers = min(threads(), 8) if workers is None else workers
        dataset = Dataset(
            Lazy(found.store, canvas), rows=rows[readable], targets=found.targets, parts=found.parts,
            workers=workers, **made,
        )  # fmt: skip
        sizes = torch.tensor([fact.size for fact in facts])
    dataset.skipped = skips(found, broken)
    check_broken(found.name, dataset.skipped, len(rows), max_broken)
    dataset.facts = what_is_there(found, facts, sizes, canvas, needed if in_memory else None, len(rows))
    log.info("%s: %d samples, %s", found.name, len(dataset), dataset.facts["memory"])
    if broken:
        log.warning("%s: %d files are skipped, %s ...", found.name, len(broken), dataset.skipped[0])
    return dataset


def skips(found: Source, broken: dict[int, str]) -> list[Skipped]:
    return [Skipped(str(found.store.names[row]), reason) for row, reason in sorted(broken.items())]


def pick(values: Tensor | None, rows: Int[Tensor, "some"]) -> Tensor | None:
    return None if values is None else values[rows]


def choose_canvas(
    facts: list[Facts], count: int, image_size: int | None, channels: int | None
) -> tuple[int, Canvas]:
    """The side encoders shall take, and what pictures are made into.

    The canvas has the encoder's side if half of the pictures are no larger (by their shorter side),
    otherwise 9/7 of it, and never more than that median.
    """
    short = sorted(min(fact.size) for fact in facts)[len(facts) // 2]
    image_size = image_size or default_side(short, count)
    side = max(image_size, min(short, round(CANVAS * image_size / 4) * 4))
    if channels is None:
        counts = Counter(fact.channels for fact in facts)
        many = Counter({number: times for number, times in counts.items() if number not in (1, 3)})
        channels = many.most_common(1)[0][0] if many else max(counts)
    unscaled = [fact for fact in facts if fact.dtype not in ("uint8", "uint16")]
    low, high = value_range(unscaled) if unscaled else (0.0, 1.0)
    return image_size, Canvas(side, channels, all(fact.dtype == "uint8" for fact in facts), low, high)


def default_side(short: int, count: int) -> int:
    """The input's side for pictures of this shorter side: theirs, up to a limit.

    Up to 64 pixels rounded up to a multiple of 8; above, rounded down to a multiple of 16 and at most 224,
    or 128 where there are fewer than 10,000 pictures.
    """
    if short <= SMALL:
        return max(16, -(-short // 8) * 8)
    return min(short // 16 * 16, SIDE_MANY if count >= MANY else SIDE_FEW)


def what_is_there(
    found: Source, facts: list[Facts], sizes: Tensor, canvas: Canvas, needed: int | None, count: int
) -> dict[str, Any]:
    """What `describe` says beyond counts."""
    middle = sizes[sizes.prod(1).argsort()[[0, len(sizes) // 2, -1]]].tolist()
    said: dict[str, Any] = {
        "sizes (height x width)": dict(
            zip(("smallest", "median", "largest"), (f"{h} x {w}" for h, w in middle), strict=True)
        ),
        "values": ", ".join(sorted({fact.dtype for fact in facts})),
        "canvas": f"{canvas.side} x {canvas.side}",
    }
    if (canvas.low, canvas.high) != (0.0, 1.0):
        said["scaled from"] = [canvas.low, canvas.high]
    if needed is not None:
        said["memory"] = f"decoded once into memory ({needed / 1e6:.1f} MB)"
    else:
        said["memory"] = f"decoded when needed; {len(facts)} of {count} files were looked at"
    if found.ignored:
        said["other files"] = found.ignored
    return said
