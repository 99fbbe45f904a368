"""From a paper's recipe to a run: batch, length, rates. The rule, and the schedules that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from math import ceil, cos, inf, pi, sqrt
from typing import Any

from pretask.errors import UsageError
from pretask.recipe import Recipe
from pretask.task import Stage

LARGEST, SMALLEST = 256, 8
"""Samples in a batch by default: at most, and at least where there are as many."""

STEPS, SAMPLES = 2000, 2000
"""So many optimiser steps suit so many samples; they grow with the root of the number."""


@dataclass(frozen=True)
class Schedule:
    """Rate and weight decay of one optimiser, step by step.

    Args:
        recipe: what is scheduled.
        scale: factor on the recipe's rates for the batch at hand.
        start: the first step of the run it is for.
        steps: how many steps it is for.
    """

    recipe: Recipe
    scale: float
    start: int
    steps: int

    @property
    def peak(self) -> float:
        return self.recipe.lr * self.scale

    def shape(self, index: int) -> float:
        """The rate at a step as a share of its peak.

        Linear in the first w = round(warmup x steps) steps, a + (1 - a) i / w with a = `warmup_from`, as in
        MAE's code, or with `warmup_arrives` i / (w - 1) for i / w, as in DINO's; then constant; or a tenth, a
        hundredth, ... from step round(drop x steps) of each of `drops` on; or f + (1 - f) s with f = `final_lr`,
        where s falls from 1 to 0 over the rest of the steps: (1 + cos(pi x)) / 2 or, linearly, 1 - x, with
        x = (i - w) / (steps - w).
        """
        i, recipe = index - self.start, self.recipe
        warm = round(recipe.warmup * self.steps)
        if i < warm:
            climbed = i / (max(warm - 1, 1) if recipe.warmup_arrives else warm)
            return recipe.warmup_from + (1 - recipe.warmup_from) * climbed
        if recipe.schedule == "constant":
            return 1.0
        if recipe.schedule == "steps":
            return 0.1 ** sum(i >= round(drop * self.steps) for drop in recipe.drops)
        share = (i - warm) / max(self.steps - warm, 1)
        left = 1 - share if recipe.schedule == "linear" else (1 + cos(pi * share)) / 2
        return recipe.final_lr + (1 - recipe.final_lr) * left

    def weight_decay(self, index: int) -> float:
        """Constant, or a cosine from `weight_decay` to `weight_decay_end` over all steps."""
        first, last = self.recipe.weight_decay, self.recipe.weight_decay_end
        if last is None:
            return first
        return last + (first - last) * (1 + cos(pi * (index - self.start) / self.steps)) / 2


@dataclass(frozen=True)
class Plan:
    """A run, decided: what `fit` carries out.

    Args:
        recipe: the paper's optimisation; rates in it are still the paper's.
        batch_size: samples a step, over all processes.
        steps: optimiser steps in all.
        steps_per_epoch: optimiser steps in one pass over the data.
        factor: on what the rule makes of a recipe's rates; 1 unless a rate was asked for.
        num_samples: samples there are; 0 if nobody knows.
    """

    recipe: Recipe
    batch_size: int
    steps: int
    steps_per_epoch: int
    factor: float = 1.0
    num_samples: int = 0

    @property
    def epochs(self) -> float:
        return self.steps / self.steps_per_epoch

    @property
    def lr(self) -> float:
        """The highest rate of the run."""
        return self.schedule(self.recipe).peak

    def schedule(self, recipe: Recipe, start: int = 0, stop: int | None = None) -> Schedule:
        """The schedule of a recipe for the steps `start` to `stop` - 1 of this run."""
        stop = self.steps if stop is None else stop
        return Schedule(recipe, scale_for(recipe, self.batch_size) * self.factor, start, stop - start)

    def bounds(self, stages: Sequence[Stage]) -> list[tuple[int, int]]:
        """First step and first step no more of each stage."""
        whole = sum(stage.share for stage in stages)
        ends = [round(self.steps * done / whole) for done in accumulate(stage.share for stage in stages)]
        return list(pairwise([0, *ends]))

    def describe(self) -> dict[str, Any]:
        """Everything decided, as plain data."""
        own = asdict(self.recipe)
        own["betas"] = list(self.recipe.betas)
        own |= {name: [list(one) for one in getattr(self.recipe, name)] for name in ("groups", "decays")}
        own |= {name: list(getattr(self.recipe, name)) for name in ("undecayed", "held", "drops")}
        return {
            "batch_size": self.batch_size, "steps": self.steps, "epochs": round(self.epochs, 4),
            "steps_per_epoch": self.steps_per_epoch, "lr": self.lr, "recipe": own,
        }  # fmt: skip


def scale_for(recipe: Recipe, batch_size: int) -> float:
    """Linear scaling of the rate with the batch (Goyal et al., 2017)."""
    return batch_size / recipe.lr_batch if recipe.lr_batch else 1.0


def default_batch(recipe: Recipe, num_samples: int, shares: int = 1) -> int:
    """The batch for so many samples by the rule of `make_plan`."""
    most = min(recipe.batch_size, LARGEST)
    if num_samples:
        most = min(most, max(num_samples // 4, min(SMALLEST, num_samples)))
    power = 1 << (most.bit_length() - 1)  # the largest power of two within
    whole = power if num_samples >= power or not num_samples else num_samples
    return max(whole // shares, 1) * shares


def make_plan(
    recipe: Recipe,
    num_samples: int | None,
    *,
    batch_size: int | None = None,
    epochs: float | None = None,
    max_steps: int | None = None,
    lr: float | str = "auto",
    shares: int = 1,
) -> Plan:
    """Scale a paper's recipe to the data and the batch at hand.

    The rule, for what is not asked for:

    - *batch*: the paper's, at most 256, at most a quarter of the samples (but 8 where there are as many), in
      powers of two. 200 pictures: 32. 1,000: 128. A million: 256.
    - *length*: 2,000 steps of the default batch up to 2,000 samples; beyond, steps grow with the root of the
      number of samples, so that a small folder is seen often and a large one is got through. 200 pictures:
      320 epochs. 2,000: 256. 50,000: 52. A million: 12. It depends on the data alone, not on the batch that
      was asked for; a paper's own length is `epochs=recipe.epochs`, by default that of a stream of classes
      (`recipe.tasks`).
    - *rate*: the paper's, times batch / `recipe.lr_batch`. A rate that is asked for is the peak for this very
      batch; rates of other players, stages and groups change by the same factor.
    - *schedule*: warm-up as a share of the run, then the recipe's cosine, line or constant, by step.

    Args:
        recipe: the method's.
        num_samples: samples there are; None or 0 for a stream, which needs `max_steps`.
        batch_size: samples a step, over all processes.
        epochs: passes over the data.
        max_steps: optimiser steps; goes before `epochs`.
        lr: highest learning rate for this batch, or `auto`.
        shares: parts a batch is computed in, processes times accumulation: the default batch is a multiple.

    Raises:
        UsageError: a number that makes no sense, or a stream without `max_steps`.
    """
    count = num_samples or 0
    for name, value in (("batch_size", batch_size), ("epochs", epochs), ("max_steps", max_steps)):
        if value is not None and value <= 0:
            raise UsageError(f"{name} must be positive, not {value}")
    if not count and not max_steps:
        raise UsageError(
            "the data are streamed, nobody knows their number: say with max_steps how long to train"
        )
    usual = default_batch(recipe, count, shares)
    batch = batch_size or usual
    per_epoch = max(1, count // batch) if count else 0
    if max_steps:
        steps = max_steps
    elif epochs or recipe.tasks:
        steps = max(1, round((epochs or recipe.epochs) * per_epoch))
    else:
        seen = STEPS * max(1.0, sqrt(count / SAMPLES)) * default_batch(recipe, count)
        steps = max(1, ceil(seen / count)) * per_epoch
    return Plan(recipe, batch, steps, per_epoch or steps, rate_factor(recipe, batch, lr), count)


def rate_factor(recipe: Recipe, batch_size: int, lr: float | str) -> float:
    """What was asked for over what the rule would take.

    Raises:
        UsageError: it is no positive number.
    """
    if lr == "auto":
        return 1.0
    try:
        rate = float(lr)
    except ValueError:
        rate = 0.0
    if not 0 < rate < inf:
        raise UsageError(f"lr must be a positive number or 'auto', not '{lr}'")
    return rate / (recipe.lr * scale_for(recipe, batch_size))
