"""SwAV: say of one view to which prototypes the other was assigned (Caron et al., NeurIPS 2020).

The queue of earlier features that the paper adds for small batches is not here.
"""

from dataclasses import replace
from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.heads import mlp
from pretask.encoders.image import ImageEncoder
from pretask.encoders.stride import local_side
from pretask.methods.image.two_views import TwoViews
from pretask.objectives.contrastive import unit
from pretask.objectives.distillation import view_loss
from pretask.objectives.sinkhorn import sinkhorn
from pretask.pretexts.views import SMALL_IMAGE, ViewSpec, apply_view, draw_view, simclr_views
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Step


class SwAV(TwoViews):
    """Swapped prediction of prototype assignments, which Sinkhorn-Knopp makes use all prototypes alike.

    Args:
        encoder: any image encoder.
        prototypes: K; none takes 3000, 300 for pictures of at most 64 pixels.
        num_local: small crops of each picture, that predict and are not assigned; none takes 6, 2 for small ones.
        local_size: their side in pixels; none takes 3/7 of the picture's (96 of 224).
        temperature: of the predictions.
        epsilon: how soft assignments are.
        iterations: of Sinkhorn-Knopp.
        hidden_dim: width of the projector's hidden layer; none takes 2048, 512 for small pictures.
        projection_dim: width of what is compared with prototypes.
        global_scale: area of a large crop, as a share of the picture's.
        local_scale: area of a small crop.
        freeze_prototypes: epochs in which the prototypes do not learn; a tenth of a run no longer than that.
    """

    title = "SwAV"
    recipe = Recipe(
        "lars", lr=0.3, batch_size=4096, epochs=800, weight_decay=1e-6, warmup=10 / 800, final_lr=1e-3
    )

    def __init__(
        self,
        encoder: ImageEncoder,
        prototypes: int | None = None,
        num_local: int | None = None,
        local_size: int | None = None,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        global_scale: tuple[float, float] = (0.14, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.14),
        freeze_prototypes: int = 1,
    ):
        view = simclr_views(encoder.image_size, global_scale)
        super().__init__(encoder, view)
        small = encoder.image_size <= SMALL_IMAGE
        self.num_local = (2 if small else 6) if num_local is None else num_local
        self.local: ViewSpec = replace(view, size=local_side(encoder, local_size), scale=local_scale)
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.freeze_prototypes = freeze_prototypes
        self.projector = mlp(
            encoder.dim, hidden_dim or (512 if small else 2048), projection_dim, batch_norm=True
        )
        count = prototypes or (300 if small else 3000)
        self.prototypes = nn.Linear(projection_dim, count, bias=False)
        self.keep_length()

    @torch.no_grad()
    def keep_length(self) -> None:
        """Prototypes have length 1 whenever they are used."""
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))

    def compared(self, views: Float[Tensor, "views chans h w"]) -> Float[Tensor, "views dim"]:
        return unit(self.projector(self.encoder(views).pooled))

    def small_crops(self, batch: Batch, step: Step) -> list[Float[Tensor, "batch chans h w"]]:
        image, size = require(batch, "image", 4), batch.get("size")
        return [
            apply_view(self.local, image, draw_view(self.local, len(image), step.generator, size))
            for _ in range(self.num_local)
        ]

    def loss(self, batch: Batch, step: Step) -> Losses:
        views, local = self.views(batch, step), self.small_crops(batch, step)
        scores = [self.prototypes(self.compared(part)) for part in (views, torch.cat(local) if local else None)
                  if part is not None]  # fmt: skip
        codes = [sinkhorn(own.detach(), self.epsilon, self.iterations) for own in scores[0].chunk(2)]
        return {"swav": view_loss(torch.cat(scores), torch.cat(codes), len(views) // 2, self.temperature)}

    def after_backward(self, step: Step) -> None:
        frozen = self.freeze_prototypes * step.steps_per_epoch
        if step.index < (frozen if step.total > frozen else step.total / 10):
            self.prototypes.weight.grad = None

    def after_step(self, step: Step) -> None:
        self.keep_length()

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"swav": log(self.prototypes.out_features)}
