"""Classes known by their names alone: the nearest sentence names what a sample shows (CLIP, Radford et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.data.tokens import Ragged
from pretask.encoders import Encoder
from pretask.encoders.towers import Towers
from pretask.errors import UsageError
from pretask.evaluation.features import frozen, to_device
from pretask.evaluation.score import Score, bootstrap_interval
from pretask.objectives.contrastive import unit

if TYPE_CHECKING:
    from pretask.data import Dataset

TEMPLATES = ("{}", "a {}", "a photo of a {}")
BATCH = 64


def class_vectors(encoder: Towers, classes: Sequence[str]) -> Float[Tensor, "classes shared"]:
    """A direction for each class: the mean, over sentences that name it, of their vectors of length 1."""
    tower, device = encoder.tower("text"), next(encoder.parameters()).device
    names = [name.replace("_", " ").replace("-", " ") for name in classes]
    said = [template.format(name) for template in TEMPLATES for name in names]
    ids, lengths, _ = tower.tokenizer.encode(said, tower.max_length)
    tokens, there = Ragged(ids, lengths).gather(torch.arange(len(said)), tower.tokenizer.vocabulary.pad)
    vectors = unit(encoder.embed(to_device({"tokens": tokens, "attention": there}, device), "text"))
    return unit(vectors.unflatten(0, (len(TEMPLATES), -1)).mean(0))


def zero_shot(
    encoder: Encoder,
    train_set: Dataset,
    test_set: Dataset,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """How often the nearest class, by the names of the classes alone, is the true one. Nothing is trained.

    Raises:
        UsageError: the encoder has no tower of text beside another one, or the classes have no names.
    """
    if not isinstance(encoder, Towers) or "text" not in encoder.kinds or encoder.kinds[0] == "text":
        raise UsageError(
            f"{type(encoder).__name__} has no text beside something else: zero-shot needs an encoder such as "
            "'image=resnet18;text=distilbert'"
        )
    if test_set.labels is None or not test_set.classes:
        raise UsageError(f"{test_set.name} has no classes with names")
    right = []
    with frozen(encoder, device) as place:
        names = class_vectors(encoder, test_set.classes)
        for rows in torch.arange(len(test_set)).split(min(BATCH, encoder.at_once or BATCH)):
            seen = unit(encoder.embed(to_device(test_set.batch(rows), place), encoder.kinds[0]))
            right.append(((seen @ names.T).argmax(1).cpu() == test_set.labels[rows]).double())
    items = torch.cat(right)
    low, high = bootstrap_interval(items, seed=seed)
    detail: dict[str, object] = {"classes": len(names), "chance": 1 / len(names)}
    return [Score("zero-shot", "accuracy", float(items.mean()), low, high, len(items), detail, items)]
