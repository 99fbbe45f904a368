"""Does an encoder know what is where? Its maps are read place by place, by a linear classifier or by the nearest
places whose content is known, and judged by Dice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data.dataset import spread
from pretask.encoders.dense import feature_map
from pretask.errors import UsageError
from pretask.evaluation.features import frozen, to_device
from pretask.evaluation.knn import neighbours, vote
from pretask.evaluation.linear import fit_chosen
from pretask.evaluation.score import Score, bootstrap_interval
from pretask.pretexts.views import centre_labels

if TYPE_CHECKING:
    from pretask.data import Dataset

BATCH = 8  # samples: maps are large
PENALTIES = (1.0, 0.1, 1e-2, 1e-3, 1e-4)
MODE = {2: "bilinear", 3: "trilinear"}


def segmentation(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    places: int = 20_000,
    samples: int = 200,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """Logistic regression from what the frozen encoder says of a place (its maps, or its tokens laid out, carried
    there by linear interpolation) to what is there; then every place of other samples is answered.

    `dice` is a sample's mean over the classes but the first, the background: 2 |answer and truth| / (|answer| +
    |truth|), without the classes that neither has. Volumes and pictures alike: whatever has a `segmentation`.

    Args:
        encoder: what is judged; it is not changed.
        train_set: samples to learn from.
        test_set: samples that are judged.
        places: known ones to learn from, in all; as many of each sample, at random.
        samples: at most so many of either set, spread evenly.
        seed: of the places and intervals.
        device: where the encoder runs.

    Raises:
        UsageError: the data have no segmentations, or only one class.
    """
    chosen = [part.subset(spread(len(part), samples)) for part in (train_set, test_set)]
    x, y = known_places(encoder, chosen[0], places, seed, device)
    fitted = fit_chosen((x, y), penalties=PENALTIES, seed=seed)
    by_class = answered(encoder, chosen[1], lambda rows: fitted.model(rows)[0], device)
    detail = {"penalty": fitted.penalty, "places": len(y)}
    return [summed_up("segmentation", by_class, test_set.name, seed, detail)]


def segmentation_knn(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    places: int = 20_000,
    samples: int = 200,
    k: int = 20,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """`segmentation` without anything trained: every place of the encoder's maps asks the k known places that are
    most like it, which vote as in `knn.knn`; their shares are interpolated to all places.

    Args and errors as there; `k` is the number of known places that vote.
    """
    chosen = [part.subset(spread(len(part), samples)) for part in (train_set, test_set)]
    x, y = known_places(encoder, chosen[0], places, seed, device)
    classes, k = int(y.max()) + 1, min(k, len(y))

    def answer(rows: Float[Tensor, "places dim"]) -> Float[Tensor, "places classes"]:
        similarity, found = neighbours(rows, x, k)
        votes = vote(similarity, y[found], classes)
        return votes / votes.sum(1, keepdim=True)

    by_class = answered(encoder, chosen[1], answer, device)
    return [summed_up("segmentation-knn", by_class, test_set.name, seed, {"k": k, "places": len(y)})]


def summed_up(
    protocol: str, by_class: Float[Tensor, "samples classes-1"], name: str, seed: int, detail: dict[str, Any]
) -> Score:
    """The mean over samples of each one's mean over the classes that are there or said to be.

    Raises:
        UsageError: no sample has any class but background.
    """
    known = by_class.isfinite()
    items = torch.where(known, by_class, 0).sum(1) / known.sum(1)
    items = items[known.any(1)]
    if len(items) == 0:
        raise UsageError(f"{name}: its segmentations know nothing but background")
    low, high = bootstrap_interval(items, seed=seed)
    means = enumerate(by_class.nanmean(0), start=1)
    detail = {**detail, "by class": {str(k): float(value) for k, value in means if value.isfinite()}}
    return Score(protocol, "dice", float(items.mean()), low, high, len(items), detail, items)


def maps_of(encoder: Any, batch: dict[str, Any]) -> Float[Tensor, "batch dim *grid"]:
    """What the encoder says of every place: its own `maps`, where it has several levels, else its tokens."""
    return encoder.maps(batch) if hasattr(encoder, "maps") else feature_map(encoder.encode(batch))


def truth_of(batch: dict[str, Any], name: str) -> Int[Tensor, "batch *places"]:
    """What is at every place that the encoder looks at: of pictures the middle square.

    Raises:
        UsageError: there is none.
    """
    if "segmentation" not in batch:
        raise UsageError(
            f"'segmentation' needs data that say what is where, and {name} does not: put masks beside the samples "
            "(docs/data.md)"
        )
    truth = batch["segmentation"].long()
    return centre_labels(truth, batch.get("size")) if "image" in batch else truth


def known_places(
    encoder: Any, dataset: Dataset, places: int, seed: int, device: torch.device | str | None
) -> tuple[Float[Tensor, "places dim"], Int[Tensor, "places"]]:
    """Features at some places of every sample, and what is there.

    Raises:
        UsageError: there are no segmentations, or only of one class.
    """
    each, generator, found = -(-places // max(len(dataset), 1)), torch.Generator().manual_seed(seed), []
    with frozen(encoder, device) as where:
        for rows in torch.arange(len(dataset)).split(BATCH):
            batch = dataset.batch(rows)
            truth = truth_of(batch, dataset.name)
            size = truth.shape[1:]
            asked = torch.randint(truth[0].numel(), (len(truth), each), generator=generator)
            features = carried(maps_of(encoder, to_device(batch, where)).float().cpu(), asked, size)
            labels = truth.flatten(1).gather(1, asked)
            found.append((features[labels >= 0], labels[labels >= 0]))
    features, labels = (torch.cat(part) for part in zip(*found, strict=True))
    if len(labels) == 0 or int(labels.max()) < 1:
        raise UsageError(f"{dataset.name}: its segmentations know nothing but background")
    return features, labels


def carried(
    maps: Float[Tensor, "batch dim *grid"], asked: Int[Tensor, "batch places"], size: tuple[int, ...]
) -> Float[Tensor, "batch places dim"]:
    """Maps at places of a lattice of `size`, as `F.interpolate` onto all of it would give them."""
    where = torch.stack(torch.unravel_index(asked, tuple(size)), dim=-1).to(maps)
    where = (2 * where + 1) / where.new_tensor(tuple(size)) - 1
    where = where.flip(-1).view(
        len(maps), -1, *[1] * (len(size) - 1), len(size)
    )  # grid_sample counts from the last
    found = F.grid_sample(maps, where, padding_mode="border", align_corners=False)
    return found.flatten(2).transpose(1, 2)


def answered(
    encoder: Any,
    dataset: Dataset,
    answer: Callable[[Float[Tensor, "places dim"]], Float[Tensor, "places classes"]],
    device: torch.device | str | None,
) -> Float[Tensor, "samples classes-1"]:
    """Dice of every sample and class but the background; `answer` scores classes at places of the maps."""
    found = []
    with frozen(encoder, device) as where:
        for rows in torch.arange(len(dataset)).split(BATCH):
            batch = dataset.batch(rows)
            truth = truth_of(batch, dataset.name)
            maps = maps_of(encoder, to_device(batch, where)).float().cpu()
            # a linear map and linear interpolation may change places: there are fewer classes than features
            scores = answer(maps.movedim(1, -1).flatten(0, -2)).view(len(maps), *maps.shape[2:], -1)
            size = tuple(truth.shape[1:])
            scores = F.interpolate(scores.movedim(-1, 1), size, mode=MODE[len(size)], align_corners=False)
            found.append(dice(scores.argmax(1), truth, scores.shape[1]))
    return torch.cat(found)


def dice(
    answer: Int[Tensor, "batch *places"], truth: Int[Tensor, "batch *places"], classes: int
) -> Float[Tensor, "batch classes-1"]:
    """Of every class but the background; nan where neither has it. Unknown places (-1) do not count."""
    known, found = truth >= 0, []
    for number in range(1, classes):
        said, right = (answer == number) & known, truth == number
        both, either = (said & right).flatten(1).sum(1), said.flatten(1).sum(1) + right.flatten(1).sum(1)
        found.append(torch.where(either > 0, 2 * both / either, torch.nan))
    return torch.stack(found, dim=1)
