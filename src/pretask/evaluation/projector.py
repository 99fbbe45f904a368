"""What a projector keeps and what it throws away: the encoder's features, and what each layer behind makes of them.

"Guillotine": the loss is taken behind the projector, the features before it, for its last layers forget whatever the
pretext is blind to (Bordes et al., 2023; Balestriero et al., A Cookbook of Self-Supervised Learning, 2023).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data.batch import to_float
from pretask.errors import UsageError
from pretask.evaluation.features import extract, frozen
from pretask.evaluation.linear import linear
from pretask.evaluation.score import Score
from pretask.objectives.spectrum import cka, collapse_std, rankme
from pretask.task import PretextTask

if TYPE_CHECKING:
    from pretask.data import Dataset
    from pretask.run import Run

NAMES = ("projector", "head", "embed")  # what methods call it, in this order
BATCH, LIMIT = 256, 25_600
Labels = dict[str, tuple[Int[Tensor, "train"], Int[Tensor, "test"]]]


class Unit(nn.Module):
    """Vectors of length 1."""

    def forward(self, x: Float[Tensor, "items dim"]) -> Float[Tensor, "items dim"]:
        return F.normalize(x, dim=1)


def layers_of(task: PretextTask) -> list[nn.Sequential]:
    """The projector layer by layer, each a linear map with what follows it; of a head with prototypes these are the
    last layer.

    Raises:
        UsageError: nothing that reads the encoder's features is a chain of layers.
    """
    for name in NAMES:
        head: Any = getattr(task, name, None)
        if not isinstance(head, nn.Module):
            continue
        inner: Any = getattr(head, "mlp", head)
        chain = list(inner) if isinstance(inner, nn.Sequential) else [inner]
        if not isinstance(chain[0], nn.Linear) or chain[0].in_features != getattr(task.encoder, "dim", None):
            continue
        found: list[list[nn.Module]] = []
        for part in chain:
            if isinstance(part, nn.Linear):
                found.append([])
            found[-1].append(part)
        if hasattr(head, "mlp"):
            found.append([Unit(), getattr(head, "last_layer")])  # noqa: B009 - mypy narrows `head` to a module
        return [nn.Sequential(*parts) for parts in found]
    kind = type(task).__name__
    raise UsageError(f"{kind} has no projector: nothing that is a chain of layers stands behind its encoder")


def passed(layer: nn.Module, x: Float[Tensor, "items dim"]) -> Float[Tensor, "items out"]:
    """What a layer makes of features, as it is when nothing learns."""
    with frozen(layer) as place:
        return torch.cat([layer(part.to(place)).float().cpu() for part in x.split(BATCH)])


def mean_colours(dataset: Dataset) -> Float[Tensor, "items 3"]:
    parts = torch.arange(len(dataset)).split(BATCH)
    return torch.cat([to_float(dataset.batch(rows)["image"]).mean((2, 3)) for rows in parts])


def colour_classes(train_set: Dataset, test_set: Dataset) -> tuple[Int[Tensor, "train"], Int[Tensor, "test"]]:
    """Eight classes that colours alone decide: is a picture's mean red, green, blue above the training set's median?
    What forgets colours cannot tell them."""
    train, test = mean_colours(train_set), mean_colours(test_set)
    middle, weight = train.median(0).values, torch.tensor([4, 2, 1])
    first, second = (((part > middle).long() * weight).sum(1) for part in (train, test))
    return first, second


def judged(
    number: int,
    x: Float[Tensor, "train dim"],
    z: Float[Tensor, "test dim"],
    kinds: Labels,
    backbone: Float[Tensor, "some width"],
    seed: int,
) -> list[Score]:
    """Scores of one layer: a probe for each kind of label, rank, spread, and likeness to the encoder's features."""
    detail, scores = {"width": x.shape[1]}, []
    for name, (y, truth) in kinds.items():
        (s,) = linear((x, y), (z, truth), seed=seed)
        both = {**s.detail, **detail}
        scores.append(Score("projector", f"{name}@{number}", s.value, s.low, s.high, s.n, both, s.items))
    some = x[:LIMIT]
    free = {"rank": rankme(some), "std": collapse_std(some), "cka": cka(backbone, some)}
    return scores + [
        Score("projector", f"{name}@{number}", value, n=len(some), detail=detail)
        for name, value in free.items()
    ]


def probe_layers(
    task: PretextTask,
    train_set: Dataset,
    test_set: Dataset,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """Judge the encoder's features (`@0`) and those behind each layer of the projector (`@1`, ...).

    `accuracy` is a linear probe of the classes, `colour` one of `colour_classes` where the data are coloured
    pictures; `rank` is RankMe, `std` the spread of features of length 1, `cka` their likeness to the encoder's.

    Args:
        task: with a projector.
        train_set: what probes learn from.
        test_set: what is judged.
        seed: of the probes.
        device: where the encoder runs.

    Raises:
        UsageError: it has none.
    """
    layers, encoder = layers_of(task), task.encoder
    (x, y), (z, truth) = (extract(encoder, part, device=device) for part in (train_set, test_set))
    kinds: Labels = {}
    if y is not None and truth is not None:
        kinds["accuracy"] = (y, truth)
    if train_set.modality == "image" and train_set.channels == 3:
        kinds["colour"] = colour_classes(train_set, test_set)
    kinds = {name: pair for name, pair in kinds.items() if len(pair[0].unique()) > 1}
    scores, backbone = judged(0, x, z, kinds, x[:LIMIT], seed), x[:LIMIT]
    for number, layer in enumerate(layers, 1):
        x, z = passed(layer, x), passed(layer, z)
        scores += judged(number, x, z, kinds, backbone, seed)
    return scores


def projector(
    run: Run,
    train_set: Dataset,
    test_set: Dataset,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """`probe_layers` of what a run trained.

    Raises:
        UsageError: its method has no projector.
    """
    return probe_layers(run.load_task(), train_set, test_set, seed=seed, device=device)
