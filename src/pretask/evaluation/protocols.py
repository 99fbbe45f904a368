"""Every protocol by name, and the measurement of an encoder by several of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import nn

from pretask.errors import UsageError
from pretask.evaluation.features import Pool, Precision, extract
from pretask.evaluation.fewshot import fewshot
from pretask.evaluation.finetune import finetune
from pretask.evaluation.knn import knn, retrieval
from pretask.evaluation.label_free import (
    alignment_score,
    alpha_req_score,
    collapse_score,
    lidar_score,
    rankme_score,
    uniformity_score,
)
from pretask.evaluation.linear import linear
from pretask.evaluation.score import Labelled, Score
from pretask.evaluation.splits import holdout

if TYPE_CHECKING:
    from pretask.data import Dataset

log = logging.getLogger("pretask")


class Protocol(NamedTuple):
    """A way to judge an encoder.

    Args:
        run: `run(train, test, seed=...) -> list[Score]`; train and test are (features, labels), or data
            sets behind the encoder: `run(encoder, train_set, test_set, seed=..., device=...)`.
        takes: `features` or `encoder`.
        labels: whether it needs labels.
        meaning: one line for people.
    """

    run: Callable[..., list[Score]]
    takes: Literal["features", "encoder"]
    labels: bool
    meaning: str

    def __call__(self, *args, **kwargs) -> list[Score]:
        return self.run(*args, **kwargs)


PROTOCOLS: dict[str, Protocol] = {
    "knn": Protocol(knn, "features", True, "the nearest training samples vote; nothing is trained"),
    "linear": Protocol(linear, "features", True, "a linear classifier is trained on the frozen features"),
    "fewshot": Protocol(
        fewshot, "features", True, "a classifier is fitted to 1, 5 and 10 samples of each class"
    ),
    "finetune": Protocol(finetune, "encoder", True, "the whole encoder is trained further on labels"),
    "retrieval": Protocol(retrieval, "features", True, "are the nearest training samples of the same class?"),
    "rankme": Protocol(rankme_score, "features", False, "how many directions the features use"),
    "lidar": Protocol(lidar_score, "encoder", False, "how many directions tell pictures apart despite views"),
    "alpha_req": Protocol(
        alpha_req_score, "features", False, "how fast the spectrum decays; about 1 is good"
    ),
    "uniformity": Protocol(uniformity_score, "features", False, "how evenly features spread; low is even"),
    "alignment": Protocol(alignment_score, "encoder", False, "how close two views of a picture lie"),
    "collapse": Protocol(collapse_score, "features", False, "spread of the features; 0 is complete collapse"),
}

DEFAULT = ("knn", "linear", "rankme", "alpha_req", "uniformity", "collapse")


def find(name: str) -> Protocol:
    """A protocol by name.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in PROTOCOLS:
        near = get_close_matches(name, PROTOCOLS, n=2, cutoff=0.4) or list(PROTOCOLS)
        raise UsageError(f"there is no protocol '{name}'; there is: {', '.join(near)}")
    return PROTOCOLS[name]


def test_part(train_set: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Data to learn from and data to judge by: the set's own splits, or a fifth held out."""
    for name in ("test", "val"):
        own = train_set.split(name)
        if own is not None:
            return train_set.split("train") or train_set, own
    return holdout(train_set, seed=seed)


def known_labels(part: Labelled) -> Labelled:
    """Without the samples whose label is unknown (negative)."""
    x, y = part
    if y is None or bool((y >= 0).all()):
        return part
    return (x[y >= 0], y[y >= 0])


def evaluate(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset | None = None,
    protocols: Sequence[str] | None = None,
    seed: int = 0,
    *,
    device: torch.device | str | None = None,
    pool: Pool | None = None,
    precision: Precision = "32",
    cache: str | Path | None = None,
    note: Callable[[str], None] = log.info,
) -> list[Score]:
    """Measure an encoder.

    Args:
        encoder: what is judged; it is not changed.
        train_set: what classifiers learn from and label-free scores look at.
        test_set: what is judged; default the set's own test or val split, or a fifth held out.
        protocols: names from `PROTOCOLS`; default `DEFAULT`, less those that need labels where there
            are none.
        seed: of splits, subsets and intervals.
        device: where the encoder runs.
        pool: `token`, `avg` or `token+avg` instead of what the encoder gives.
        precision: `bf16` is faster on GPUs.
        cache: a folder that keeps features.
        note: is told in words what was left out, and why.

    Raises:
        UsageError: an unknown protocol, or one that needs labels the data do not have.
    """
    chosen = {name: find(name) for name in (DEFAULT if protocols is None else protocols)}
    if test_set is None:
        train_set, test_set = test_part(train_set, seed)
    unlabelled = [part.name for part in (train_set, test_set) if part.labels is None]
    if unlabelled and any(protocol.labels for protocol in chosen.values()):
        names = ", ".join(name for name, protocol in chosen.items() if protocol.labels)
        if protocols is not None:
            raise UsageError(
                f"{names} need labels and '{unlabelled[0]}' has none: put the files into one folder a class, "
                f"or ask for {', '.join(name for name, protocol in PROTOCOLS.items() if not protocol.labels)}"
            )
        note(f"{names} left out: '{unlabelled[0]}' has no labels")
        chosen = {name: protocol for name, protocol in chosen.items() if not protocol.labels}
    parts: list[Labelled] = []
    if any(protocol.takes == "features" for protocol in chosen.values()):
        parts = [
            extract(encoder, part, device=device, pool=pool, precision=precision, cache=cache)
            for part in (train_set, test_set)
        ]
    scores: list[Score] = []
    for name, protocol in chosen.items():
        if protocol.takes == "encoder":
            found = protocol.run(encoder, train_set, test_set, seed=seed, device=device)
        else:
            found = protocol.run(*(map(known_labels, parts) if protocol.labels else parts), seed=seed)
        if not found:
            note(f"{name} left out: too few samples or dimensions for it")
        scores += found
    return scores
