"""VoCo: which boxes of a scan does a crop reach into, and how far? (Wu et al., CVPR 2024)

Follows Luffy03/VoCo, which is the version for 10k scans. Its network is `swin_unetr`, its volumes are read with
`size=[384,384,96]`, `window=[-175,250]` and `foreground=0.3`: boxes of 96 voxels, seen as cubes of 64.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.ema import follow, teacher_of
from pretask.encoders.volume import VolumeEncoder
from pretask.errors import UsageError
from pretask.objectives.overlap import likeness, repulsion, share_losses
from pretask.pretexts.crops3d import (
    Changes,
    Triple,
    change,
    cut,
    draw_changes,
    draw_starts,
    grid_starts,
    outlined,
    overlap,
    tinted,
    upright,
)  # fmt: skip
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step

LARGEST, SMALL = (
    64,
    32,
)  # side of a crop as the network sees it: by default at most, and where a projector is narrow
ORANGE, BLUE = (1.0, 0.55, 0.1), (0.3, 0.65, 1.0)


class Half(nn.Module):
    """Encoder and projector: the teacher's half, named as the student's so that it can follow."""

    def __init__(self, encoder: nn.Module, projector: nn.Module):
        super().__init__()
        self.encoder, self.projector = teacher_of(encoder), teacher_of(projector)


class VoCo(PretextTask):
    """Tell from likeness alone how much of a random crop lies in each of the boxes that tile its scan.

    Decided where it is open: the teacher begins as a copy of the student (the code draws it anew). The code lets it
    follow between the two forward passes of a step; following after the step gives the same teacher in each of them.
    The projector's last layer is not normalised, as in the code. λ is 1. The code stretches volumes without averaging
    (trilinear); reading here averages axes that shrink to a half or less before, so that no voxel is skipped.

    Args:
        encoder: of volumes.
        grid: boxes along each axis; an axis of one box is not localised.
        crops: random crops of a scan.
        crop_size: side of the cubes that boxes are stretched onto; none takes the box's longest side in whole
            cells of the encoder, at most 64.
        hidden_dim: width inside the projector; none takes 2048, and 256 for cubes of less than 32.
        projection_dim: width of what is compared; none takes as much.
        momentum: the teacher keeps this share of itself in each step.
        repulsion: weight of the likeness between boxes of a scan, λ.
        flip: probability of mirroring a crop along an axis, each axis on its own.
        turn: probability of a turn by right angles about the third axis.
        shift: probability of a shift of brightness.
        shift_by: the largest shift.
    """

    encoder: VolumeEncoder
    recipe = Recipe(
        "adamw", lr=1e-4, lr_batch=0, batch_size=2, epochs=50, weight_decay=0.01, betas=(0.9, 0.999),
        warmup=5000 / 250_000, amsgrad=True, decay_vectors=True,
    )  # fmt: skip

    def __init__(
        self,
        encoder: VolumeEncoder,
        grid: tuple[int, int, int] = (4, 4, 1),
        crops: int = 2,
        crop_size: int | None = None,
        hidden_dim: int | None = None,
        projection_dim: int | None = None,
        momentum: float = 0.9,
        repulsion: float = 1.0,
        flip: float = 0.2,
        turn: float = 0.2,
        shift: float = 0.1,
        shift_by: float = 0.1,
    ):
        super().__init__(encoder)
        if min(grid) < 1 or max(grid) < 2 or crops < 1:
            raise UsageError(
                f"grid needs two boxes along an axis at least and crops one, not {grid} and {crops}"
            )
        if not hasattr(encoder, "stride"):
            raise UsageError(f"voco trains a network of volumes; '{encoder.name}' learns nothing")
        self.grid, self.count, self.momentum = grid, crops, momentum
        longest = max(side // cells for side, cells in zip(encoder.size, grid, strict=True))
        cells = -(-min(longest, LARGEST) // encoder.stride)
        self.crop_size = crop_size or max(cells * encoder.stride, encoder.net.smallest)
        hidden_dim = hidden_dim or (256 if self.crop_size < SMALL else 2048)
        self.changes = Changes(flip, turn, shift, shift_by)
        self.projector = nn.Sequential(
            nn.Linear(
                encoder.dim, hidden_dim, bias=False
            ),  # in front of a normalisation a bias has no effect
            nn.BatchNorm1d(hidden_dim, affine=False, track_running_stats=False),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim, bias=False),
            nn.BatchNorm1d(hidden_dim, affine=False, track_running_stats=False),
            nn.ReLU(),
            nn.Linear(hidden_dim, projection_dim or hidden_dim),
        )
        self.teacher = Half(encoder, self.projector)
        self.weights = {"positive": 1.0, "negative": 1.0, "repulsion": repulsion}

    def places(
        self, volume: Tensor, step: Step
    ) -> tuple[Int[Tensor, "batch crops 3"], Int[Tensor, "bases 3"], Triple]:
        """Where the random crops and the boxes of the grid begin, and their size.

        Raises:
            UsageError: the volumes have fewer voxels than the grid has boxes.
        """
        size: Triple = (volume.shape[2], volume.shape[3], volume.shape[4])
        if any(side < cells for side, cells in zip(size, self.grid, strict=True)):
            raise UsageError(f"volumes of {size} voxels cannot be cut into {self.grid} boxes")
        bases, crop = grid_starts(size, self.grid)
        return draw_starts(size, self.grid, len(volume), self.count, step.generator), bases, crop

    def crops(
        self, batch: Batch, step: Step
    ) -> tuple[Float[Tensor, "batch*boxes c s s s"], Tensor, Tensor, Triple]:
        """Changed crops of each scan, random ones and then the grid's; where these begin, and their size."""
        volume = require(batch, "volume", 5)
        starts, bases, crop = self.places(volume, step)
        boxes = torch.cat([starts, bases.to(starts.device).expand(len(volume), -1, -1)], dim=1)
        drawn = draw_changes(self.changes, len(volume), boxes.shape[1], step.generator)
        return change(cut(volume, boxes, crop, self.crop_size), drawn), starts, bases, crop

    def split(self, values: Tensor, scans: int) -> tuple[Tensor, Tensor]:
        """What belongs to the random crops of each scan, and what to its boxes."""
        each = values.unflatten(0, (scans, -1))
        return each[:, : self.count], each[:, self.count :]

    def told(self, crops: Tensor, scans: int) -> tuple[Float[Tensor, "batch crops bases"], Tensor]:
        """How alike random crops and boxes are, student and teacher crossed; and the student's boxes."""
        x, bases = self.split(self.projector(self.encoder(crops).pooled), scans)
        with torch.no_grad():
            half = self.teacher
            x_teacher, bases_teacher = self.split(half.projector(half.encoder(crops).pooled), scans)
        return (likeness(x, bases_teacher) + likeness(x_teacher, bases)) / 2, bases

    def shares(self, starts: Tensor, bases: Tensor, crop: Triple) -> Float[Tensor, "batch crops bases"]:
        """How much of each random crop lies in each box: what is to be told."""
        return overlap(starts, bases, crop)

    def loss(self, batch: Batch, step: Step) -> Losses:
        crops, starts, bases, crop = self.crops(batch, step)
        told, features = self.told(crops, len(starts))
        share = self.shares(starts, bases, crop).to(told)
        there, none = share_losses(told, share)
        step.metrics["shares_off_by"] = (told - share).abs().mean()
        return {"positive": there.mean(), "negative": none.mean(), "repulsion": repulsion(features).mean()}

    def after_step(self, step: Step) -> None:
        follow(self.teacher, self, self.momentum)

    def question(self, batch: Batch, step: Step) -> Question:
        crops, starts, bases, crop = self.crops(batch, step)
        seen, _ = self.split(crops, len(starts))
        source = torch.arange(len(starts), device=crops.device).repeat_interleave(self.count)
        return Question(seen.flatten(0, 1), source, overlap(starts, bases, crop).flatten(0, 1))

    def preview(self, batch: Batch, step: Step) -> Sheet:
        crops, starts, bases, crop = self.crops(batch, step)
        told, _ = self.told(crops, len(starts))
        share, (seen, _) = overlap(starts, bases, crop), self.split(crops, len(starts))
        first = zip(batch["volume"].float(), starts[:, 0], seen[:, 0], told[:, 0], share[:, 0], strict=True)
        rows = []
        for scan, start, view, answer, truth in first:
            plain, guessed, right = (
                tinted(scan, bases, crop, strength, ORANGE) for strength in (0 * truth, answer.float(), truth)
            )
            for base in bases.tolist():
                plain = outlined(plain, base, crop, BLUE)
            right = outlined(right, start.tolist(), crop, ORANGE)
            rows.append(
                [
                    Panel("a crop", upright(view.clamp(0, 1)), kind="volume"),
                    Panel(f"in which of these {len(bases)} boxes is it?", upright(plain), "asked", "volume"),
                    Panel("as alike to each box", upright(guessed), "answer", "volume"),
                    Panel("where it was cut, and its share in each box", upright(right), "truth", "volume"),
                ]
            )
        return Sheet("VoCo", "How far does the crop reach into each box of the scan?", rows)
