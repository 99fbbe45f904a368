"""Who learns what: the optimisers of a run, each with its parameters, its losses and its schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pretask.errors import UsageError
from pretask.recipe import Recipe
from pretask.task import Losses, PretextTask
from pretask.training.optimisers import make_optimiser, set_rates
from pretask.training.plan import Plan, Schedule

MAIN = "main"


@dataclass
class Learner:
    """One optimiser and what it trains.

    Args:
        parameters: by name.
        optimiser: over all of them.
        schedule: of its rates.
        losses: names of the losses it minimises; None for all.
    """

    parameters: dict[str, nn.Parameter]
    optimiser: Optimizer
    schedule: Schedule
    losses: tuple[str, ...] | None = None

    @property
    def clip(self) -> float | None:
        return self.schedule.recipe.clip

    def total(self, task: PretextTask, losses: Losses) -> Tensor:
        """What it minimises.

        Raises:
            UsageError: one of its losses is not there.
        """
        if self.losses is None:
            return task.total(losses)
        missing = [name for name in self.losses if name not in losses]
        if missing:
            raise UsageError(f"a player's loss '{missing[0]}' is not among {', '.join(losses)}")
        return task.total({name: losses[name] for name in self.losses})

    def own_gradients(self, total: Tensor, keep_graph: bool) -> None:
        """Add the gradient of `total` to its own parameters and to no other."""
        parameters = list(self.parameters.values())
        found = torch.autograd.grad(total, parameters, retain_graph=keep_graph, allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                # backward() would lay it out in memory as the parameter; fused optimisers rely on that
                if gradient.stride() != parameter.stride():
                    gradient = torch.empty_like(parameter).copy_(gradient)
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def set_rates(self, index: int) -> None:
        set_rates(self.optimiser, self.schedule, index)


def check(task: PretextTask) -> None:
    """
    Raises:
        UsageError: the task declares what cannot be trained.
    """
    if task.players and task.stages:
        raise UsageError(f"{type(task).__name__} declares both players and stages: one of them at a time")
    if any(stage.share <= 0 for stage in task.stages):
        raise UsageError(f"{type(task).__name__}: every stage needs a share of the run above 0")


def make_learners(task: PretextTask, plan: Plan, stage: int) -> dict[str, Learner]:
    """The learners of a stage of the run, over all that requires a gradient by now.

    Raises:
        UsageError: a parameter is claimed by two players, or by a player's name nothing is found.
    """
    named = {name: p for name, p in task.named_parameters() if p.requires_grad}
    if not task.players:
        recipe, bounds = plan.recipe, (0, plan.steps)
        if task.stages:
            recipe, bounds = task.stages[stage].recipe, plan.bounds(task.stages)[stage]
        return {MAIN: learner(task, plan, recipe, named, bounds)} if named else {}
    learners: dict[str, Learner] = {}
    owner: dict[str, str] = {}
    for name, player in task.players.items():
        own = {key: p for key, p in named.items() if key.startswith(player.modules)}
        if not own:
            raise UsageError(f"player '{name}' has no parameter to train: none begins with {player.modules}")
        taken = next((key for key in own if key in owner), None)
        if taken is not None:
            raise UsageError(f"{taken} belongs to two players, '{owner[taken]}' and '{name}'")
        owner |= dict.fromkeys(own, name)
        learners[name] = learner(task, plan, player.recipe, own, (0, plan.steps), player.losses)
    return learners


def learner(
    task: PretextTask,
    plan: Plan,
    recipe: Recipe,
    parameters: Mapping[str, nn.Parameter],
    bounds: tuple[int, int],
    losses: tuple[str, ...] | None = None,
) -> Learner:
    schedule = plan.schedule(recipe, *bounds)
    optimiser = make_optimiser(parameters.items(), schedule, task.encoder)
    return Learner(dict(parameters), optimiser, schedule, losses)
