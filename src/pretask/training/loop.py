"""The loop: batches in, losses down, all of it kept so that a killed run goes on as if nothing happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from math import ceil
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from pretask.data import Dataset
from pretask.data.loader import batches
from pretask.encoders import save_encoder
from pretask.errors import UsageError
from pretask.task import Batch, PretextTask
from pretask.training import checkpoint
from pretask.training.checkpoint import Place
from pretask.training.devices import make_fabric
from pretask.training.engine import Engine
from pretask.training.environment import write_environment, write_skipped
from pretask.training.feed import feed, to_device
from pretask.training.flops import peak
from pretask.training.journal import Journal
from pretask.training.learners import check
from pretask.training.log import Log
from pretask.training.plan import Plan
from pretask.training.progress import Display
from pretask.training.stopping import Diverged, Signals, explain, keep_batch
from pretask.training.watch import Watch, looking, spread_over

SHEETS = 8
"""Contact sheets drawn of a run, besides the one before its first step."""

WORTH_COUNTING = 50
"""Steps from which on it is worth the time of one more to count the operations of a step."""

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
        compile: torch.compile the task: its views, networks and losses.
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
    if accumulate < 1 or checkpoint_every < 1:
        raise UsageError(
            f"accumulate and checkpoint_every must be positive: {accumulate}, {checkpoint_every}"
        )
    fabric = make_fabric(precision, devices, nodes, strategy)
    fabric.launch()
    Run(
        fabric, task, dataset, plan, Path(folder), seed, accumulate, workers, compile, sheets, note, progress
    ).all(resume, loggers, checkpoint_every)


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Convolutions that give the same every time; afterwards all is as the caller had it, randomness, too."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


@dataclass
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
        compile: the task.
        sheets: draws what the task does.
        note: takes lines for a person; None for the display.
        progress: show it.
    """

    fabric: Fabric
    task: PretextTask
    dataset: Dataset
    plan: Plan
    folder: Path
    seed: int
    parts: int
    workers: int | None
    compile: bool
    sheets: Sheets | None
    note: Note | None
    progress: bool

    def __post_init__(self) -> None:
        self.main, self.index = self.fabric.is_global_zero, 0
        self.engine = Engine(self.fabric, self.task, self.plan, self.seed, self.parts)
        self.watch = Watch(self.dataset, self.task.encoder, self.plan.batch_size, self.plan.steps)

    @property
    def settings(self) -> dict[str, object]:
        """What decides over the course of a run."""
        return {
            "task": type(self.task).__name__, "seed": self.seed, "batch_size": self.plan.batch_size,
            "accumulate": self.parts, "samples": self.plan.num_samples,
        }  # fmt: skip

    def all(self, resume: bool, loggers: Sequence[str], checkpoint_every: int) -> None:
        """The run from where it stands to its end, and the encoder."""
        home = next(iter(self.task.state_dict().values())).device
        with reproducible(self.fabric.device), Signals() as signals:
            self.begin(resume, loggers)
            try:
                if self.index < self.plan.steps:
                    self.go(signals, checkpoint_every)
            finally:
                self.end()
        self.task.to(home)
        path = self.folder / "encoder.safetensors"
        if self.main and not path.is_file():
            save_encoder(self.task.learned, path)  # type: ignore[arg-type]  # a task's may be any module
        self.fabric.barrier()

    def begin(self, resume: bool, loggers: Sequence[str]) -> None:
        """Make everything ready, as of the first step or as of the checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        found = checkpoint.read(self.folder) if resume else None
        self.fabric.barrier()  # all have read before one writes
        if self.main:
            write_environment(self.folder, self.fabric)
            for name in (checkpoint.FILE, "encoder.safetensors") if found is None else ():
                (self.folder / name).unlink(missing_ok=True)
        engine, task = self.engine, self.task.to(self.engine.device)
        if not task.training:  # a task in training keeps the parts of it that are not
            task.train()
        for module in task.modules() if engine.device.type == "cuda" else ():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # for tensor cores
        if type(task).prepare is not PretextTask.prepare:
            task.prepare(self.whole_data(), self.plan.num_samples)
        pending = []
        if found is None:
            engine.enter(0)
        else:
            self.load(*found)
            pending = found[0].pending
        log = Log(self.folder, self.index, loggers, write=self.main)
        self.journal = Journal(self.fabric, self.plan, self.parts, log, pending)
        self.display = Display(self.plan.steps, self.index, self.progress and self.main)

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
        self.index = place.step
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

    def batches(self, start: int, stop: int, alone: bool = False) -> Iterator[Batch]:
        """The parts of this process's batches number `start` to `stop` - 1; alone: the whole ones."""
        engine = self.engine
        rank, world, parts = (0, 1, 1) if alone else (engine.rank, engine.world, self.parts)
        return batches(
            self.dataset, self.plan.batch_size, seed=self.seed, start=start, stop=stop, rank=rank,
            world=world, workers=self.workers, parts=parts, tasks=self.plan.recipe.tasks,
            passes=ceil(self.plan.epochs),
        )  # fmt: skip

    def go(self, signals: Signals, checkpoint_every: int) -> None:
        """All steps that are left."""
        engine, journal, total = self.engine, self.journal, self.plan.steps
        arriving = feed(self.batches(self.index, total), engine.device)
        drawn = spread_over(total, SHEETS)
        if self.index == 0:
            self.draw()
        journal.clock.resume()
        first = True
        while self.index < total:
            engine.enter(self.index)
            parts = list(islice(arriving, self.parts))
            if first:
                first = self.warm_up(parts[0])
            journal.clock.arrived()
            journal.add(self.index, engine.step(self.index, parts))
            journal.clock.done()
            self.index += 1
            done = self.index == total
            looking = self.index in self.watch.steps
            if journal.due(self.index) or looking:
                self.record(signals, looking)
            if self.index in drawn:
                self.draw()
            # of several processes all must have heard of the signal, which they do when values are fetched
            leaving = journal.stopping or (engine.world == 1 and bool(signals.received))
            if done or leaving or self.index % checkpoint_every == 0:
                self.save(signals)
            self.display.step(self.index)
            if leaving and not done:
                self.say(f"stopped after step {self.index}; `--resume` continues the run in {self.folder}")
                signals.leave()

    def warm_up(self, batch: Batch) -> bool:
        """Count a step's operations and compile the task, before the first step; False: it is done."""
        device, left = self.engine.device, self.plan.steps - self.index
        if left >= WORTH_COUNTING:
            dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
            try:
                operations = self.engine.flops(self.index, batch)
            except (RuntimeError, TypeError, NotImplementedError):
                operations = 0  # not every task can be copied or counted; nothing depends on it
            able = peak(device, dtype.get(self.fabric.strategy.precision.precision, torch.float32))
            self.journal.flops = operations, able
        if self.compile:
            self.engine.task.compile()  # all of its loss; graphs end at draws, which they cannot hold
        self.journal.clock.resume()
        return False

    def record(self, signals: Signals, looking: bool) -> None:
        """Write a row, after a look at the features if it is time for one."""
        self.fetch(signals)
        more = self.engine.rates(self.index - 1)
        if looking:
            self.engine.publish()
            more |= self.watch.look(self.engine.device)
        row = self.journal.row(self.index, self.task, more)
        self.display.row(row)
        for line in self.watch.judge(self.journal.rows):
            self.say(f"warning: {line}")
        if looking:
            self.journal.clock.resume()

    def fetch(self, signals: Signals) -> None:
        """Bring values from the device.

        Raises:
            Diverged: a loss among them is no number.
        """
        bad = self.journal.fetch(bool(signals.received))
        if bad is None:
            return
        index, name, row = bad
        path = self.folder / f"broken-batch-step-{index + 1}.safetensors"
        if self.main:
            keep_batch(path, next(self.batches(index, index + 1, alone=True)))
        self.journal.write({"step": index + 1, "epoch": (index + 1) / self.plan.steps_per_epoch, **row})
        raise Diverged(explain(name, index + 1, path, self.engine.scaler is not None))

    def save(self, signals: Signals) -> None:
        """Write the checkpoint, of steps whose losses are known to be numbers."""
        self.fetch(signals)
        engine = self.engine
        if self.main:
            self.journal.log.flush()
            write_skipped(self.folder, self.dataset)
        scaler = {} if engine.scaler is None else engine.scaler.state_dict()
        place = Place(
            self.index, engine.stage, self.settings, self.plan.num_samples, self.journal.pending, scaler
        )
        optimisers = {name: one.optimiser for name, one in engine.learners.items()}
        checkpoint.save(self.folder, engine.task, optimisers, place, write=self.main)
        self.fabric.barrier()  # nobody leaves, to come back perhaps, before it is there
        self.journal.clock.resume()

    def draw(self) -> None:
        """Let the caller draw what the task does."""
        if self.sheets is None:
            return
        self.engine.publish()
        if self.main:
            try:
                with looking(self.task):
                    self.sheets(self.task, self.index)
            except Exception as error:  # a picture is not worth a run
                self.say(f"warning: no contact sheet of step {self.index}: {type(error).__name__}: {error}")
        self.journal.clock.resume()

    def say(self, line: str) -> None:
        if self.main:
            (self.note or self.display.say)(line)

    def end(self) -> None:
        """Close what is open, and leave the task as a plain one."""
        self.display.close()
        self.journal.log.close()
        self.engine.publish()
        for module in self.task.modules():
            module._compiled_call_impl = None
