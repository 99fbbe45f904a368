"""Pictures of a store as samples: all decoded into memory once, or each when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from pretask.data.arrays import Arrays
from pretask.data.dataset import Memory
from pretask.data.formats import Broken, reasons
from pretask.data.pictures import Canvas, Facts, measure
from pretask.data.stores import Opener, Store

SHARE = 0.4  # of the memory that is free, for decoded pictures
PROBED = 256  # pictures looked at before the canvas is chosen


def threads() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None


def memory_budget() -> int:
    """Bytes that decoded pictures may fill: a share of what is free, divided by the processes here."""
    free = 4 << 30  # where the system does not tell
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) << 10
    except OSError:
        pass
    limit, used = read_number("/sys/fs/cgroup/memory.max"), read_number("/sys/fs/cgroup/memory.current")
    if limit is not None:
        free = min(free, limit - (used or 0))
    return int(SHARE * free) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def probe(store: Store, rows: Iterable[int]) -> tuple[dict[int, Facts], dict[int, str]]:
    """What these pictures are, and why some of them cannot be told."""

    if isinstance(store, Arrays):
        return dict.fromkeys(rows, store.facts()), {}

    def look(row: int) -> tuple[int, Facts | str]:
        try:
            with reasons():
                return row, measure(store.read(row))
        except Broken as error:
            return row, str(error)

    with ThreadPoolExecutor(threads()) as pool:
        seen = list(pool.map(look, rows))
    return (
        {row: fact for row, fact in seen if isinstance(fact, Facts)},
        {row: reason for row, reason in seen if isinstance(reason, str)},
    )


class Lazy:
    """Samples decoded when they are asked for.

    Args:
        store: where they lie.
        canvas: what they are made into.
    """

    in_memory = False

    def __init__(self, store: Store, canvas: Canvas):
        self.store, self.canvas = store, canvas
        self.opener = Opener()  # threads are not for sharing between processes

    def __len__(self) -> int:
        return len(self.store.names)

    def name(self, row: int) -> str:
        return str(self.store.names[row])

    def pool(self) -> ThreadPoolExecutor:
        worker = torch.utils.data.get_worker_info() is not None  # then there are other processes to decode
        return self.opener.get(lambda: ThreadPoolExecutor(1 if worker else threads()))

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]:
        columns = void(len(rows), self.canvas)
        numbers = rows.tolist()
        return columns, dict(fill(columns, self.store, self.canvas, numbers, self.pool()))


def void(count: int, canvas: Canvas) -> dict[str, Tensor]:
    image = torch.empty(count, canvas.channels, canvas.side, canvas.side, dtype=canvas.dtype)
    return {"image": image, "size": torch.ones(count, 2, dtype=torch.long)}


def fill(
    columns: dict[str, Tensor], store: Store, canvas: Canvas, rows: Iterable[int], pool: ThreadPoolExecutor
) -> Iterator[tuple[int, str]]:
    """Decode these rows to their places in `columns`; gives those that cannot be, with the reason."""
    image, size = columns["image"].numpy(), columns["size"].numpy()

    def one(place: int, row: int) -> tuple[int, str] | None:
        try:
            with reasons():
                image[place], size[place] = canvas.decode(store.read(row))
            return None
        except Broken as error:
            image[place] = 0
            return row, str(error)

    numbered = enumerate(rows)
    while part := list(islice(numbered, 4096)):  # a bounded number of tasks at a time
        yield from filter(None, pool.map(lambda pair: one(*pair), part))


def load(store: Store, canvas: Canvas, rows: list[int]) -> tuple[Memory, dict[int, str]]:
    """Decode these rows into memory, with a thread a core; and those that cannot be, with the reason."""
    names = [str(store.names[row]) for row in rows]
    if isinstance(store, Arrays):
        columns, broken = store.load(canvas, rows)
        return Memory(columns, names), broken
    columns = void(len(rows), canvas)
    with ThreadPoolExecutor(threads()) as pool:
        broken = dict(fill(columns, store, canvas, rows, pool))
    return Memory(columns, names), broken
