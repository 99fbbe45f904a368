"""A stand-in for detection where nobody has drawn boxes: where in a picture was a piece of another one pasted?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data.batch import to_float
from pretask.data.dataset import spread
from pretask.encoders.dense import feature_map
from pretask.errors import UsageError
from pretask.evaluation.detection import placements
from pretask.evaluation.features import frozen, to_device
from pretask.evaluation.layers import as_map, blocks
from pretask.evaluation.linear import Classifier, fit_chosen
from pretask.evaluation.score import Score, bootstrap_interval
from pretask.evaluation.segmentation import known_places
from pretask.pretexts.views import centre_view
from pretask.task import Batch, Step

if TYPE_CHECKING:
    from pretask.data import Dataset

FINE, BATCH = 8, 32  # places a side that a map should have; pictures at once
SMALLEST, LARGEST = 0.25, 0.5  # sides of the piece as shares of the picture's


def paste(
    image: Float[Tensor, "batch chans side side"], generator: torch.Generator
) -> tuple[Float[Tensor, "batch chans side side"], Int[Tensor, "batch side side"]]:
    """Into each picture the next one, shrunk to a random size at a random place; and where that is (1)."""
    side = image.shape[-1]
    unit = torch.rand(len(image), 3, generator=generator)
    size = ((SMALLEST + (LARGEST - SMALLEST) * unit[:, 0]) * side).round().clamp(min=1)
    corner = (unit[:, 1:] * (side - size[:, None] + 1)).floor()
    place = torch.arange(side)
    inside = [(place >= c[:, None]) & (place < (c + size)[:, None]) for c in corner.T]
    mask = inside[0][:, :, None] & inside[1][:, None]
    # where in the other picture (-1 to 1) each place of the piece looks
    y, x = (2 * (place - c[:, None] + 0.5) / size[:, None] - 1 for c in corner.T)
    grid = torch.stack([x[:, None].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], dim=-1)
    piece = F.grid_sample(image.roll(-1, 0), grid.to(image), padding_mode="border", align_corners=False)
    return torch.where(mask[:, None].to(image.device), piece, image), mask.long()


class Pasted:
    """A data set with something pasted into every picture, and the places of that as its `segmentation`.

    Args:
        dataset: pictures.
        side: of the pictures in pixels.
        seed: of what is pasted, with the numbers of the samples asked for.
    """

    def __init__(self, dataset: Dataset, side: int, seed: int):
        self.dataset, self.side, self.seed, self.name = dataset, side, seed, dataset.name

    def __len__(self) -> int:
        return len(self.dataset)

    def subset(self, rows: Any) -> Pasted:
        return Pasted(self.dataset.subset(rows), self.side, self.seed)

    def batch(self, rows: Int[Tensor, "batch"]) -> Batch:
        batch = self.dataset.batch(rows)
        image = centre_view(to_float(batch["image"]), batch.get("size"), self.side)
        image, mask = paste(image, Step.at(int(rows[0]), seed=self.seed).generator)
        return {"image": image, "segmentation": mask}


class Columns(nn.Module):
    """An encoder whose maps are fine enough to say where something is: its own last one and, as long as these are
    coarser than `FINE` places a side, those of the blocks before, side by side.

    Args:
        encoder: what is judged.
    """

    def __init__(self, encoder: Any):
        super().__init__()
        self.encoder = encoder

    def maps(self, batch: Batch) -> Float[Tensor, "batch dims rows columns"]:
        heard: list[Tensor] = []
        hooks = [
            block.register_forward_hook(lambda _, __, out: heard.append(out)) for block in parts(self.encoder)
        ]
        try:
            features = self.encoder.encode(batch)
        finally:
            for hook in hooks:
                hook.remove()
        found = [feature_map(features)]
        while heard and min(found[-1].shape[-2:]) < FINE:
            found.append(as_map(heard.pop(), features))
        size = found[-1].shape[-2:]
        return torch.cat([F.interpolate(x, size, mode="bilinear", align_corners=False) for x in found], dim=1)


def parts(encoder: Any) -> list[nn.Module]:
    """The blocks of a network, none where it is not made of such."""
    try:
        return blocks(encoder)
    except (UsageError, AttributeError):
        return []


def pasted(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    places: int = 20_000,
    samples: int = 500,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """A linear classifier of places on the frozen maps learns what belongs to a piece of another picture. It is
    judged by the area under the curve that tells the piece's places from the others, a mean over pictures. Nothing
    where the data are no pictures.

    Args:
        encoder: what is judged.
        train_set: pictures to learn from; labels are not looked at.
        test_set: pictures that are judged.
        places: to learn from, in all.
        samples: at most so many pictures of either set.
        seed: of pieces, places and intervals.
        device: where the encoder runs.
    """
    side = getattr(encoder, "image_size", 0)
    if test_set.modality != "image" or not side or min(len(train_set), len(test_set)) < 2:
        return []
    pieces: list[Any] = [
        Pasted(part.subset(spread(len(part), samples)), side, seed) for part in (train_set, test_set)
    ]
    columns = Columns(encoder)
    model = fit_chosen(known_places(columns, pieces[0], places, seed, device), seed=seed).model
    items = torch.cat(told_apart(columns, pieces[1], model, device))
    ends = bootstrap_interval(items, seed=seed)
    return [Score("pasted", "auroc", float(items.mean()), *ends, len(items), {"chance": 0.5}, items)]


def told_apart(
    columns: Columns, pieces: Pasted, model: Classifier, device: torch.device | str | None
) -> list[Float[Tensor, "batch"]]:
    """Of each picture the area under the curve."""
    found = []
    with frozen(columns, device) as where:
        for rows in torch.arange(len(pieces)).split(BATCH):
            batch = pieces.batch(rows)
            maps = columns.maps(to_device(batch, where)).float().cpu()
            logits = model(maps.movedim(1, -1).flatten(0, -2))[0].view(len(maps), *maps.shape[2:], -1)
            sure = (logits[..., 1] - logits[..., 0])[:, None]
            sure = F.interpolate(sure, (pieces.side,) * 2, mode="bilinear", align_corners=False)[:, 0]
            inside = batch["segmentation"].bool()
            areas = [placements(x[own], x[~own])[0].mean() for x, own in zip(sure, inside, strict=True)]
            found.append(torch.stack(areas).double())
    return found
