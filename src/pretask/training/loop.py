"""The loop: batches in, losses down, all of it kept so that a killed run goes on as if nothing happened."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor

from pretask.data import Dataset
from pretask.data.loader import batches
from pretask.encoders import save_encoder
from pretask.errors import UsageError
from pretask.objectives.distributed import sync_batch_norm
from pretask.task import Batch, PretextTask
from pretask.training import checkpoint
from pretask.training.checkpoint import Place
from pretask.training.devices import average, make_fabric
from pretask.training.engine import Engine, Values
from pretask.training.feed import Stopwatch, feed, to_device
from pretask.training.learners import check
from pretask.training.log import Log
from pretask.training.plan import Plan
from pretask.training.stopping import Diverged, Signals, broken, explain, keep_batch

LOGGED, MOST = 200, 50
"""Rows of metrics.csv that a short run has at most; steps that a row stands for at most."""

Note = Callable[[str], None]
Sheets = Callable[[PretextTask, int], None]


def fit(
    task: PretextTask,
    dataset: Dataset,
    plan: Plan,
    folder: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
    precision: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    strategy: str = "auto",
    compile: bool = False,
    accumulate: int = 1,
    checkpoint_every: int = 500,
    workers: int | None = None,
    loggers: Sequence[str] = (),
    sheets: Sheets | None = None,
    note: Note | None = None,
    progress: bool = True,
) -> None:
    """Train a task.

    Args:
        task: is trained in place.
        dataset: what it learns from.
        plan: how, from `make_plan`.
        folder: where metrics.csv, the checkpoint and in the end encoder.safetensors are written.
        seed: of batches and pretexts. The task's initial weights are the caller's.
        resume: go on from the folder's checkpoint if there is one; a finished run is only loaded.
        precision: `auto`, `32-true`, `bf16-mixed` or `16-mixed`.
        devices: processes a node.
        nodes: how many nodes.
        strategy: `auto`, `ddp` or `fsdp`.
        compile: torch.compile the encoder.
        accumulate: parts a batch is computed in, one after the other. Draws, and losses that are means over
            samples, are those of the whole batch; what compares samples compares those of a part.
        checkpoint_every: steps between checkpoints.
        workers: processes that decode, where data are not in memory.
        loggers: `tensorboard`; metrics.csv is always written.
        sheets: is called now and then with the task and the number of steps done, to draw what it does.
        note: takes lines for a person to read; default standard error.
        progress: show it.

    Raises:
        UsageError: what was asked for does not fit together.
        Diverged: a loss was no number any more.
        KeyboardInterrupt: after Ctrl-C, once the step was finished and saved.
        SystemExit: likewise after SIGTERM.
    """
    check(task)
    fabric = make_fabric(precision, devices, nodes, strategy)
    fabric.launch()
    home = next(iter(task.state_dict().values())).device
    run = Run(fabric, task, dataset, plan, Path(folder), seed, accumulate, workers, note or to_stderr)
    gpus = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(gpus), Signals() as signals:
        log = run.begin(resume, loggers)
        try:
            run.go(log, signals, checkpoint_every)
        except Diverged as error:
            if fabric.is_global_zero:
                log.row(error.row)
            raise
        finally:
            log.close()
    task.to(home)
    path = run.folder / "encoder.safetensors"
    if fabric.is_global_zero and not path.is_file():
        save_encoder(task.encoder, path)  # type: ignore[arg-type]  # a task's may be any module
    fabric.barrier()


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Run:
    """A run under way.

    Args:
        fabric: where it computes.
        task: what learns.
        dataset: from what.
        plan: how.
        folder: where things are written.
        seed: of batches and pretexts.
        parts: a batch is computed in.
        workers: that decode.
        note: takes lines for a person.
    """

    def __init__(
        self, fabric: Fabric, task: PretextTask, dataset: Dataset, plan: Plan, folder: Path, seed: int,
        parts: int, workers: int | None, note: Note,
    ):  # fmt: skip
        self.fabric, self.task, self.dataset, self.plan, self.folder = fabric, task, dataset, plan, folder
        self.seed, self.parts, self.workers = seed, parts, workers
        self.note: Note = note if fabric.is_global_zero else (lambda line: None)
        self.engine = Engine(fabric, task, plan, seed, parts)
        self.index = 0
        self.raw: list[tuple[int, Values]] = []  # values still on the device, by step
        self.pending: list[dict[str, float]] = []  # values of the steps since the last row
        self.stopping = False  # whether a process was asked to stop
        self.every = min(MOST, max(1, plan.steps // LOGGED))

    @property
    def settings(self) -> dict[str, object]:
        """What decides over the course of a run."""
        return {
            "task": type(self.task).__name__, "seed": self.seed, "batch_size": self.plan.batch_size,
            "accumulate": self.parts, "samples": self.plan.num_samples,
        }  # fmt: skip

    def begin(self, resume: bool, loggers: Sequence[str]) -> Log:
        """Make everything ready, as of the first step or as of the checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        found = checkpoint.read(self.folder) if resume else None
        self.fabric.barrier()  # all have read before one writes
        if found is None and self.fabric.is_global_zero:
            for name in (checkpoint.FILE, "encoder.safetensors"):
                (self.folder / name).unlink(missing_ok=True)
        engine, task = self.engine, self.task.to(self.engine.device).train()
        if type(task).prepare is not PretextTask.prepare:
            task.prepare(self.whole_data(), self.plan.num_samples)
        if engine.world > 1:
            sync_batch_norm(task)
        if found is None:
            engine.enter(0)
        else:
            self.load(*found)
        return Log(self.folder, self.index, loggers)

    def load(self, place: Place, tensors: dict[str, Tensor]) -> None:
        """Stand where the checkpoint stood.

        Raises:
            UsageError: the checkpoint is of another run.
        """
        for name, value in self.settings.items():
            if place.settings.get(name) != value:
                raise UsageError(
                    f"'{self.folder}' holds a run with {name} {place.settings.get(name)}, not {value}: "
                    "resume with the same settings, or start anew in another folder"
                )
        self.index, self.pending = place.step, place.pending
        engine = self.engine
        engine.announce(place.stage)
        checkpoint.load_task(self.task, place, tensors)
        engine.arm()
        for name, learner in engine.learners.items():
            checkpoint.load_optimiser(learner.optimiser, name, tensors)
        if engine.scaler is not None and place.scaler:
            engine.scaler.load_state_dict(place.scaler)

    def whole_data(self) -> Iterator[Batch]:
        """One pass over the data in their order; of each batch this process's share."""
        rank, world = self.engine.rank, self.engine.world
        data = self.dataset.subset(torch.arange(len(self.dataset.rows)))
        for rows in torch.arange(len(data)).split(self.plan.batch_size):
            share = len(rows) // world
            own = rows[rank * share : (rank + 1) * share]
            if len(own):
                yield to_device(data.batch(own), self.engine.device)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The parts of this process's batches number `start` to `stop` - 1."""
        return batches(
            self.dataset, self.plan.batch_size, seed=self.seed, start=start, stop=stop,
            rank=self.engine.rank, world=self.engine.world, workers=self.workers, parts=self.parts,
            tasks=self.plan.recipe.tasks,
        )  # fmt: skip

    def go(self, log: Log, signals: Signals, checkpoint_every: int) -> None:
        """All steps that are left."""
        if self.index >= self.plan.steps:
            return
        arriving = feed(self.batches(self.index, self.plan.steps), self.engine.device)
        watch = Stopwatch(self.engine.device)
        while self.index < self.plan.steps:
            self.engine.enter(self.index)
            parts = list(islice(arriving, self.parts))
            watch.arrived()
            self.raw.append((self.index, self.engine.step(self.index, parts)))
            watch.done()
            self.index += 1
            done = self.index == self.plan.steps
            if self.index % self.every == 0 or self.index == 1 or done:
                self.fetch(signals)
                self.write_row(log, watch)
            # of several processes all must have heard of the signal, which they do when values are fetched
            leaving = self.stopping or (self.engine.world == 1 and bool(signals.received))
            if done or leaving or self.index % checkpoint_every == 0:
                self.fetch(signals)
                self.save(log)
                watch.resume()
            if leaving and not done:
                self.note(f"stopped after step {self.index}; `--resume` continues the run in {self.folder}")
                signals.leave()

    def fetch(self, signals: Signals) -> None:
        """Bring the values of the last steps from the device, as means over processes.

        Raises:
            Diverged: a loss among them is no number.
        """
        values = [value for _, found in self.raw for value in found.values()]
        values.append(torch.tensor(float(signals.received > 0)))
        flat = torch.stack([value.to(self.engine.device, torch.float64) for value in values])
        average([flat])
        numbers = iter(flat.tolist())
        for index, found in self.raw:
            row = {name: next(numbers) for name in found}
            bad = broken(row)
            if bad is not None:
                self.diverge(index, bad, row)
            self.pending.append(row)
        self.raw.clear()
        self.stopping = next(numbers) > 0

    def diverge(self, index: int, name: str, row: dict[str, float]) -> None:
        """
        Raises:
            Diverged: always.
        """
        path = self.folder / f"broken-batch-step-{index + 1}.safetensors"
        if self.fabric.is_global_zero:
            joined = batches(
                self.dataset, self.plan.batch_size, seed=self.seed, start=index, stop=index + 1, workers=0,
                tasks=self.plan.recipe.tasks,
            )  # fmt: skip
            keep_batch(path, next(joined))
        row = {"step": index + 1, "epoch": (index + 1) / self.plan.steps_per_epoch, **row}
        raise Diverged(explain(name, index + 1, path, self.engine.scaler is not None), row)

    def write_row(self, log: Log, watch: Stopwatch) -> None:
        """The row of metrics.csv that the pending values make."""
        plan, rows, index = self.plan, self.pending, self.index
        names = list(dict.fromkeys(name for row in rows for name in row))
        values: dict[str, float] = {"step": index, "epoch": index / plan.steps_per_epoch}
        for name in names:
            known = [row[name] for row in rows if name in row]
            values[name] = sum(known) / len(known)
        values |= {
            f"chance/{name}": level for name, level in self.task.chance(plan.batch_size // self.parts).items()
        }
        values |= self.engine.rates(index - 1)
        steps = len(watch.steps)
        waited, computed = watch.read()
        values["samples_per_second"] = plan.batch_size * steps / max(waited + computed, 1e-9)
        values |= {"seconds/data": waited / steps, "seconds/compute": computed / steps}
        self.pending = []
        if self.fabric.is_global_zero:
            log.row(values)

    def save(self, log: Log) -> None:
        """Write the checkpoint."""
        engine, main = self.engine, self.fabric.is_global_zero
        if main:
            log.flush()
        scaler = {} if engine.scaler is None else engine.scaler.state_dict()
        place = Place(self.index, engine.stage, self.settings, self.plan.num_samples, self.pending, scaler)
        optimisers = {name: one.optimiser for name, one in engine.learners.items()}
        checkpoint.save(self.folder, self.task, optimisers, place, write=main)
