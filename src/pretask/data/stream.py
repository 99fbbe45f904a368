"""Shards that fit no disk, read from an address while training."""

from __future__ import annotations

import itertools
import logging
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import fsspec
import numpy as np
import torch
import torch.utils.data
from jaxtyping import Int
from torch import Tensor

from pretask.data.dataset import Dataset, Skipped
from pretask.data.decode import fill, threads, void
from pretask.data.formats import EXTENSIONS
from pretask.data.pictures import Canvas
from pretask.data.shards import LABEL, contents, key_and_extension
from pretask.errors import DataError
from pretask.task import Batch

log = logging.getLogger("pretask.data")
BUFFER = 2048  # encoded samples that each worker shuffles among


class Sample(NamedTuple):
    """A sample as it lies in a shard; `label` is None where it has no `.cls` member."""

    name: str
    raw: bytes
    label: int | None


class Samples:
    """Samples held in memory, encoded, as a store."""

    def __init__(self, samples: list[Sample]):
        self.samples, self.names = samples, [sample.name for sample in samples]

    def read(self, row: int) -> bytes:
        return self.samples[row].raw


def read_shard(address: str) -> Iterator[Sample]:
    """The samples of a shard in their order; those without a picture are left out."""
    with fsspec.open(address, "rb") as file, tarfile.open(fileobj=file, mode="r|*") as tar:
        members = ((*key_and_extension(m.name), contents(tar, m)) for m in tar if m.isreg())
        for key, group in itertools.groupby(members, key=lambda member: member[0]):
            kinds = {kind: content for _, kind, content in group}
            picture = next((kind for kind in kinds if kind in EXTENSIONS), None)
            if picture is not None:
                text = kinds.get(LABEL, b"").strip()
                label = int(text) if text.isdigit() else None
                yield Sample(f"{address}/{key}{picture}", kinds[picture], label)


@dataclass(eq=False, repr=False)
class Stream(Dataset):
    """Samples in an endless stream. It has neither length nor labels; everything but `batches` is of the
    first few samples, which lie in memory, for previews and statistics.

    Args:
        addresses: of the shards.
        canvas: what pictures are made into.
    """

    addresses: list[str] = field(default_factory=list)
    canvas: Canvas = field(kw_only=True)
    stream = True
    labels = None

    @property
    def head(self) -> Dataset:
        """The first samples as a data set."""
        return Dataset(**{part.name: getattr(self, part.name) for part in fields(Dataset)})

    def __len__(self) -> int:
        raise TypeError(f"{self.name} is streamed, nobody knows its length: say in steps how long to train")

    def split(self, name: str) -> None:
        return None

    def subset(self, indices: Int[Tensor, "some"] | Sequence[int]) -> Dataset:
        return self.head.subset(indices)

    def channel_stats(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.head.channel_stats()

    def describe(self) -> dict[str, Any]:
        seen = f"streamed from {len(self.addresses)} shards; this is of the first {len(self.rows)} samples"
        return {**self.head.describe(), "memory": seen}

    def batches(
        self, batch_size: int, seed: int, start: int, stop: int, rank: int, world: int, workers: int
    ) -> Iterator[Batch]:
        """As `loader.batches`; each process and worker has shards of its own."""
        part = Part(self.addresses, self.canvas, batch_size // world, seed, start, rank, world)
        loader = torch.utils.data.DataLoader(
            part, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None,
            pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        for batch, broken in itertools.islice(loader, stop - start):
            self.skipped += [Skipped(name, reason) for name, reason in broken.items()]
            yield batch


class Part(torch.utils.data.IterableDataset):
    """The batches of one process from number `start` on; its workers take turns.

    A process and worker reads every (world x workers)-th shard of an order by (seed, epoch), or every so
    manieth sample where shards are fewer. What comes before `start` is read again but not decoded.
    """

    def __init__(
        self, addresses: list[str], canvas: Canvas, share: int, seed: int, start: int, rank: int, world: int
    ):
        self.addresses, self.canvas, self.share, self.seed = addresses, canvas, share, seed
        self.start, self.rank, self.world = start, rank, world

    def __iter__(self) -> Iterator[tuple[Batch, dict[str, str]]]:
        info = torch.utils.data.get_worker_info()
        workers = info.num_workers if info else 1
        turn = (self.start + (info.id if info else 0)) % workers  # the loader asks worker 0 first
        slot, slots = self.rank * workers + turn, self.world * workers
        broken: dict[str, str] = {}
        samples = self.shuffled(slot, slots, broken)
        with ThreadPoolExecutor(1 if info else threads()) as pool:
            for number in itertools.count(turn, workers):
                group = list(itertools.islice(samples, self.share))
                if number >= self.start:
                    yield self.decoded(group, broken, pool)
                broken.clear()

    def shuffled(self, slot: int, slots: int, broken: dict[str, str]) -> Iterator[Sample]:
        """An endless, shuffled stream of encoded samples."""
        rng = np.random.default_rng([self.seed, slot, slots])
        buffer: list[Sample] = []
        for sample in self.endless(slot, slots, broken):
            buffer.append(sample)
            if len(buffer) == BUFFER:
                place = rng.integers(BUFFER)
                buffer[place], buffer[-1] = buffer[-1], buffer[place]
                yield buffer.pop()

    def endless(self, slot: int, slots: int, broken: dict[str, str]) -> Iterator[Sample]:
        """Epoch after epoch of this slot's shards. A shard that cannot be read to its end is left there.

        Raises:
            DataError: a whole epoch gave nothing.
        """
        for epoch in itertools.count():
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.addresses))
            few = len(order) < slots
            place = given = 0  # samples read, and samples of this slot
            for shard in order if few else order[slot::slots]:
                try:
                    for sample in read_shard(self.addresses[shard]):
                        if not few or place % slots == slot:
                            given += 1
                            yield sample
                        place += 1
                except (OSError, tarfile.TarError, EOFError) as error:
                    broken[self.addresses[shard]] = f"read in part: {error}"
                    log.warning("%s cannot be read to its end: %s", self.addresses[shard], error)
            if not given:
                raise DataError(f"the shards give no samples: {broken or self.addresses[:3]}")

    def decoded(
        self, group: list[Sample], broken: dict[str, str], pool: ThreadPoolExecutor
    ) -> tuple[Batch, dict[str, str]]:
        """A batch; what cannot be decoded is replaced by other samples of it."""
        columns = void(len(group), self.canvas)
        bad = dict(fill(columns, Samples(group), self.canvas, range(len(group)), pool))
        good = [place for place in range(len(group)) if place not in bad]
        if not good:
            raise DataError(f"no sample of a batch can be decoded: {list(bad.values())[:3]}")
        source = torch.arange(len(group))
        source[list(bad)] = torch.tensor([good[place % len(good)] for place in bad], dtype=torch.long)
        batch: Batch = {key: column[source] for key, column in columns.items()} if bad else columns
        if all(sample.label is not None for sample in group):
            batch["label"] = torch.tensor([sample.label for sample in group])[source]
        return batch, broken | {group[place].name: reason for place, reason in bad.items()}
