"""One step of a run: forward, backward, optimisers, in one process as in many."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn

from pretask.errors import UsageError
from pretask.objectives.distributed import sync_batch_norm
from pretask.pretexts.draw import part_of
from pretask.task import Batch, Losses, PretextTask, Step
from pretask.training.checkpoint import whole
from pretask.training.devices import average, synced
from pretask.training.flops import counted
from pretask.training.learners import Learner, make_learners
from pretask.training.plan import Plan

Values = dict[str, Tensor]
"""What is logged of a step, still on the device: `loss/total`, `loss/TERM`, `metric/NAME`."""


def seed_everywhere(seed: int, device: torch.device) -> None:
    """What `torch.manual_seed` does, a hundred times faster where CUDA is not in use."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)


class Engine:
    """Everything a step needs.

    Args:
        fabric: where it computes.
        task: what learns.
        plan: how.
        seed: of the pretexts.
        parts: a batch is computed in.

    Attributes:
        task: what learns: the task itself, or with FSDP a twin of which each process holds a part.
        stage: that has begun; -1 before the first.
        learners: by name, those of the stage.
        scaler: of the gradients, in half precision.
    """

    def __init__(self, fabric: Fabric, task: PretextTask, plan: Plan, seed: int, parts: int):
        self.fabric, self.plan, self.seed, self.parts = fabric, plan, seed, parts
        self.plain = self.task = task
        self.sharded = isinstance(fabric.strategy, ModelParallelStrategy)
        if self.sharded and (task.players or task.stages):
            raise UsageError("fsdp does not serve tasks with players or stages: use ddp")
        self.device, self.rank, self.world = fabric.device, fabric.global_rank, fabric.world_size
        if plan.batch_size % (self.world * parts):
            raise UsageError(
                f"a batch of {plan.batch_size} cannot be shared evenly by {self.world} processes in "
                f"{parts} parts each"
            )
        self.scaler = getattr(fabric.strategy.precision, "scaler", None)
        self.stage = -1
        self.module: nn.Module = task
        self.learners: dict[str, Learner] = {}
        self.learns: bool | None = None  # whether the losses require a gradient; None until one was seen
        self.reduce = False  # whether gradients still have to be averaged over processes after backward
        self.stage_ends = [stop for _, stop in plan.bounds(task.stages)][:-1] if task.stages else []

    def enter(self, index: int) -> None:
        """Begin the stage that the step belongs to, unless it has begun."""
        stage = sum(end <= index for end in self.stage_ends)
        if stage != self.stage:
            self.announce(stage)
            self.arm()

    def announce(self, stage: int) -> None:
        """Let the task make ready for a stage, and for those before it."""
        for number in range(self.stage + 1, stage + 1) if self.plain.stages else ():
            self.plain.begin_stage(number)
        self.plain.to(self.device)
        if self.world > 1:
            sync_batch_norm(self.plain)
        self.stage = stage

    def arm(self) -> None:
        """Make the stage's optimisers, and what averages gradients over processes (players' are averaged
        apart)."""
        self.learns, self.module = None, self.task
        trains = any(parameter.requires_grad for parameter in self.task.parameters())
        if self.sharded:
            self.task = copy.deepcopy(self.plain)
            self.module = self.fabric.strategy.setup_module(self.task)  # in place
        elif self.world > 1 and trains and not self.task.players:
            self.module = self.fabric.strategy.setup_module(self.task)
        self.reduce = self.world > 1 and not self.sharded
        self.learners = make_learners(self.task, self.plan, self.stage)

    def publish(self) -> None:
        """Bring the caller's task up to date where a twin learns; all processes take part."""
        if self.sharded:
            state = {name: whole(tensor) for name, tensor in self.task.state_dict().items()}
            self.plain.load_state_dict(state)

    def flops(self, index: int, batch: Batch) -> int:
        """Floating-point operations of a step, counted with a twin on one part of its batch."""
        twin, step = copy.deepcopy(self.plain), self.place(index)

        def work() -> None:
            with part_of(0, self.parts), self.fabric.autocast():
                total = twin.total(twin(batch, step))
            if total.requires_grad:
                total.backward()

        operations = counted(work) * self.parts
        self.plain.zero_grad(set_to_none=True)  # of a task whose loss is bound to itself, copied or not
        return operations

    def place(self, index: int, number: int = 0) -> Step:
        """Where the run stands at a step; the dropout of other libraries' networks, which draws from torch's
        global generator, is made to depend on it alone, too."""
        plan = self.plan
        mixed = np.random.SeedSequence([self.seed, index, self.rank, number]).generate_state(1, np.uint64)
        seed_everywhere(int(mixed[0]) & (2**63 - 1), self.device)
        return Step.at(index, plan.steps, plan.steps_per_epoch, self.seed, self.device, self.stage)

    def step(self, index: int, parts: Sequence[Batch]) -> Values:
        """One step of all learners from one batch."""
        values: dict[str, list[Tensor]] = defaultdict(list)
        for number, batch in enumerate(parts):
            step, losses = self.forward(index, batch, number)
            self.backward(losses)
            for name, value in self.measured(losses, step).items():
                values[name].append(value)
        if self.learns:
            self.update(step)
        self.task.after_step(step)
        return {
            name: found[0] if len(found) == 1 else torch.stack(found).mean() for name, found in values.items()
        }

    def forward(self, index: int, batch: Batch, number: int) -> tuple[Step, Losses]:
        """The losses of a part of the batch."""
        step = self.place(index, number)
        # DDP would wait for gradients for ever where there are none
        module = self.module if self.learns else self.task
        with synced(module, number == self.parts - 1), part_of(number, self.parts), self.fabric.autocast():
            return step, module(batch, step)

    def backward(self, losses: Losses) -> None:
        """Add the gradients of a part to every learner's parameters."""
        totals = [(one, one.total(self.task, losses) / self.parts) for one in self.learners.values()]
        totals = [(one, total) for one, total in totals if total.requires_grad]
        if self.learns is None:
            self.learns = bool(totals)
        for number, (one, total) in enumerate(totals):
            scaled = total if self.scaler is None else self.scaler.scale(total)
            if self.task.players:
                one.own_gradients(scaled, keep_graph=number < len(totals) - 1)
            else:
                scaled.backward()

    def update(self, step: Step) -> None:
        """Change gradients as the task wants, clip them, and let every optimiser take its step."""
        learners = list(self.learners.values())
        if self.reduce:
            average([p.grad for one in learners for p in one.parameters.values() if p.grad is not None])
            self.reduce = self.module is self.task  # from now on DDP sees to it, if there is DDP
        if self.scaler is not None:
            for one in learners:
                self.scaler.unscale_(one.optimiser)
        self.task.after_backward(step)
        for one in learners:
            one.set_rates(step.index)
            if one.clip is not None:
                torch.nn.utils.clip_grad_norm_(one.parameters.values(), one.clip)
            if self.scaler is None:
                one.optimiser.step()
            else:
                self.scaler.step(one.optimiser)
            one.optimiser.zero_grad(set_to_none=True)
        if self.scaler is not None:
            self.scaler.update()

    def rates(self, index: int) -> dict[str, float]:
        """The rates and decays of a step, for the log; the first learner's have no name."""
        found: dict[str, float] = {}
        for number, (name, one) in enumerate(self.learners.items() if self.learns else ()):
            end = f"/{name}" if number else ""
            found[f"lr{end}"] = one.schedule.peak * one.schedule.shape(index)
            found[f"weight_decay{end}"] = one.schedule.weight_decay(index)
        return found

    def measured(self, losses: Losses, step: Step) -> Values:
        """Losses, what is minimised and the task's own metrics."""
        first = next(iter(self.learners.values()), None)  # of several players that of the first
        with torch.no_grad():
            total = self.task.total(losses) if first is None else first.total(self.task, losses)
            found = {"loss/total": total.detach()}
        found |= {f"loss/{name}": value.detach() for name, value in losses.items()}
        found |= {f"metric/{name}": torch.as_tensor(value).detach() for name, value in step.metrics.items()}
        return found
