"""Batches on the device, in time, and how long one waited for them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pretask.task import Batch

AHEAD = 2
"""Batches made ready while the device computes."""


def move(value: Any, device: torch.device) -> Any:
    """A tensor, or whatever else can be moved to a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return value.to(device) if hasattr(value, "to") else value


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {key: move(value, device) for key, value in batch.items()}


def pinned(batch: Batch) -> Batch:
    """In memory that a GPU copies from by itself."""
    return {
        key: value.pin_memory() if hasattr(value, "pin_memory") else value for key, value in batch.items()
    }


def feed(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches on the device. For a GPU a thread reads and pins the next ones meanwhile."""
    if device.type != "cuda":
        for batch in batches:
            yield to_device(batch, device)
        return
    ready: queue.Queue[Any] = queue.Queue(AHEAD)
    stop = threading.Event()

    def put(item: Any) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def read() -> None:
        torch.cuda.set_device(device)  # or it would take memory of the first GPU
        try:
            for batch in batches:
                put(pinned(batch))
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised again where the batch is asked for
            put(error)

    thread = threading.Thread(target=read, name="pretask-feed", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield to_device(item, device)
    finally:
        stop.set()
        thread.join()


class Stopwatch:
    """Seconds spent waiting for data and computing.

    A GPU works behind the back of the program: there the times are those between events on its stream, so
    that waiting is what the GPU waits.

    Args:
        device: what computes.
    """

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.steps: list[tuple[Any, Any, Any]] = []
        self.last = self.mark()
        self.began: Any = None

    def mark(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def arrived(self) -> None:
        """The batch is there."""
        self.began = self.mark()

    def done(self) -> None:
        """The step is done."""
        end = self.mark()
        self.steps.append((self.last, self.began, end))
        self.last = end

    def resume(self) -> None:
        """What lies between now and the last step does not count."""
        self.last = self.mark()

    def read(self) -> tuple[float, float]:
        """Seconds waited and computed in the steps since the last reading; everything must have arrived."""
        if self.cuda:
            torch.cuda.synchronize()
        waited = sum(self.between(last, began) for last, began, _ in self.steps)
        computed = sum(self.between(began, end) for _, began, end in self.steps)
        self.steps.clear()
        return waited, computed

    def between(self, first: Any, second: Any) -> float:
        return first.elapsed_time(second) / 1000 if self.cuda else second - first
