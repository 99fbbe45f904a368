"""Tasks that learn in milliseconds and have everything a loop must take care of, on scikit-learn's digits;
how to train them, and how to read what a run left."""

import csv
from collections.abc import Callable, Iterable
from functools import lru_cache
from math import log
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from pretask.data import Dataset, open_data
from pretask.encoders.base import Encoder
from pretask.encoders.features import Features
from pretask.objectives.contrastive import nt_xent
from pretask.objectives.distributed import gather, mean
from pretask.pretexts import draw
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Player, PretextTask, Sheet, Stage, Step
from pretask.training import checkpoint
from pretask.training.loop import fit
from pretask.training.plan import Plan, make_plan

SIDE, WIDTH = 16, 16
TIMES = ("samples_per_second", "seconds/data", "seconds/compute", "utilisation")
STEPS, BATCH = 12, 12


@lru_cache(maxsize=1)
def digits(limit: int = 60) -> Dataset:
    return open_data("digits", limit=limit)


class ToyEncoder(Encoder):
    """Two layers; `model` is what is saved."""

    modality = "image"

    def __init__(self, dropout: float = 0.0, norm: bool = False):
        super().__init__()
        self.name, self.inputs, self.dim = "toy", {}, WIDTH
        between = nn.BatchNorm1d(WIDTH) if norm else nn.Identity()
        self.model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(SIDE * SIDE, WIDTH),
            between,
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(WIDTH, WIDTH),
        )

    def forward(self, image: Tensor) -> Features:
        pooled = self.model(image.float() / 255)
        return Features(pooled, pooled[:, None], pooled[:, :0, None], (1, 1))


class Toy(PretextTask):
    """Which picture is this noisy one? With whatever a task may have: noise, a memory with a row a sample
    that `prepare` makes and `after_step` writes, a teacher, a running scale.

    Args:
        encoder: a toy's.
    """

    recipe = Recipe("adamw", lr=1e-2, lr_batch=16, batch_size=16, warmup=0.2, weight_decay_end=0.1, clip=1.0)

    def __init__(self, encoder: nn.Module, recipe: Recipe | None = None):
        super().__init__(encoder)
        self.recipe = recipe or self.recipe
        self.head = nn.Linear(WIDTH, WIDTH)
        self.teacher = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.register_buffer("scale", torch.tensor(1.0))
        self.weights = {"near": 0.5}
        self.noted: list[tuple[Tensor, Tensor]] = []

    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        self.register_buffer("memory", torch.zeros(num_samples, WIDTH))
        self.register_buffer("level", torch.tensor(0.0))
        found = [batch["image"].float().mean() for batch in batches]
        if found:
            self.level.fill_(mean(torch.stack(found).mean()) / 255)

    def features(self, batch: Batch, step: Step) -> Tensor:
        image = batch["image"].float()
        noise = draw.normal(tuple(image.shape), step.generator)
        return self.head(self.encoder(image + 50 * noise).pooled)

    def loss(self, batch: Batch, step: Step) -> Losses:
        z = self.features(batch, step)
        target = self.teacher(self.encoder(batch["image"]).pooled.detach()) + self.memory[batch["index"]]
        if self.training and torch.is_grad_enabled():
            self.noted.append((batch["index"], z.detach()))
        step.metrics["size"] = z.detach().abs().mean()
        return {"near": F.mse_loss(z, target), "calm": z.square().mean() * self.scale + self.level}

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        self.teacher.weight.lerp_(self.head.weight, 0.1)
        for index, z in self.noted:
            self.memory.index_copy_(0, gather(index), gather(z.float()))
        self.noted.clear()
        self.scale.mul_(0.99)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        return Sheet("toy", "toy", [])

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"near": log(batch_size)}


class Contrast(PretextTask):
    """SimCLR's loss of two noisy views: it compares the samples of all processes."""

    recipe = Recipe("sgd", lr=0.1, lr_batch=16, batch_size=16, warmup=0.0, weight_decay=1e-3)

    def __init__(self, encoder: nn.Module):
        super().__init__(encoder)

    def loss(self, batch: Batch, step: Step) -> Losses:
        image = batch["image"].float()
        views = [image + 50 * draw.normal(tuple(image.shape), step.generator) for _ in range(2)]
        return {"contrast": nt_xent(*(self.encoder(view).pooled for view in views), 0.5)}


class Duel(PretextTask):
    """A lens changes pictures so that a classifier of their brightness fails; both learn from one forward."""

    def __init__(self, encoder: nn.Module):
        super().__init__(encoder)
        self.lens, self.head = nn.Linear(SIDE * SIDE, SIDE * SIDE), nn.Linear(WIDTH, 1)
        solver = Recipe(
            "sgd", lr=0.1, lr_batch=0, weight_decay=0.0, momentum=0.0, schedule="constant", warmup=0
        )
        spoiler = Recipe("adam", lr=1e-3, lr_batch=0, weight_decay=0.0, warmup=0.5)
        self.recipe = solver
        self.players = {
            "solver": Player(("encoder", "head"), ("solve",), solver),
            "spoiler": Player(("lens",), ("spoil", "keep"), spoiler),
        }

    def loss(self, batch: Batch, step: Step) -> Losses:
        image = batch["image"].float()
        flat = image.flatten(1) / 255
        seen = flat + self.lens(flat + 0.1 * draw.normal(tuple(flat.shape), step.generator))
        told = self.head(self.encoder(255 * seen.view_as(image)).pooled)[:, 0]
        solve = F.mse_loss(told, flat.mean(1))
        return {"solve": solve, "spoil": -solve, "keep": F.mse_loss(seen, flat)}


class Staged(PretextTask):
    """First everything learns; then the encoder is frozen and the head copied; then a new head is added."""

    def __init__(self, encoder: nn.Module):
        super().__init__(encoder)
        self.head = nn.Linear(WIDTH, WIDTH)
        adam = Recipe("adam", lr=1e-2, lr_batch=0, weight_decay=0.0)
        grouped = Recipe("sgd", lr=0.1, lr_batch=0, weight_decay=0.0, groups=(("added", 0.01),))
        self.stages = (Stage("all", 1, adam), Stage("head", 2, adam), Stage("added", 1, grouped))

    def begin_stage(self, index: int) -> None:
        if index == 1:
            self.encoder.requires_grad_(False)
            self.old = type(self.head)(WIDTH, WIDTH).requires_grad_(False)
            self.old.load_state_dict(self.head.state_dict())
        if index == 2:
            self.added = nn.Linear(WIDTH, WIDTH)
            self.added.load_state_dict(self.head.state_dict())

    def loss(self, batch: Batch, step: Step) -> Losses:
        image = batch["image"].float()
        z = self.encoder(image + 50 * draw.normal(tuple(image.shape), step.generator)).pooled
        answer = self.head(z) if step.stage < 2 else self.added(self.head(z))
        target = z.detach() if step.stage == 0 else self.old(z).detach() + 1
        return {"answer": F.mse_loss(answer, target)}


class Counting(PretextTask):
    """Learns without a gradient: the mean picture."""

    def __init__(self, encoder: nn.Module):
        super().__init__(encoder)
        self.register_buffer("average", torch.zeros(1, SIDE, SIDE))

    def loss(self, batch: Batch, step: Step) -> Losses:
        self.seen = mean(batch["image"].float().mean(0))
        return {"distance": (self.seen - self.average).abs().mean()}

    def after_step(self, step: Step) -> None:
        self.average.lerp_(self.seen, 0.5)


KINDS = {"toy": Toy, "contrast": Contrast, "duel": Duel, "staged": Staged, "counting": Counting}


def make(kind: str = "toy", seed: int = 0, dropout: float = 0.0, norm: bool = False) -> PretextTask:
    """A task with weights by `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return KINDS[kind](ToyEncoder(dropout, norm))


class Crash(Exception):
    pass


def plan_for(task: PretextTask, steps: int = STEPS) -> Plan:
    return make_plan(task.recipe, 60, batch_size=BATCH, max_steps=steps)


def train(task: PretextTask, folder: Path, steps: int = STEPS, **settings) -> PretextTask:
    fit(task, digits(), plan_for(task, steps), folder, progress=False, **settings)
    return task


def altered(task: PretextTask, change: Callable) -> PretextTask:
    """The task with another loss, `change(task, losses, step)`."""
    kind = type(task)

    def loss(self, batch, step):
        return change(self, kind.loss(self, batch, step), step)

    task.__class__ = type(kind.__name__, (kind,), {"loss": loss})
    return task


def crash_at(task: PretextTask, index: int) -> PretextTask:
    """The task, but it raises at a step as a machine that dies would."""

    def crash(task, losses, step):
        if step.index == index:
            raise Crash
        return losses

    return altered(task, crash)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_times(folder: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows(folder)]


def kept(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / checkpoint.FILE)


def assert_same(first: Path, second: Path) -> None:
    """Weights, memories, optimisers and logged values, bit for bit."""
    a, b = kept(first), kept(second)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert without_times(first) == without_times(second)
