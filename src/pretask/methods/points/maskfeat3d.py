"""MaskFeat3D: at the places of the hidden points, which way does the surface face and how curved is it?
(Yan et al., "3D Feature Prediction for Masked-AutoEncoder-Based Point Cloud Pretraining", ICLR 2024).

As in SimingYan/MaskFeat3D, on Point-MAE's encoder. Places are given, in absolute coordinates, so recovering
them is no part of the task; patches overlap, so a place may be asked several times. One departure: a branch
of the decoder is skipped for a sample, where the official code, whose queries are its first dimension, skips
it for a query of all samples.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pretask.data.geometry import Axis, Groups, at
from pretask.encoders.point_decoders import QueryDecoder
from pretask.encoders.points import PointEncoder
from pretask.errors import UsageError
from pretask.methods.points.masked import MaskedPoints
from pretask.objectives.points import NormalLoss, agree, normal_loss
from pretask.pretexts.masks import Shuffle, take
from pretask.pretexts.points import ASIDE, HIDDEN, SEEN, PoseSpec, face, painted, place
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, Role, Sheet, Step

WIDTHS = {"normal": 3, "variation": 1}
FLAT, CURVED = (0.15, 0.2, 0.45), (0.98, 0.85, 0.2)  # colours of a variation of 0 and of 1/3


class Hidden(NamedTuple):
    """The hidden points and what is asked of them."""

    places: Float[Tensor, "batch queries 3"]
    normal: Float[Tensor, "batch queries 3"]
    variation: Float[Tensor, "batch queries 1"]


class MaskFeat3D(MaskedPoints):
    """Predict the surface's normal and variation at the points of hidden patches.

    The batch holds `normals` and `variation` of every point, measured on the dense cloud (the reader's work).

    Args:
        encoder: a transformer on patches of clouds.
        mask_ratio: share of the patches that is hidden, rounded down.
        mask: which are hidden: `random`, or the `block` of those nearest to a random one.
        targets: what is asked: `both`, or only `normal` or `variation`.
        normal_loss: `cosine` with a penalty on the length; `abs_cosine` the same for normals of unknown sign
            (which those of clouds marked so are given in any case); `mse` alone.
        query_share: share of the hidden points that is asked, the first patches' first; fewer are faster.
        decoder_depth: blocks of the decoder.
        num_points: points of a cloud that a step sees, drawn anew each time where there are more.
        up: the axis clouds are turned about, by any angle; `none` leaves them.
        scale: clouds are scaled by a factor from 1 / scale to scale, the same for all axes.
        drop_path: share of samples for which a last block's branch is skipped, less for those before.
    """

    recipe = Recipe(
        "adamw", lr=1e-3, lr_batch=0, batch_size=48, epochs=300, weight_decay=0.05, betas=(0.9, 0.999),
        warmup=10 / 300, final_lr=1e-3,
    )  # fmt: skip

    def __init__(
        self,
        encoder: PointEncoder,
        mask_ratio: float = 0.6,
        mask: Literal["random", "block"] = "random",
        targets: Literal["both", "normal", "variation"] = "both",
        normal_loss: Literal["cosine", "abs_cosine", "mse"] = "cosine",
        query_share: float = 1.0,
        decoder_depth: int = 4,
        num_points: int = 1024,
        up: Literal["x", "y", "z", "none"] = "y",
        scale: float = 1.5,
        drop_path: float = 0.1,
    ):
        axis: Axis | None = None if up == "none" else up
        pose = PoseSpec(axis, (1 / scale, scale))
        super().__init__(encoder, mask_ratio, mask, num_points, pose, drop_path)
        self.num_queries = int(self.num_hidden * encoder.group_size * query_share)
        if not 0 < self.num_queries <= self.num_hidden * encoder.group_size:
            raise UsageError(f"query_share {query_share} asks {self.num_queries} points; it lies in (0, 1]")
        self.normal_loss: NormalLoss = normal_loss
        self.decoder = QueryDecoder(encoder.dim, decoder_depth, encoder.num_heads)
        asked = WIDTHS if targets == "both" else (targets,)
        self.heads = nn.ModuleDict({name: nn.Linear(encoder.dim, WIDTHS[name]) for name in asked})

    def loss(self, batch: Batch, step: Step) -> Losses:
        points, groups, order, hidden = self.puzzle(batch, step)
        answers = self.answer(points, groups, order, hidden.places, step)
        losses = {}
        if "normal" in answers:
            truth = signed(hidden.normal, answers["normal"], batch)
            losses["normal"] = normal_loss(answers["normal"], truth, self.normal_loss)
        if "variation" in answers:  # at most 1/3, and kept so small beside the normals' (the paper's weights)
            losses["variation"] = (answers["variation"] - hidden.variation).abs().mean()
        return losses

    def puzzle(self, batch: Batch, step: Step) -> tuple[Tensor, Groups, Shuffle, Hidden]:
        """Clouds in a pose, their patches, which of them are hidden, and what is asked there."""
        pose, (points, normals, variation) = self.cloud(batch, step, "normals", "variation")
        points, normals = place(pose, points), face(pose, normals)  # the variation is the same in any pose
        groups, order = self.hide(points, step)
        asked = take(groups.members, order.hidden).flatten(1)[:, : self.num_queries]
        hidden = Hidden(at(points[..., :3], asked), at(normals, asked), at(variation, asked))
        return points, groups, order, hidden

    def answer(
        self, points: Tensor, groups: Groups, order: Shuffle, places: Tensor, step: Step
    ) -> dict[str, Float[Tensor, "batch queries values"]]:
        """What each head says of the places."""
        tokens = self.encode(points, groups, order, step)
        with self.dropped(self.decoder, len(points), step):
            found = self.decoder(tokens, take(groups.centres, order.visible), places)
        return {name: head(found).to(places.dtype) for name, head in self.heads.items()}

    def preview(self, batch: Batch, step: Step) -> Sheet:
        points, groups, order, hidden = self.puzzle(batch, step)
        answers = self.answer(points, groups, order, hidden.places, step)
        members = take(groups.members, order.visible).flatten(1)
        seen = at(points[..., :3], members)
        asked = torch.cat([painted(seen, SEEN), painted(hidden.places, HIDDEN)], dim=1)
        views: list[tuple[str, Tensor, Role]] = [("seen, and asked", asked, "input")]
        for name, answered in answers.items():
            truth = hidden.normal if name == "normal" else hidden.variation
            painted_truth, painted_answer = (paint(name, hidden.places, said) for said in (truth, answered))
            aside = painted(seen, ASIDE)
            views.append((f"true {name}", torch.cat([aside, painted_truth], dim=1), "truth"))
            views.append((f"answered {name}", torch.cat([aside, painted_answer], dim=1), "answer"))
        rows = [
            [Panel(caption, view[i], role, "points") for caption, view, role in views]
            for i in range(len(points))
        ]
        note = "Which way does the surface face at the hidden points, and how curved is it?"
        return Sheet("MaskFeat3D", note, rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        """Directions that know nothing, of length 1: 1 - cos is 1 in the mean, 1 - |cos| 1/2; as squares the
        best such answer is 0, which leaves a third of 1."""
        rest = {"cosine": 1.0, "abs_cosine": 0.5, "mse": 1 / 3}[self.normal_loss]
        return {"normal": rest} if "normal" in self.heads else {}


def signed(normals: Tensor, predicted: Tensor, batch: Batch) -> Float[Tensor, "batch queries 3"]:
    """The normals; those of clouds that do not know their sign on the side the prediction lies on."""
    if "oriented" not in batch:
        return normals
    known = batch["oriented"].to(normals.device).view(-1, 1, 1)
    return torch.where(known, normals, agree(normals, predicted))


def paint(name: str, places: Tensor, values: Tensor) -> Float[Tensor, "batch queries 6"]:
    """Places in the colour of what is said of them."""
    if name == "normal":
        return painted(places, (nn.functional.normalize(values, dim=-1) + 1) / 2)
    flat, curved = (values.new_tensor(colour) for colour in (FLAT, CURVED))
    return painted(places, flat + (3 * values).clamp(0, 1).sqrt() * (curved - flat))  # most are small
