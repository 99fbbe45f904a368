"""What methods share that compare two views of each picture: how views are drawn, asked about and shown."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.ema import teacher_of
from pretask.encoders.image import ImageEncoder
from pretask.pretexts.views import SMALL_IMAGE, View, ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Panel, PretextTask, Question, Sheet, Step

TRANSFORMER = Recipe("adamw", lr=5e-4, batch_size=1024, epochs=100, weight_decay=0.05)
"""In place of a paper's recipe for convolutions: transformers do not learn under LARS at small batches."""

BLUR_KERNEL = 23  # taps where a blur is as wide for all sizes of views, as in SwAV


class TwoViews(PretextTask):
    """Two views of each picture.

    Args:
        encoder: any image encoder.
        first: what the first view of a picture may look like.
        second: the second; none is drawn as the first.
    """

    encoder: ImageEncoder
    title: str

    def __init__(self, encoder: ImageEncoder, first: ViewSpec, second: ViewSpec | None = None):
        super().__init__(encoder)
        self.first, self.second = first, second or first
        if hasattr(encoder, "patch_size"):
            self.recipe = TRANSFORMER

    def views(self, batch: Batch, step: Step) -> Float[Tensor, "2*batch chans h w"]:
        """The first views of all pictures, then the second ones."""
        image, size = require(batch, "image", 4), batch.get("size")
        drawn = [draw_view(spec, len(image), step.generator, size) for spec in (self.first, self.second)]
        if self.first == self.second:
            return apply_view(self.first, image, View.joined(drawn))
        return torch.cat(
            [
                apply_view(spec, image, view)
                for spec, view in zip((self.first, self.second), drawn, strict=True)
            ]
        )

    def compared(self, views: Float[Tensor, "2*batch chans h w"]) -> Float[Tensor, "2*batch dim"]:
        """What is compared between views, for the sheet."""
        raise NotImplementedError

    def question(self, batch: Batch, step: Step) -> Question:
        views = self.views(batch, step)
        return Question(views, torch.arange(len(views), device=views.device) % (len(views) // 2))

    def preview(self, batch: Batch, step: Step) -> Sheet:
        views = self.views(batch, step)
        first, second = self.compared(views).chunk(2)
        found = (F.normalize(first) @ F.normalize(second).T).argmax(1).tolist()
        first, second = views.chunk(2)
        rows = [
            [
                Panel("a view", first[row]),
                Panel("its partner", second[row], "truth"),
                Panel("answer: nearest second view", second[answer], "answer"),
            ]
            for row, answer in enumerate(found)
        ]
        return Sheet(self.title, "Which crop comes from the same picture?", rows)


class Target(nn.Module):
    """Encoder and projector again, named alike, so that they can follow parameter by parameter; batch
    normalisation in them uses the statistics of what they see themselves."""

    def __init__(self, encoder: ImageEncoder, projector: nn.Module):
        super().__init__()
        self.encoder, self.projector = teacher_of(encoder), teacher_of(projector)

    def forward(self, views: Float[Tensor, "views chans h w"]) -> Float[Tensor, "views dim"]:
        return self.projector(self.encoder(views).pooled)


def moco_view(encoder: ImageEncoder, scale: tuple[float, float] = (0.2, 1.0)) -> ViewSpec:
    """MoCo v2's and SimSiam's view; small pictures are not blurred. The blur is PIL's, which has no kernel size:
    as many taps as a deviation of 2 needs."""
    blur = 0.0 if encoder.image_size <= SMALL_IMAGE else 0.5
    return ViewSpec(
        encoder.image_size, scale, flip=0.5, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1,
        grey=0.2, blur=blur, blur_kernel=BLUR_KERNEL,
    )  # fmt: skip


def byol_views(encoder: ImageEncoder, scale: tuple[float, float] = (0.08, 1.0)) -> tuple[ViewSpec, ViewSpec]:
    """BYOL's two views, which Barlow Twins and VICReg take over: the first is always blurred, the second seldom,
    and sometimes solarised; small pictures are not blurred."""
    sharp = encoder.image_size <= SMALL_IMAGE
    made = [
        ViewSpec(
            encoder.image_size, scale, flip=0.5, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2,
            hue=0.1, grey=0.2, blur=0.0 if sharp else blur, solarise=solarise, interpolation="bicubic",
        )
        for blur, solarise in ((1.0, 0.0), (0.1, 0.2))
    ]  # fmt: skip
    return made[0], made[1]
