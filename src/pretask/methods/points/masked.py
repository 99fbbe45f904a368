"""What Point-MAE and methods built on it share: a cloud in a new pose, patches hidden, the rest encoded."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.data.geometry import Groups, at
from pretask.encoders.drop_path import droppable, dropping
from pretask.encoders.points import PointEncoder
from pretask.errors import UsageError
from pretask.pretexts import draw
from pretask.pretexts.masks import Shuffle, shuffle
from pretask.pretexts.points import POINT_MASKS, Pose, PoseSpec, draw_pose, some_points
from pretask.task import Batch, PretextTask, Step

BRANCHES = 3  # of a decoder's block at most


class MaskedPoints(PretextTask):
    """Hides patches of a cloud.

    Args:
        encoder: a transformer on patches of clouds.
        mask_ratio: share of the patches that is hidden, rounded down.
        mask: which are hidden; a name in `POINT_MASKS`.
        num_points: points of a cloud that a step sees.
        pose: how clouds are turned, scaled and moved.
        drop_path: share of samples for which a last block's branch is skipped.

    Raises:
        UsageError: the encoder has no patches of clouds, or none or all of them would be hidden.
    """

    encoder: PointEncoder

    def __init__(
        self,
        encoder: PointEncoder,
        mask_ratio: float,
        mask: str,
        num_points: int,
        pose: PoseSpec,
        drop_path: float,
    ):
        if not hasattr(encoder, "group"):
            raise UsageError("this hides patches of clouds: it needs a point transformer as encoder")
        super().__init__(encoder)
        self.num_hidden = int(mask_ratio * encoder.num_patches)
        if not 0 < self.num_hidden < encoder.num_patches:
            raise UsageError(
                f"mask_ratio {mask_ratio} hides {self.num_hidden} of {encoder.num_patches} patches; "
                "some must be hidden and some visible"
            )
        self.mask, self.num_points, self.pose, self.drop_path = mask, num_points, pose, drop_path

    def cloud(self, batch: Batch, step: Step, *besides: str) -> tuple[Pose, list[Tensor]]:
        """A pose for each cloud, its points as they were read, and what the batch holds `besides` for each
        point. Of larger clouds `num_points` are drawn."""
        parts = [require(batch, key, 3) for key in ("points", *besides)]
        parts = [part if part.dtype == torch.float64 else part.float() for part in parts]
        count, there = parts[0].shape[:2]
        if there > self.num_points:
            chosen = some_points(count, there, self.num_points, step.generator).to(parts[0].device)
            parts = [at(part, chosen) for part in parts]
        return draw_pose(self.pose, count, step.generator), parts

    def hide(self, points: Float[Tensor, "batch points chans"], step: Step) -> tuple[Groups, Shuffle]:
        """The cloud's patches, and which of them are visible and hidden."""
        groups = self.encoder.group(points)
        hidden = POINT_MASKS[self.mask](groups.centres, self.num_hidden, step.generator)
        return groups, shuffle(hidden, self.num_hidden)

    def encode(
        self, points: Tensor, groups: Groups, order: Shuffle, step: Step
    ) -> Float[Tensor, "batch visible dim"]:
        """The visible patches' tokens."""
        with self.dropped(self.encoder, len(points), step):
            return self.encoder(points, order.visible, groups).tokens

    def dropped(self, module: nn.Module, count: int, step: Step) -> AbstractContextManager[None]:
        """Skips branches of an encoder's or decoder's blocks for some samples, while training."""
        if not (self.training and self.drop_path):
            return nullcontext()
        unit = draw.uniform((count, len(droppable(module)), BRANCHES), step.generator)
        return dropping(module, unit.to(next(module.parameters()).device), self.drop_path)
