"""What is measured of a run: brought from the device now and then, and written as rows."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric

from pretask.task import PretextTask
from pretask.training.devices import average
from pretask.training.engine import Values
from pretask.training.feed import Stopwatch
from pretask.training.log import Log
from pretask.training.plan import Plan
from pretask.training.stopping import broken

LOGGED, MOST = 200, 50
"""Rows of metrics.csv that a short run has at most; steps that a row stands for at most."""


class Journal:
    """Values of each step until they make a row.

    Args:
        fabric: where the run computes.
        plan: of the run.
        parts: a batch is computed in.
        log: where rows go.

    Attributes:
        pending: values of the steps since the last row.
        rows: written so far.
        stopping: whether a process was asked to stop, as of the last `fetch`.
        flops: operations of a step on each device, and how many it could do in a second; 0 if not known.
    """

    def __init__(self, fabric: Fabric, plan: Plan, parts: int, log: Log, pending: list[dict[str, float]]):
        self.fabric, self.plan, self.parts, self.log = fabric, plan, parts, log
        self.raw: list[tuple[int, Values]] = []  # still on the device
        self.pending, self.rows = pending, list[dict[str, float]]()
        self.clock = Stopwatch(fabric.device)
        self.every = min(MOST, max(1, plan.steps // LOGGED))
        self.stopping, self.flops = False, (0.0, 1.0)

    def add(self, index: int, values: Values) -> None:
        self.raw.append((index, values))

    def due(self, done: int) -> bool:
        """Whether a row is due after so many steps."""
        return done % self.every == 0 or done in (1, self.plan.steps)

    def fetch(self, signalled: bool) -> tuple[int, str, dict[str, float]] | None:
        """Bring the values of the last steps from the device, as means over processes.

        Args:
            signalled: whether this process was asked to stop; the others hear of it.

        Returns:
            The first step with a loss that is no number, that loss and the step's values.
        """
        device = self.fabric.device
        values = [value for _, found in self.raw for value in found.values()]
        values.append(torch.tensor(float(signalled)))
        flat = torch.stack([value.to(device, torch.float64) for value in values])
        average([flat])
        numbers = iter(flat.tolist())
        fetched = [(index, {name: next(numbers) for name in found}) for index, found in self.raw]
        self.stopping = next(numbers) > 0
        self.raw.clear()
        for index, row in fetched:
            bad = broken(row)
            if bad is not None:
                return index, bad, row
            self.pending.append(row)
        return None

    def row(self, done: int, task: PretextTask, more: dict[str, float]) -> dict[str, float]:
        """Write the row that the pending values make: means over steps, and how fast they were."""
        plan, rows = self.plan, self.pending
        values: dict[str, float] = {"step": done, "epoch": done / plan.steps_per_epoch}
        for name in dict.fromkeys(name for row in rows for name in row):
            known = [row[name] for row in rows if name in row]
            values[name] = sum(known) / len(known)
        chance = task.chance(plan.batch_size // self.parts)
        values |= {f"chance/{name}": level for name, level in chance.items()}
        values |= more | self.speed()
        self.pending = []
        self.rows.append(values)
        self.write(values)
        return values

    def speed(self) -> dict[str, float]:
        """Seconds of a step, and what that makes."""
        steps = len(self.clock.steps)
        if not steps:
            return {}
        waited, computed = self.clock.read()
        second = steps / max(waited + computed, 1e-9)
        found = {"samples_per_second": self.plan.batch_size * second}
        found |= {"seconds/data": waited / steps, "seconds/compute": computed / steps}
        if self.flops[0]:
            found["utilisation"] = self.flops[0] * second / self.flops[1]
        return found

    def write(self, values: dict[str, float]) -> None:
        if self.fabric.is_global_zero:
            self.log.row(values)
