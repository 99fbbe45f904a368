"""VoCo: to tell where in a scan a crop lies teaches what is where (Wu et al., 2024).

Hippocampi and what surrounds them, 32 x 48 x 32 voxels, in 2 x 3 x 2 boxes of 16: all three axes are localised, for
these are no slabs. A crop's place is read off frozen features by ridge regression; its segmentation by a linear
classifier that learns from a few volumes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretask.data import Dataset
from pretask.encoders import Encoder
from pretask.encoders.volume import VolumeEncoder
from pretask.evaluation.features import frozen, to_device
from pretask.methods.volume.voco import VoCo
from pretask.objectives.contrastive import nt_xent
from pretask.objectives.overlap import likeness
from pretask.pretexts.crops3d import change, cut, draw_changes, draw_starts, grid_starts
from pretask.studies.bench import Bench
from pretask.studies.claim import Arm, Claim, Comparison, Trained
from pretask.task import Batch, Losses, Step

SIZE, GRID, SIDE = (32, 48, 32), (2, 3, 2), 16
SHARED: dict[str, Any] = {"grid": GRID, "hidden_dim": 256, "projection_dim": 128}
LR = 1e-3  # the small network's, in every arm
CROPS = 8  # of each volume, whose places are read off
PENALTIES = (1e-3, 1e-1, 1e1, 1e3)


class OneHot(VoCo):
    """The same with all of a crop given to the box it reaches into most."""

    def __init__(self, encoder: VolumeEncoder):
        super().__init__(encoder, **SHARED)

    def shares(self, *where: Any) -> Tensor:
        share = super().shares(*where)
        return F.one_hot(share.argmax(-1), share.shape[-1]).to(share)


class Contrast(VoCo):
    """SimCLR on the same crops: two changed copies of each must find each other among those of the batch."""

    def __init__(self, encoder: VolumeEncoder):
        super().__init__(encoder, **SHARED)
        self.weights = {"nt_xent": 1.0}

    def loss(self, batch: Batch, step: Step) -> Losses:
        volume = batch["volume"]
        starts, bases, crop = self.places(volume, step)
        boxes = torch.cat([starts, bases.expand(len(volume), -1, -1)], dim=1)
        views = []
        for _ in range(2):
            drawn = draw_changes(self.changes, len(volume), boxes.shape[1], step.generator)
            views.append(change(cut(volume, boxes, crop, self.crop_size), drawn))
        one, other = self.projector(self.encoder(torch.cat(views)).pooled).chunk(2)
        return {"nt_xent": nt_xent(one, other, temperature=0.1)}


def crops_of(encoder: Encoder, dataset: Dataset, seed: int) -> tuple[Tensor, Tensor]:
    """Features of crops anywhere in these volumes, and where they begin."""
    generator, found = torch.Generator().manual_seed(seed), []
    with frozen(encoder) as place:
        for rows in torch.arange(len(dataset)).split(32):
            volume = to_device(dataset.batch(rows), place)["volume"]
            size = (volume.shape[2], volume.shape[3], volume.shape[4])
            _, crop = grid_starts(size, GRID)
            starts = draw_starts(size, GRID, len(volume), CROPS, generator)
            found.append(
                (encoder(cut(volume, starts, crop, SIDE)).pooled.cpu(), starts.flatten(0, 1).float())
            )
    features, starts = (torch.cat(part) for part in zip(*found, strict=True))
    return features, starts


def where_it_was(trained: Trained, bench: Bench) -> dict[str, Tensor | float]:
    """The share of the variance of crops' places that is explained; and how alike boxes of one scan are."""
    from sklearn.linear_model import RidgeCV

    assert isinstance(trained.encoder, Encoder)
    (x, y), (x_test, y_test) = (crops_of(trained.encoder, part, 0) for part in (bench.labelled, bench.test))
    scale = x.std(0).clamp(min=1e-6)
    model = RidgeCV(PENALTIES).fit((x / scale).numpy(), y.numpy())
    said = torch.from_numpy(model.predict((x_test / scale).numpy())).float()
    found: dict[str, Tensor | float] = {"place": (1 - (said - y_test).square() / y_test.var(0)).mean(1)}
    if isinstance(trained.task, VoCo):
        volume = bench.test.batch(torch.arange(min(len(bench.test), 32)))["volume"]
        bases, crop = grid_starts((volume.shape[2], volume.shape[3], volume.shape[4]), GRID)
        crops = cut(volume, bases.expand(len(volume), -1, -1), crop, SIDE)
        with frozen(trained.task) as place:
            features = trained.task.projector(trained.task.encoder(crops.to(place)).pooled)
        alike = likeness(*[features.unflatten(0, (len(volume), -1)).cpu()] * 2)
        pairs = torch.ones(alike.shape[1:]).triu(1).bool()
        found["boxes alike"] = alike[:, pairs].mean(1)
    return found


CLAIM = Claim(
    statement="Telling how far a crop reaches into the boxes of its scan teaches where things are and what they are, "
    "better than contrast of crops; without the boxes' repulsion they become alike.",
    arms={
        "voco": Arm("voco", SHARED, lr=LR),
        "no repulsion": Arm("voco", {**SHARED, "repulsion": 0.0}, lr=LR),
        "one box each": Arm(OneHot, lr=LR),  # type: ignore[arg-type]
        "contrast (SimCLR)": Arm(Contrast, lr=LR),  # type: ignore[arg-type]
        "random": Arm("voco", SHARED, steps=0),
        "raw": Arm(None, encoder="raw"),
    },
    comparisons=(
        Comparison("place", "voco", "contrast (SimCLR)"),
        Comparison("segmentation dice", "voco", "contrast (SimCLR)"),
        Comparison("place", "voco", "random"),
        Comparison("segmentation dice", "voco", "random"),
        Comparison("boxes alike", "no repulsion", "voco"),
        Comparison("place", "voco", "no repulsion"),
    ),
    metrics=("segmentation", where_it_was),
    data="hippocampus_mri",
    fallback="phantoms",
    modality="volume",
    reading={"size": SIZE},
    encoder="resnet:width=16",
    steps=400,
    batch_size=4,
    labelled=16,
    test=60,
)
