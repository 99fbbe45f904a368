"""How far a run is, live in a terminal and now and then as a line elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LIVE, LINES = 0.25, 60.0
"""Seconds between updates in a terminal, and between lines elsewhere."""


class Display:
    """Loss, rate, samples a second and the time that is left.

    Args:
        total: steps of the run.
        done: steps that are done.
        show: whether anything is shown.
    """

    def __init__(self, total: int, done: int, show: bool):
        self.console = Console(stderr=True)
        self.total, self.done, self.show = total, done, show
        self.start, self.first, self.next = time.monotonic(), done, 0.0
        self.words = ""
        self.live: Progress | None = None
        if show and self.console.is_terminal:
            columns = (
                BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
            )  # fmt: skip
            self.live = Progress(*columns, console=self.console)
            self.job = self.live.add_task("", total=total, completed=done, left="")
            self.live.start()

    def say(self, line: str) -> None:
        """A line for a person, above what is live."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def step(self, done: int) -> None:
        """So many steps are done."""
        self.done = done
        now = time.monotonic()
        if not self.show or now < self.next:
            return
        self.next = now + (LIVE if self.live else LINES)
        if self.live:
            self.live.update(self.job, completed=done, description=self.words, left=self.left(now))
        elif now - self.start > LINES / 2:
            self.say(f"step {done} of {self.total}  {self.words}  {self.left(now)}")

    def row(self, values: dict[str, float]) -> None:
        """What was logged last."""
        parts = [
            f"{word} {values[name]:{form}}"
            for word, name, form in (("loss", "loss/total", ".4g"), ("lr", "lr", ".2e"))
            if name in values
        ]
        if "samples_per_second" in values:
            parts.append(f"{values['samples_per_second']:,.0f} samples/s")
            waiting = values["seconds/data"] / max(values["seconds/data"] + values["seconds/compute"], 1e-9)
            parts += [f"waits {waiting:.0%} for data"] if waiting > 0.2 else []
        self.words = "  ".join(parts)

    def left(self, now: float) -> str:
        if self.done == self.first:
            return ""
        seconds = (now - self.start) / (self.done - self.first) * (self.total - self.done)
        return f"{timedelta(seconds=round(seconds))} left"

    def close(self) -> None:
        if self.live:
            self.live.update(self.job, completed=self.done, description=self.words, left="")
            self.live.stop()
