"""Ends of a run before its time: signals, and losses that are no numbers."""

from __future__ import annotations

import signal
import threading
from math import isfinite
from pathlib import Path
from types import FrameType
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from pretask.errors import PretaskError
from pretask.task import Batch


class Diverged(PretaskError):
    """A loss was no number any more."""


class Signals:
    """Takes note of SIGTERM and SIGINT instead of dying; the second SIGINT kills as usual."""

    def __init__(self) -> None:
        self.received = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self.take)
        return self

    def take(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def leave(self) -> None:
        """End as the signal asks.

        Raises:
            KeyboardInterrupt: it was SIGINT.
            SystemExit: it was SIGTERM, or another process's.
        """
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self.received or signal.SIGTERM))


def broken(values: dict[str, float]) -> str | None:
    """The first loss that is no number."""
    losses = {name.removeprefix("loss/"): value for name, value in values.items() if name.startswith("loss/")}
    bad = [name for name, value in losses.items() if not isfinite(value)]
    return bad[-1] if bad else None  # the total comes first and is to blame for nothing


def keep_batch(path: Path, batch: Batch) -> None:
    """Write a batch for a person to look at: every tensor in it, those of graphs too."""
    tensors: dict[str, Tensor] = {}
    for key, value in batch.items():
        inner = value.to_dict().items() if hasattr(value, "to_dict") else [("", value)]
        for name, tensor in inner:
            if isinstance(tensor, Tensor):
                tensors[f"{key}.{name}" if name else key] = tensor.detach().cpu().clone().contiguous()
    save_file(tensors, path)


def explain(name: str, step: int, path: Path, half: bool) -> str:
    """What happened, where the evidence lies and what to do."""
    precision = "train with precision 32-true, " if half else ""
    return (
        f"the loss '{name}' was no number at step {step}. Nothing after the last checkpoint was kept; the "
        f"batch is in {path.name}. Lower the learning rate, {precision}or look for broken samples in it."
    )
