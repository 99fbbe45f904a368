"""What SwAV and DeepCluster-v2 share: two large crops and several small ones, projected onto vectors of length 1."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.data.batch import require
from pretask.encoders.heads import mlp
from pretask.encoders.image import ImageEncoder
from pretask.encoders.stride import local_side
from pretask.methods.image.two_views import BLUR_KERNEL, TwoViews
from pretask.objectives.contrastive import unit
from pretask.pretexts.views import SMALL_IMAGE, ViewSpec, apply_view, draw_view, simclr_views
from pretask.task import Batch, Step


class MultiCrop(TwoViews):
    """Two large crops, and small ones that are only asked.

    Args:
        encoder: any image encoder.
        num_local: small crops of each picture; none takes 6, 2 for pictures of at most 64 pixels.
        local_size: their side in pixels; none takes 3/7 of the picture's (96 of 224).
        hidden_dim: width of the projector's hidden layer; none takes 2048, 512 for small pictures.
        projection_dim: width of what is compared with prototypes.
        global_scale: area of a large crop, as a share of the picture's.
        local_scale: area of a small crop.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        num_local: int | None,
        local_size: int | None,
        hidden_dim: int | None,
        projection_dim: int,
        global_scale: tuple[float, float],
        local_scale: tuple[float, float],
    ):
        view = replace(simclr_views(encoder.image_size, global_scale), blur_kernel=BLUR_KERNEL)
        super().__init__(encoder, view)
        small = encoder.image_size <= SMALL_IMAGE
        self.num_local = (2 if small else 6) if num_local is None else num_local
        self.local: ViewSpec = replace(view, size=local_side(encoder, local_size), scale=local_scale)
        hidden = hidden_dim or (512 if small else 2048)
        self.projector = mlp(encoder.dim, hidden, projection_dim, batch_norm=True)

    def compared(self, views: Float[Tensor, "views chans h w"]) -> Float[Tensor, "views dim"]:
        return self.project(self.encoder(views).pooled)

    def project(self, pooled: Float[Tensor, "views width"]) -> Float[Tensor, "views dim"]:
        return unit(self.projector(pooled))

    def small_crops(self, batch: Batch, step: Step) -> list[Float[Tensor, "batch chans h w"]]:
        image, size = require(batch, "image", 4), batch.get("size")
        return [
            apply_view(self.local, image, draw_view(self.local, len(image), step.generator, size))
            for _ in range(self.num_local)
        ]

    def crops(self, batch: Batch, step: Step) -> list[Float[Tensor, "batch dim"]]:
        """The vectors of all crops, the two large ones first, each crop's batch together. The encoder sees crops of
        one size at a time, the projector all of them at once: they share its batch statistics."""
        large, local = self.views(batch, step), self.small_crops(batch, step)
        seen = [self.encoder(large).pooled, *([self.encoder(torch.cat(local)).pooled] if local else [])]
        return list(self.project(torch.cat(seen)).split(len(large) // 2))
