"""Does a cloud's encoding know its surface? Normals and variation, read off the tokens by a linear map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.data.geometry import at
from pretask.errors import UsageError
from pretask.evaluation.features import frozen, to_device
from pretask.evaluation.score import Score, bootstrap_interval
from pretask.pretexts.points import some_points

if TYPE_CHECKING:
    from pretask.data import Dataset

BATCH = 32  # clouds
PENALTIES = (1e-3, 1e-1, 1e1, 1e3)


class Seen(NamedTuple):
    """Points of some clouds: what is said of them, and how the surface lies there."""

    features: Float[Tensor, "clouds points dim"]
    normals: Float[Tensor, "clouds points 3"]
    variation: Float[Tensor, "clouds points 1"]
    oriented: bool


def surface(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    clouds: int = 400,
    points: int = 64,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """Ridge regression from what the encoder says of a point (its tokens, carried there by three-nearest
    interpolation) to the surface's normal and variation, judged on other clouds.

    `normal` is the mean cosine between answer and truth; it is left out where normals have unknown signs.
    `variation` is the share of its variance that is explained.

    Args:
        encoder: what is judged; it is not changed.
        train_set: clouds to learn from.
        test_set: clouds that are judged.
        clouds: at most so many of each, spread evenly.
        points: so many of each cloud.
        seed: of the points and intervals.
        device: where the encoder runs.

    Raises:
        UsageError: the data are no point clouds.
    """
    from sklearn.linear_model import RidgeCV

    if train_set.modality != "points":
        raise UsageError(f"'surface' judges encoders of point clouds, not of {train_set.modality} data")
    learned, judged = (look(encoder, part, clouds, points, seed, device) for part in (train_set, test_set))
    scale = learned.features.flatten(0, 1).std(0).clamp(min=1e-6)
    scores = []
    for name in ("normals", "variation"):
        if name == "normals" and not (learned.oriented and judged.oriented):
            continue
        known, truth = getattr(learned, name), getattr(judged, name)
        model = RidgeCV(PENALTIES).fit(flat(learned.features / scale), flat(known))
        said = torch.from_numpy(model.predict(flat(judged.features / scale))).float().view_as(truth)
        if name == "normals":
            items = F.cosine_similarity(said, truth, dim=-1).mean(1)
        else:
            items = 1 - (said - truth).square().mean((1, 2)) / truth.var(correction=0)
        low, high = bootstrap_interval(items, seed=seed)
        detail = {"penalty": float(model.alpha_), "points": points}
        scores.append(Score("surface", name, float(items.mean()), low, high, len(items), detail, items))
    return scores


def flat(values: Float[Tensor, "clouds points dim"]) -> np.ndarray:
    return values.flatten(0, 1).numpy()


def look(
    encoder: Any,
    dataset: Dataset,
    clouds: int,
    points: int,
    seed: int,
    device: torch.device | str | None,
) -> Seen:
    """Some points of some clouds."""
    generator, parts = torch.Generator().manual_seed(seed), []
    chosen = torch.linspace(0, len(dataset) - 1, min(clouds, len(dataset))).long()
    oriented = True
    with frozen(encoder, device) as place:
        for rows in chosen.split(BATCH):
            batch = dataset.batch(rows)
            asked = some_points(len(rows), batch["points"].shape[1], points, generator)
            oriented &= bool(batch["oriented"].all())
            batch = to_device(batch, place)
            places = at(batch["points"][..., :3], asked.to(place))
            features = encoder.dense(batch["points"], places).float().cpu()
            targets = (at(batch[key].cpu(), asked) for key in ("normals", "variation"))
            parts.append((features, *targets))
    features, normals, variation = (torch.cat(part) for part in zip(*parts, strict=True))
    return Seen(features, normals, variation, oriented)
