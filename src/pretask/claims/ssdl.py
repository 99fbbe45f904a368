"""SSDL: soft labels that a hypergraph spreads serve a dictionary better than few labels or hard guesses do."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretask.methods.image.ssdl import SSDL, few
from pretask.studies.bench import Bench
from pretask.studies.claim import Arm, Claim, Comparison, Trained
from pretask.task import Step

FEW = 5  # labels a class
ALL = 10_000


class LabelledOnly(SSDL):
    """Nothing is spread: the dictionary learns from the labelled samples alone."""

    def soft_labels(self, samples: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        told = few(labels, self.labelled_per_class, generator)
        return F.one_hot(labels).to(samples) * told[:, None]


class SelfTrained(LabelledOnly):
    """Half of the run like that; then what the dictionary says of all other samples, made hard, joins in."""

    def after_step(self, step: Step) -> None:
        super().after_step(step)
        if step.index + 1 == step.total // 2:
            said = F.one_hot(self.answer(self.known).argmax(1), self.soft.shape[1]).to(self.soft)
            told = self.soft[self.inside].any(1)
            self.soft[self.inside] = torch.where(told[:, None], self.soft[self.inside], said)


class Hypergraph(SSDL):
    """Soft labels alone: new samples get those of the ones they look at."""

    def answer(self, samples: Tensor) -> Tensor:
        return self.guess(samples)


def arm(kind: type[SSDL] = SSDL, steps: int | None = None, **options: Any) -> Arm:
    settings = {"labelled_per_class": FEW, **options}

    def make(encoder: Any) -> SSDL:
        return kind(encoder, **settings)

    return Arm(make, steps=steps)


def accuracy(trained: Trained, bench: Bench) -> dict[str, Tensor]:
    """Of pictures the pretext has not seen (inductive), and of the soft labels of those it has whose own were
    not read (transductive). A dictionary alone says no class."""
    task = trained.task
    if not isinstance(task, SSDL):
        return {}
    seen, new = (part.batch(torch.arange(len(part))) for part in (bench.train, bench.test))
    right = task.answer(task.represent(new)).argmax(1).cpu() == new["label"]
    soft = task.soft.cpu()
    guessed = (soft.amax(1) < 1) & soft.any(1)
    named = (soft.argmax(1) == seen["label"])[guessed].double()
    return {"accuracy": right.double(), "soft labels": named.mean() if len(named) else torch.tensor(1.0)}


CLAIM = Claim(
    statement="With few labels, soft labels spread over a hypergraph of all samples make a better dictionary "
    "than the labels alone or hard labels by self-training; all labels make a better one still.",
    arms={
        "p 1.6, attention": arm(),
        "p 2, attention": arm(p=2.0),
        "p 2, nearest": arm(p=2.0, hypergraph="nearest"),
        "hard self-training": arm(SelfTrained),
        "labels alone": arm(LabelledOnly),
        "all labels": arm(labelled_per_class=ALL),
        "soft labels, no dictionary": arm(Hypergraph, steps=1),
        "random dictionary": Arm(None),
    },
    comparisons=(
        Comparison("accuracy", "p 1.6, attention", "labels alone"),
        Comparison("accuracy", "p 1.6, attention", "hard self-training"),
        Comparison("accuracy", "hard self-training", "labels alone"),
        Comparison("accuracy", "p 2, attention", "p 2, nearest", margin=-0.01),
        Comparison("accuracy", "p 1.6, attention", "p 2, attention", margin=-0.01),
        Comparison("accuracy", "all labels", "p 1.6, attention"),
        Comparison("knn", "p 1.6, attention", "random dictionary"),
    ),
    metrics=(accuracy, "knn"),
    data="fashion_mnist_900",
    fallback="digits",
    encoder="sparse_dictionary:atoms=50,side=8",
    steps=20,
    batch_size=550,
    train=550,
    labelled=550,
    test=500,
    seeds=10,
)
