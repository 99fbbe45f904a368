"""Do the features of a place tell where it is? A read-out for encoders that were taught places, or to forget them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pretask.data.dataset import spread
from pretask.evaluation.features import frozen, to_device
from pretask.evaluation.score import Score, bootstrap_interval
from pretask.evaluation.segmentation import BATCH, maps_of

if TYPE_CHECKING:
    from pretask.data import Dataset

PENALTIES = (1e-3, 1e-1, 1e1, 1e3)


def position(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    samples: int = 300,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """Ridge regression from what the frozen encoder says of a place to the place's coordinates.

    `r2` is 1 - (squared error) / (squared distance from the middle), over all places of a sample, and the mean over
    samples: 0 for always answering the middle.

    Args:
        encoder: what is judged; it is not changed.
        train_set: samples to learn from.
        test_set: samples that are judged.
        samples: at most so many of either set, spread evenly.
        seed: of the interval.
        device: where the encoder runs.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, grid), (x_test, _) = (
        all_places(encoder, part.subset(spread(len(part), samples)), device) for part in (train_set, test_set)
    )
    where = coordinates(grid)
    model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
    model.fit(x.flatten(0, 1).numpy(), where.repeat(len(x), 1).numpy())
    said = torch.from_numpy(model.predict(x_test.flatten(0, 1).numpy())).view(len(x_test), *where.shape)
    items = 1 - (said - where).square().sum((1, 2)) / where.square().sum()
    low, high = bootstrap_interval(items, seed=seed)
    detail = {"penalty": float(model[-1].alpha_), "places": len(where)}
    return [Score("position", "r2", float(items.mean()), low, high, len(items), detail, items)]


def all_places(
    encoder: nn.Module, dataset: Dataset, device: torch.device | str | None
) -> tuple[Float[Tensor, "samples places dim"], tuple[int, ...]]:
    """What the encoder says of every place of every sample, and how the places lie."""
    found = []
    with frozen(encoder, device) as home:
        for rows in torch.arange(len(dataset)).split(BATCH):
            found.append(maps_of(encoder, to_device(dataset.batch(rows), home)).float().cpu())
    maps = torch.cat(found)
    return maps.flatten(2).transpose(1, 2), tuple(maps.shape[2:])


def coordinates(grid: tuple[int, ...]) -> Float[Tensor, "places axes"]:
    """Middles of the cells of a grid that spans [-1, 1], in the order of a flattened map."""
    axes = [(2 * torch.arange(count, dtype=torch.double) + 1) / count - 1 for count in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
