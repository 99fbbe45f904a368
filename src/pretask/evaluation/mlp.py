"""Probes by gradient descent, linear or with a hidden layer, as in Kolesnikov, Zhai, Beyer (CVPR 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.evaluation.linear import Scale
from pretask.evaluation.score import Known, Score, accuracy_score
from pretask.pretexts import draw
from pretask.task import Step

HIDDEN, DROPOUT, EPOCHS = 1000, 0.5, 70
DROPS, RATE, BATCH = (30 / 70, 50 / 70), 0.1, 256


def descended(train: Known, classes: int, hidden: int, epochs: int, seed: int) -> tuple[nn.Module, Scale]:
    """Logits by stochastic gradient descent with momentum 0.9; the rate is 0.1 a batch of 256 and falls to a tenth
    one step after 3/7 and 5/7 of the epochs, as in the official code. `hidden` 0 is a linear probe. Features are
    standardised; in the paper they are not."""
    x, y = train
    scale = Scale.of(x)
    x = scale(x)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hidden:
            probe: nn.Module = nn.Sequential(
                nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, classes)
            )
        else:
            probe = nn.Linear(x.shape[1], classes)
    size = min(BATCH, len(x))
    optimizer = torch.optim.SGD(probe.parameters(), RATE * size / 256, momentum=0.9)
    total = epochs * max(1, len(x) // size)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(share * total) + 1 for share in DROPS])
    with torch.enable_grad():
        for index in range(total):
            generator = Step.at(index, total, seed=seed).generator
            rows = torch.randperm(len(x), generator=generator)[:size]
            optimizer.zero_grad()
            F.cross_entropy(answers(probe, x[rows], generator), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return probe, scale


def answers(
    probe: nn.Module, x: Float[Tensor, "items dim"], generator: torch.Generator | None = None
) -> Float[Tensor, "items classes"]:
    """Logits; with a generator half of the hidden values are dropped."""
    if not isinstance(probe, nn.Sequential) or generator is None:
        return probe(x)
    first, activation, last = probe
    h = activation(first(x))
    return last(h * (draw.uniform(tuple(h.shape), generator) >= DROPOUT) / (1 - DROPOUT))


def mlp(
    train: Known, test: Known, *, hidden: int = HIDDEN, epochs: int = EPOCHS, seed: int = 0
) -> list[Score]:
    """A network with one hidden layer on frozen features: Linear, ReLU, dropout, Linear.

    Args:
        train: features and labels to learn from.
        test: features and labels that are judged.
        hidden: width of the hidden layer; 0 is a linear probe.
        epochs: passes over the training items.
        seed: of weights, batches, dropout and the interval.
    """
    probe, scale = descended(train, int(train[1].max()) + 1, hidden, epochs, seed)
    with torch.no_grad():
        said = answers(probe, scale(test[0])).argmax(1)
    return [accuracy_score("mlp", "accuracy", said, test[1], seed, hidden=hidden, epochs=epochs)]
