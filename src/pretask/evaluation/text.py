"""What an encoder knows of translation: sentences find theirs, and what is learned in one language holds in
another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pretask.data.dataset import spread
from pretask.encoders.text import mean_over
from pretask.errors import UsageError
from pretask.evaluation.features import frozen, to_device
from pretask.evaluation.knn import neighbours
from pretask.evaluation.linear import linear
from pretask.evaluation.score import Score, bootstrap_interval, known_labels
from pretask.pretexts.text import read_pair

if TYPE_CHECKING:
    from pretask.data import Dataset

CHOOSING = 500  # training pairs of two languages by which the layer is chosen
BATCH = 128

Layers = Float[Tensor, "layers items dim"]


def read(
    encoder: nn.Module, dataset: Dataset, device: torch.device | str | None
) -> tuple[Layers, Layers, Int[Tensor, "items 2"]]:
    """Mean-pooled features of each text and of its translation behind each layer, and their languages.

    Raises:
        UsageError: the texts have no translations, or the encoder reads no text.
    """
    if not hasattr(encoder, "layers"):
        raise UsageError(
            f"translations are compared layer by layer, and {type(encoder).__name__} reads no text"
        )
    if not len(dataset):
        raise UsageError(f"{dataset.name} is empty: there is no sentence to find a translation for")
    model: Any = encoder
    sides: tuple[list[Tensor], list[Tensor]] = [], []
    languages = []
    with frozen(encoder, device) as place:
        for rows in torch.arange(len(dataset)).split(BATCH):
            batch = to_device(dataset.batch(rows), place)
            for found, text in zip(sides, read_pair(batch), strict=True):
                layers = model.layers(*text)
                found.append(torch.stack([mean_over(x, text.attention).float() for x in layers]).cpu())
            languages.append(torch.stack([batch["lang"], batch["pair_lang"]], dim=1).cpu())
    return torch.cat(sides[0], dim=1), torch.cat(sides[1], dim=1), torch.cat(languages)


def found(source: Float[Tensor, "items dim"], target: Float[Tensor, "items dim"]) -> Float[Tensor, "items"]:
    """For each pair how often it is found (0, 1/2 or 1): the text is nearest by cosine of all to its
    translation, and the other way round."""
    truth = torch.arange(len(source))
    there, back = (neighbours(a, b, 1)[1][:, 0] == truth for a, b in ((source, target), (target, source)))
    return (there.double() + back.double()) / 2


def by_languages(languages: Int[Tensor, "items 2"]) -> list[Bool[Tensor, "items"]]:
    """Which items are in the same two languages."""
    kinds = languages.unique(dim=0)
    return [(languages == kind).all(1) for kind in kinds]


def found_by_layer(
    source: Layers, target: Layers, languages: Int[Tensor, "items 2"]
) -> Float[Tensor, "layers items"]:
    """`found` behind each layer, each pair among those of its own two languages."""
    right = torch.zeros(source.shape[:2], dtype=torch.float64)
    for own in by_languages(languages):
        for layer, (x, y) in enumerate(zip(source, target, strict=True)):
            right[layer, own] = found(x[own], y[own])
    return right


def some(dataset: Dataset) -> Dataset:
    """Pairs spread over the data, by which a layer is chosen."""
    return dataset.subset(spread(len(dataset), CHOOSING))


def bitext(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """Bitext retrieval: the share of test sentences whose translation is the nearest of all the test set's,
    by cosine of mean-pooled features; the mean over both directions.

    The layer is the one that does best on 500 training pairs; all are in `detail`.

    Args:
        encoder: one that gives the features behind each layer.
        train_set: pairs to choose the layer by.
        test_set: pairs that are judged; each looks among those of its own two languages.
        seed: of the bootstrap.
        device: where the encoder runs.
    """
    layer = int(found_by_layer(*read(encoder, some(train_set), device)).mean(1).argmax())
    source, target, languages = read(encoder, test_set, device)
    by_layer = found_by_layer(source, target, languages)
    names, kinds = test_set.facts.get("languages"), by_languages(languages)
    detail: dict[str, object] = {
        "layer": layer,
        "by_layer": {str(number): float(right.mean()) for number, right in enumerate(by_layer)},
        "chance": len(kinds) / len(languages),
    }
    for own in kinds:
        a, b = (names[int(place)] if names else str(int(place)) for place in languages[own][0])
        x, y, truth = source[layer, own], target[layer, own], torch.arange(int(own.sum()))
        detail[f"{a}-{b}"] = float((neighbours(x, y, 1)[1][:, 0] == truth).double().mean())
        detail[f"{b}-{a}"] = float((neighbours(y, x, 1)[1][:, 0] == truth).double().mean())
    items = by_layer[layer]
    low, high = bootstrap_interval(items, seed=seed)
    return [Score("bitext", "accuracy@1", float(items.mean()), low, high, len(items), detail, items)]


def transfer(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """Zero-shot transfer: a linear probe learns classes from texts and is judged by translations of others.

    The layer is chosen as in `bitext`, without labels.

    Args:
        encoder: one that gives the features behind each layer.
        train_set: labelled; its texts teach, its translations choose the layer.
        test_set: labelled; its translations are judged.
        seed: of the probe's split and the bootstrap.
        device: where the encoder runs.
    """
    source, target, languages = read(encoder, train_set, device)
    chosen = spread(len(languages), CHOOSING)
    right = found_by_layer(source[:, chosen], target[:, chosen], languages[chosen])
    layer = int(right.mean(1).argmax())
    _, judged, _ = read(encoder, test_set, device)
    taught, asked = (source[layer], train_set.labels), (judged[layer], test_set.labels)
    score = linear(*map(known_labels, (taught, asked)), seed=seed)[0]
    return [Score("transfer", score.metric, score.value, score.low, score.high, score.n,
                  {**score.detail, "layer": layer}, score.items)]  # fmt: skip
