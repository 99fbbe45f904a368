"""Point-MAE: hide patches of a cloud, encode the rest, rebuild the hidden points (Pang et al., ECCV 2022).

Drawn as in Pang-Yatian/Point-MAE: a factor and a shift for each axis; no turning.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.data.geometry import Groups, at
from pretask.encoders.point_decoders import MaskedPointDecoder
from pretask.encoders.points import PointEncoder
from pretask.methods.points.masked import MaskedPoints
from pretask.objectives.points import CHAMFER
from pretask.pretexts.masks import Shuffle, take
from pretask.pretexts.points import HIDDEN, SEEN, PoseSpec, painted, place
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, Sheet, Step


class PointMAE(MaskedPoints):
    """Rebuild the points of hidden patches from the visible ones and the hidden ones' centres.

    Args:
        encoder: a transformer on patches of clouds.
        mask_ratio: share of the patches that is hidden, rounded down.
        mask: which are hidden: `random`, or the `block` of those nearest to a random one.
        chamfer: `l2` compares squared distances to the nearest points, `l1` distances.
        decoder_depth: blocks of the decoder.
        num_points: points of a cloud that a step sees, drawn anew each time where there are more.
        scale: each axis is stretched by a factor from 1 / scale to scale.
        shift: at most so far along each axis.
        drop_path: share of samples for which a last block's branch is skipped, less for those before.
    """

    recipe = Recipe(
        "adamw", lr=1e-3, lr_batch=0, batch_size=128, epochs=300, weight_decay=0.05, betas=(0.9, 0.999),
        warmup=10 / 300, final_lr=1e-3,
    )  # fmt: skip

    def __init__(
        self,
        encoder: PointEncoder,
        mask_ratio: float = 0.6,
        mask: Literal["random", "block"] = "random",
        chamfer: Literal["l1", "l2"] = "l2",
        decoder_depth: int = 4,
        num_points: int = 1024,
        scale: float = 1.5,
        shift: float = 0.2,
        drop_path: float = 0.1,
    ):
        pose = PoseSpec(scale=(1 / scale, scale), isotropic=False, shift=shift)
        super().__init__(encoder, mask_ratio, mask, num_points, pose, drop_path)
        self.chamfer = chamfer
        self.decoder = MaskedPointDecoder(
            encoder.dim, 3 * encoder.group_size, decoder_depth, encoder.num_heads
        )

    def loss(self, batch: Batch, step: Step) -> Losses:
        pose, (points,) = self.cloud(batch, step)
        points = place(pose, points)
        groups, order = self.hide(points, step)
        rebuilt, truth = self.rebuild(points, groups, order, step), patches_of(groups, order.hidden)
        # all patches have equally many points: this is the mean over the batch's hidden patches
        return {"chamfer": CHAMFER[self.chamfer](rebuilt.flatten(0, 1), truth.flatten(0, 1))}

    def rebuild(
        self, points: Tensor, groups: Groups, order: Shuffle, step: Step
    ) -> Float[Tensor, "batch hidden size 3"]:
        """The points of the hidden patches, seen from their centres."""
        tokens = self.encode(points, groups, order, step)
        visible, hidden = (take(groups.centres, places) for places in (order.visible, order.hidden))
        with self.dropped(self.decoder, len(points), step):
            values = self.decoder(tokens, visible, hidden)
        return values.unflatten(2, (-1, 3)).to(points.dtype)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        pose, (points,) = self.cloud(batch, step)
        points = place(pose, points)
        groups, order = self.hide(points, step)
        centres = take(groups.centres, order.hidden).unsqueeze(2)
        visible = patches_of(groups, order.visible) + take(groups.centres, order.visible).unsqueeze(2)
        shown = painted(visible.flatten(1, 2), SEEN)
        truth, answer = (
            painted((patches + centres).flatten(1, 2), HIDDEN)
            for patches in (patches_of(groups, order.hidden), self.rebuild(points, groups, order, step))
        )
        rows = [
            [
                Panel("what it sees", seen, kind="points"),
                Panel("rebuilt", torch.cat([seen, rebuilt]), "answer", "points"),
                Panel("the cloud", torch.cat([seen, hidden]), "truth", "points"),
            ]
            for seen, rebuilt, hidden in zip(shown, answer, truth, strict=True)
        ]
        return Sheet("Point-MAE", "Which points were in the hidden patches?", rows)


def patches_of(groups: Groups, places: Tensor) -> Float[Tensor, "batch places size 3"]:
    """The points of these patches, seen from their centres."""
    return at(groups.patches[..., :3].flatten(2), places).unflatten(2, (-1, 3))
