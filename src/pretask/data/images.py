"""Pictures, whatever they lie in, as one kind of data set."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from pretask.data.dataset import Dataset, Samples, Skipped, check_broken, name_skipped, part_of, spread
from pretask.data.decode import PROBED, Lazy, load, memory_budget, probe, threads
from pretask.data.find import find_source
from pretask.data.gather import Cache, chosen
from pretask.data.layout import encode_labels
from pretask.data.masks import Masked
from pretask.data.pictures import Canvas, Facts, value_range
from pretask.data.shards import expand, streamed
from pretask.data.source import Source
from pretask.data.stores import Store
from pretask.data.stream import Samples as ShardSamples
from pretask.data.stream import Stream, read_shard
from pretask.errors import DataError, UsageError

log = logging.getLogger("pretask.data")

CANVAS = 9 / 7  # canvas over input: an average random crop (60 % of the area) then has the input's pixels
SMALL, SIDE_FEW, SIDE_MANY, MANY = 64, 128, 224, 10_000
MOST_WORKERS = 8


@dataclass(frozen=True)
class Wishes:
    """What the caller of `open_images` asked for; see there."""

    image_size: int | None
    channels: int | None
    max_broken: float
    cache: Cache
    workers: int | None


def open_images(
    source: Any,
    *,
    split: str | None = None,
    limit: int | None = None,
    max_broken: float = 0.2,
    workers: int | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    cache: Cache = "auto",
    fit: Literal["middle", "squash"] = "middle",
) -> Dataset:
    """Pictures from a folder, list, archive, table, shards, arrays, torch data set or an embedded set.

    Args:
        source: what `docs/data.md` lists.
        split: only this part (`train`, `val` or `test`) of what the source itself splits.
        limit: at most so many samples, spread evenly over the source (of a stream the first).
        max_broken: the largest share of unreadable files that is put up with.
        workers: processes that decode what is not in memory; default one a core, at most 8.
        image_size: side in pixels that encoders shall take; default from the pictures (`default_side`).
        channels: of the pictures; default 3 if any of them has colour, 1 if none has, or what arrays have.
        cache: `memory` decodes everything now, `never` when asked for, `auto` by the memory that is free.
        fit: `middle` judges encoders by the middle square of each picture; with `squash` every picture
            counts as a square and is seen whole, its proportions lost.

    Raises:
        DataError: there is nothing, too much is broken, or the source cannot be understood.
        UsageError: a split that is not there, another `fit`, or shards to be squashed.
    """
    if fit not in ("middle", "squash"):
        raise UsageError(f"fit is `middle` or `squash`, not '{fit}'")
    wishes = Wishes(image_size, channels, max_broken, cache, workers)
    if isinstance(source, str) and streamed(source):
        if fit == "squash":
            raise UsageError("shards at an address cannot be read with fit=squash: put them on a disk")
        return open_stream(source, wishes, limit)
    found = find_source(source, channels)
    rows = chosen(found, torch.arange(len(found.store.names)), split, limit)
    dataset = decoded(found, rows, wishes)
    if fit == "squash":
        dataset.samples = Squashed(dataset.samples)
    return dataset if split is None else part_of(dataset, split)


class Squashed:
    """Pictures without their true sizes: what a canvas shows is taken as it is.

    Args:
        samples: pictures squashed to a square canvas, and their sizes.
    """

    def __init__(self, samples: Samples):
        self.samples, self.in_memory = samples, samples.in_memory

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, row: int) -> str:
        return self.samples.name(row)

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]:
        columns, broken = self.samples.get(rows)
        return {key: column for key, column in columns.items() if key != "size"}, broken


def survey(found: Source, rows: Int[Tensor, "some"], wishes: Wishes) -> list[Facts]:
    """What some of the pictures are.

    Raises:
        DataError: none of them can be read, or of a large set too few.
    """
    seen, broken = probe(found.store, rows[spread(len(rows), PROBED)].tolist())
    if not seen or len(rows) > PROBED:  # a small set is judged when all of it is decoded
        total = len(seen) + len(broken)
        check_broken(found.name, skips(found.store, broken), total, wishes.max_broken if seen else 0)
    return list(seen.values())


def decoded(found: Source, rows: Int[Tensor, "some"], wishes: Wishes) -> Dataset:
    """The pictures of a source on one canvas, in memory if they fit.

    Raises:
        DataError: too many are broken.
    """
    facts = survey(found, rows, wishes)
    side, canvas = choose_canvas(facts, len(rows), wishes.image_size, wishes.channels)
    needed = len(rows) * canvas.channels * canvas.side**2 * canvas.dtype.itemsize
    in_memory = wishes.cache == "memory" or (wishes.cache == "auto" and needed <= memory_budget())
    tried = rows if in_memory else rows[spread(len(rows), PROBED)]
    memory, broken = load(found.store, canvas, tried.tolist())
    samples: Samples = memory if in_memory else Lazy(found.store, canvas)
    if found.masks is not None:
        numbers, torn = found.masks.get(tried.tolist(), memory.columns["size"], canvas.side)
        memory.columns["segmentation"], broken = numbers, {**torn, **broken}
        samples = memory if in_memory else Masked(samples, found.masks, canvas.side)
    skipped = skips(found.store, broken)
    check_broken(found.name, skipped, len(tried), wishes.max_broken)
    readable = torch.tensor([row not in broken for row in rows.tolist()])
    dataset = Dataset(
        samples,
        found.name,
        canvas.channels,
        side,
        rows=readable.nonzero().flatten() if in_memory else rows[readable],
        targets=pick(found.targets, rows) if in_memory else found.targets,
        classes=found.classes,
        parts=pick(found.parts, rows) if in_memory else found.parts,
        part_names=found.part_names,
        skipped=skipped,
        max_broken=wishes.max_broken,
        workers=min(threads(), MOST_WORKERS) if wishes.workers is None else wishes.workers,
    )
    whole = [place for place, row in enumerate(tried.tolist()) if row not in broken]
    dataset.facts = what_is_there(found, facts, memory.columns["size"][whole], canvas)
    dataset.facts["memory"] = (
        f"decoded once into memory ({needed / 1e6:.1f} MB)"
        if in_memory
        else f"decoded when needed ({needed / 1e6:.1f} MB would be too much to keep); so far {len(tried)} of "
        f"{len(rows)} files were looked at"
    )
    log.info("%s: %d samples, %s", found.name, len(dataset), dataset.facts["memory"])
    name_skipped(found.name, skipped)
    return dataset


def open_stream(source: str, wishes: Wishes, limit: int | None) -> Dataset:
    """Shards at an address; or only their first `limit` samples, in memory.

    Raises:
        DataError: the first shards give no samples.
    """
    addresses = expand(source)
    samples: list = []
    for address in addresses:
        try:
            samples += itertools.islice(read_shard(address), (limit or PROBED) - len(samples))
        except Exception as error:  # every file system raises errors of its own
            raise DataError(f"{address} cannot be read: {' '.join(str(error).split())[:300]}") from error
        if len(samples) >= (limit or PROBED):
            break
    if not samples:
        raise DataError(f"{source}: no pictures in {len(addresses)} shards")
    found = Source(source, ShardSamples(samples))
    if limit is not None:
        found.targets, found.classes = encode_labels([sample.label for sample in samples])
    rows = torch.arange(len(samples))
    if limit is not None:
        return decoded(found, rows, replace(wishes, cache="memory"))
    facts = survey(found, rows, wishes)
    side, canvas = choose_canvas(facts, MANY, wishes.image_size, wishes.channels)
    head = decoded(found, rows, replace(wishes, cache="memory", image_size=side))
    shared = {part.name: getattr(head, part.name) for part in fields(Dataset)}
    return Stream(**shared, addresses=addresses, canvas=canvas)


def skips(store: Store, broken: dict[int, str]) -> list[Skipped]:
    return [Skipped(str(store.names[row]), reason) for row, reason in sorted(broken.items())]


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


def what_is_there(found: Source, facts: list[Facts], sizes: Tensor, canvas: Canvas) -> dict[str, Any]:
    """What `describe` says beyond counts."""
    by_area = sizes[sizes.prod(1).argsort()]
    said: dict[str, Any] = {
        "sizes (height x width)": {
            name: "{} x {}".format(*by_area[place].tolist())
            for name, place in (("smallest", 0), ("median", len(sizes) // 2), ("largest", -1))
        },
        "values": ", ".join(sorted({fact.dtype for fact in facts})),
        "canvas": f"{canvas.side} x {canvas.side}",
    }
    if (canvas.low, canvas.high) != (0.0, 1.0):
        said["scaled from"] = [canvas.low, canvas.high]
    if found.masks is not None:
        said["masks"] = f"{int((found.masks.rows >= 0).sum())} pictures have one"
    if found.ignored:
        said["other files"] = found.ignored
    return said
