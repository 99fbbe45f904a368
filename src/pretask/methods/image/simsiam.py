"""SimSiam: predict one view's projection from the other's, and stop the gradient there (Chen, He, CVPR 2021)."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.encoders.heads import mlp
from pretask.encoders.image import ImageEncoder
from pretask.methods.image.two_views import TwoViews, moco_view
from pretask.objectives.contrastive import unit
from pretask.pretexts.views import SMALL_IMAGE
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Step


class SimSiam(TwoViews):
    """Predict the other view's projection, which learns nothing from it. The predictor's rate stays where it starts.

    Args:
        encoder: any image encoder.
        dim: width of projections; none takes 2048, 512 for pictures of at most 64 pixels. The predictor's hidden
            layer has a quarter of it, the projector's have the encoder's width.
        stop_gradient: treat what is predicted as constant; without it everything collapses.
        crop_scale: area of the random crops, as a share of the picture's.
    """

    title = "SimSiam"
    recipe = Recipe(
        "sgd", lr=0.05, batch_size=512, epochs=100, weight_decay=1e-4, decay_vectors=True, warmup=0.0,
        held=("predictor.",),
    )  # fmt: skip

    def __init__(
        self,
        encoder: ImageEncoder,
        dim: int | None = None,
        stop_gradient: bool = True,
        crop_scale: tuple[float, float] = (0.2, 1.0),
    ):
        super().__init__(encoder, moco_view(encoder, crop_scale))
        self.recipe = replace(self.recipe, held=type(self).recipe.held)
        dim = dim or (512 if encoder.image_size <= SMALL_IMAGE else 2048)
        self.stop_gradient = stop_gradient
        widths = (encoder.dim, encoder.dim, encoder.dim, dim)
        self.projector = mlp(*widths, batch_norm=True, last_norm="plain")
        self.predictor = mlp(dim, dim // 4, dim, batch_norm=True)

    def compared(self, views: Float[Tensor, "2*batch chans h w"]) -> Float[Tensor, "2*batch dim"]:
        return self.projector(self.encoder(views).pooled)

    def loss(self, batch: Batch, step: Step) -> Losses:
        # each view alone: its batch statistics are its own, as in the official code
        projected = [self.compared(view) for view in self.views(batch, step).chunk(2)]
        predicted = [unit(self.predictor(z)) for z in projected]
        truth = [unit(z.detach() if self.stop_gradient else z) for z in reversed(projected)]
        agreement = [(p * z).sum(1).mean() for p, z in zip(predicted, truth, strict=True)]
        return {"simsiam": -torch.stack(agreement).mean()}
