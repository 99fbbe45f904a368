"""A stand-in for detection where nobody has drawn boxes: where in a picture was a piece of another one pasted?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data.batch import to_float
from pretask.data.dataset import spread
from pretask.evaluation.score import Score
from pretask.evaluation.segmentation import segmentation
from pretask.pretexts.views import centre_view
from pretask.task import Batch, Step

if TYPE_CHECKING:
    from pretask.data import Dataset

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
    """`segmentation` of pieces of other pictures that were pasted in: a linear classifier of places on the frozen
    maps, judged by Dice. Nothing where the data are no pictures.

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
    parts: list[Any] = [
        Pasted(part.subset(spread(len(part), samples)), side, seed) for part in (train_set, test_set)
    ]
    (found,) = segmentation(encoder, *parts, places=places, samples=samples, seed=seed, device=device)
    return [replace(found, protocol="pasted")]
