"""Is what is not normal found, and where? By places that no normal place resembles (PatchCore, CVPR 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.errors import UsageError
from pretask.evaluation.detection import aupro, placements
from pretask.evaluation.features import frozen, to_device
from pretask.evaluation.ood import told_apart
from pretask.evaluation.score import Score
from pretask.evaluation.segmentation import BATCH, maps_of
from pretask.pretexts.views import centre_labels

if TYPE_CHECKING:
    from pretask.data import Dataset

NORMAL = ("normal", "good", "free", "ok", "healthy", "negative", "no finding", "no defect")
LIMIT = 0.3  # share of normal pixels up to which AUPRO counts (Bergmann et al., CVPR 2019)


def anomaly(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    places: int = 20_000,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """The distance of each place's features to the nearest of normal training pictures'; a picture is as abnormal
    as its most abnormal place. The features are averaged over 3 x 3 places first, as PatchCore does it; normal
    places are drawn at random where PatchCore picks a core set.

    `auroc` and `fpr95` are over pictures, means over the kinds that are not normal. Where masks say what is
    abnormal there are `pixel auroc` and `aupro` up to 30 % false positives; pictures of the normal class are
    normal everywhere.

    Args:
        encoder: what is judged; it is not changed.
        train_set: whose normal pictures are known; others in it are left out.
        test_set: what is judged.
        places: normal ones to remember, at random.
        seed: of these.
        device: where the encoder runs.

    Raises:
        UsageError: no class is called normal (or one of the words for it), or all are.
    """
    normal = normal_class(test_set)
    labels, known = test_set.labels, train_set.labels
    assert labels is not None and known is not None
    good = train_set.subset((known == normal).nonzero().flatten())
    if len(good) == 0 or not (labels == normal).any() or (labels == normal).all():
        raise UsageError(
            f"{test_set.name}: there must be normal pictures to learn from, and both kinds to judge"
        )
    memory = torch.cat(
        [maps.flatten(2).transpose(1, 2).flatten(0, 1) for maps, _ in smooth_maps(encoder, good, device)]
    )
    chosen = torch.randperm(len(memory), generator=torch.Generator().manual_seed(seed))[:places]
    heat, truth = judged(encoder, test_set, memory[chosen], device)
    of_picture = -heat.flatten(1).amax(1).double()
    names = test_set.classes or []
    outside = {names[kind]: of_picture[labels == kind] for kind in labels.unique().tolist() if kind != normal}
    scores = told_apart("anomaly", "picture", of_picture[labels == normal], outside, memory=len(chosen))
    if truth is None:
        return scores
    truth[labels == normal] = 0
    lit, dark = heat[truth > 0].double(), heat[truth == 0].double()
    if len(lit) == 0:
        return scores
    area = aupro(heat, truth, LIMIT)
    count = int((truth > 0).flatten(1).any(1).sum())
    return [
        *scores,
        Score("anomaly", "pixel auroc", float(placements(lit, dark)[0].mean()), n=count),
        Score("anomaly", "aupro", area, n=count, detail={"limit": LIMIT}),
    ]


def normal_class(dataset: Dataset) -> int:
    """
    Raises:
        UsageError: no class is called so, or several.
    """
    names = [name.lower().replace("_", " ") for name in dataset.classes or []]
    found = [place for place, name in enumerate(names) if name in NORMAL]
    if len(found) != 1:
        raise UsageError(
            f"'anomaly' needs one class that is called {', '.join(NORMAL[:-1])} or {NORMAL[-1]}; {dataset.name} "
            f"has {', '.join(names) or 'no classes'}"
        )
    return found[0]


def smooth_maps(
    encoder: nn.Module, dataset: Dataset, device: torch.device | str | None
) -> list[tuple[Float[Tensor, "batch dim *grid"], dict[str, Any]]]:
    """The encoder's maps, averaged over neighbours, and the rest of each batch."""
    found = []
    with frozen(encoder, device) as home:
        for rows in torch.arange(len(dataset)).split(BATCH):
            batch = dataset.batch(rows)
            maps = maps_of(encoder, to_device(batch, home)).float().cpu()
            rest: dict[str, Any] = {k: batch[k] for k in ("segmentation", "size") if k in batch}
            found.append((F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False), rest))
    return found


def judged(
    encoder: nn.Module,
    dataset: Dataset,
    memory: Float[Tensor, "places dim"],
    device: torch.device | str | None,
) -> tuple[Float[Tensor, "samples h w"], Int[Tensor, "samples h w"] | None]:
    """How unlike any normal place each place is; and what masks say, if there are any. On the masks' lattice, or
    the maps' where there are none."""
    heat, truth = [], []
    for maps, rest in smooth_maps(encoder, dataset, device):
        rows = maps.flatten(2).transpose(1, 2)
        nearest = torch.stack([torch.cdist(row, memory).amin(1) for row in rows]).unflatten(1, maps.shape[2:])
        if "segmentation" in rest:
            labels = centre_labels(rest["segmentation"].long(), rest.get("size"))
            truth.append(labels)
            size = labels.shape[1:]
            nearest = F.interpolate(nearest[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        heat.append(nearest)
    return torch.cat(heat), torch.cat(truth) if truth else None
