"""The contract: what a pretext task is, what it is given at each step, and what it shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pretask.recipe import Recipe

Batch = dict[str, Any]
"""Tensors by name; the vocabulary is the table in `pretask.data.batch`."""

Losses = dict[str, Tensor]
"""Named scalars; their sum weighted by `PretextTask.weights` is minimised."""


@dataclass
class Step:
    """Where the run stands, and its randomness.

    Args:
        index: optimiser steps done so far (0 at the first).
        total: optimiser steps in the whole run.
        steps_per_epoch: optimiser steps in one pass over the data.
        generator: the only source of randomness a task may use. Seeded alike in every process:
            `pretexts.draw` gives each process its own rows.
        metrics: a task may leave scalars here to be logged beside its losses.
        stage: which of the task's stages this is.
    """

    index: int
    total: int
    steps_per_epoch: int
    generator: torch.Generator
    metrics: dict[str, Tensor] = field(default_factory=dict)
    stage: int = 0

    @classmethod
    def at(
        cls,
        index: int = 0,
        total: int = 1,
        steps_per_epoch: int = 1,
        seed: int = 0,
        device: str | torch.device = "cpu",
        stage: int = 0,
    ) -> Step:
        """The step with the randomness that belongs to (seed, index), whatever ran before it."""
        generator = torch.Generator(device=device)
        mixed = np.random.SeedSequence([seed, index]).generate_state(2, np.uint32)
        generator.manual_seed((int(mixed[0]) << 32 | int(mixed[1])) & (2**63 - 1))
        return cls(index, max(total, 1), max(steps_per_epoch, 1), generator, stage=stage)

    @property
    def epoch(self) -> int:
        return self.index // self.steps_per_epoch

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return min(self.index / self.total, 1.0)


Kind = Literal["image", "text", "video", "audio", "points", "volume", "graph", "pose", "track"]
Role = Literal["input", "hidden", "asked", "answer", "truth"]


@dataclass(frozen=True)
class Panel:
    """One picture (or text, sound, ...) of a sheet.

    Args:
        caption: a few words under the panel.
        content: for `image` a float tensor (C, H, W) in [0, 1]; for `text` a string.
        role: `answer` marks what the network says, left out while there is no trained network.
        kind: how to draw `content`.
    """

    caption: str
    content: Tensor | str
    role: Role = "input"
    kind: Kind = "image"


@dataclass(frozen=True)
class Sheet:
    """What goes in, what is hidden, what is asked and what is answered: a row of panels a sample."""

    title: str
    note: str
    rows: list[list[Panel]]


class Question(NamedTuple):
    """What the network is shown and what it is asked, for `evaluation.shortcuts` to answer trivially.

    Args:
        shown: one picture (or other sample) an item, as the network sees it.
        source: which row of the batch each item was made from.
        answer: classes (N,) as integers, or numbers (N, D) as floats; None where the question is which
            items were made from the same row.
    """

    shown: Tensor
    source: Tensor
    answer: Tensor | None = None


@dataclass(frozen=True)
class Player:
    """Parameters that learn from some of a task's losses and from no other, with an optimiser of their own.

    Players of one task learn in the same step from the same forward pass, each only for itself.

    Args:
        modules: beginnings of the names of its parameters, such as `("encoder", "head")`.
        losses: names of its losses; their sum weighted by `PretextTask.weights` is what it minimises. A
            loss may be several players'.
        recipe: its own optimisation.
    """

    modules: tuple[str, ...]
    losses: tuple[str, ...]
    recipe: Recipe


@dataclass(frozen=True)
class Stage:
    """A part of a run with an optimiser of its own, which trains whatever requires a gradient by then.

    Args:
        name: what a person calls it.
        share: of the run's steps, in relation to the other stages' shares.
        recipe: its own optimisation; warm-up and schedule are those of this stage alone.
    """

    name: str
    share: float
    recipe: Recipe


class PretextTask(nn.Module):
    """Hides something of unlabelled data and scores how well `encoder` finds it.

    A subclass sets `recipe`, takes the encoder first and options with plain types after it, and
    implements `loss` and `preview`. The constructor's typed arguments are the configuration.

    Attributes:
        weights: of the losses in what is minimised; 1 where nothing is said.
        players: set by a task whose losses belong to different parameters that must not mix. Parameters of
            no player stay as they are.
        stages: set by a task that learns in parts, one after the other. Not together with players.
    """

    recipe: Recipe = Recipe()
    encoder: nn.Module
    weights: dict[str, float]

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.weights = {}
        self.players: dict[str, Player] = {}
        self.stages: tuple[Stage, ...] = ()

    @property
    def learned(self) -> nn.Module:
        """What a run leaves and evaluations judge: the encoder, or the teacher's where the paper judges that."""
        return self.encoder

    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        """See the data once before training: for banks with a row a sample, priors, statistics.

        Called before a checkpoint is loaded, so that every buffer has its shape by then. Of several
        processes each is given its own share of every batch, as in training; the number is that of all.
        """

    def begin_stage(self, index: int) -> None:
        """Make ready for a stage: copy, freeze, unfreeze, add what it needs.

        Called before the stage's optimiser is made. A resumed run calls it for every stage up to its own
        before the checkpoint is loaded, so that the same modules are there by then.
        """

    def loss(self, batch: Batch, step: Step) -> Losses:
        """Named scalars. If none of them requires a gradient the task learns in `after_step` alone."""
        raise NotImplementedError

    def forward(self, batch: Batch, step: Step) -> Losses:
        return self.loss(batch, step)

    def total(self, losses: Losses) -> Tensor:
        """The weighted sum that is minimised."""
        return torch.stack([self.weights.get(name, 1.0) * value for name, value in losses.items()]).sum()

    def after_backward(self, step: Step) -> None:
        """Change gradients before the optimiser sees them (per-parameter clipping, frozen layers)."""

    def after_step(self, step: Step) -> None:
        """Whatever follows the optimiser's step: EMA teachers, queues, banks."""

    def preview(self, batch: Batch, step: Step) -> Sheet:
        raise NotImplementedError

    def question(self, batch: Batch, step: Step) -> Question | None:
        """The pretext without a network: what is shown and the true answer; None where there is none."""
        return None

    def chance(self, batch_size: int) -> dict[str, float]:
        """The value each loss rests at when the encoder knows nothing (ln K, ln(2N-1), ...)."""
        return {}
