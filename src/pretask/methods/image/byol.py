"""BYOL: predict what a slow copy of the network says of another view (Grill et al., NeurIPS 2020)."""

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.encoders.ema import follow
from pretask.encoders.heads import mlp
from pretask.encoders.image import ImageEncoder
from pretask.methods.image.two_views import Target, TwoViews, byol_views
from pretask.objectives.contrastive import unit
from pretask.objectives.distillation import cosine
from pretask.pretexts.views import SMALL_IMAGE
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Step


class BYOL(TwoViews):
    """Predict the target network's projection of the other view; nothing is a negative. As in the official code the
    last layers of projector and predictor have no bias.

    Args:
        encoder: any image encoder.
        hidden_dim: width of the hidden layers; none takes 4096, 1024 for pictures of at most 64 pixels.
        projection_dim: width of what is predicted.
        momentum: the target's at the start, rising to 1 in a cosine; none takes 0.996, 0.99 for small pictures.
        crop_scale: area of the random crops, as a share of the picture's.
    """

    title = "BYOL"
    recipe = Recipe("lars", lr=0.2, batch_size=4096, epochs=1000, weight_decay=1.5e-6, warmup=0.01)

    def __init__(
        self,
        encoder: ImageEncoder,
        hidden_dim: int | None = None,
        projection_dim: int = 256,
        momentum: float | None = None,
        crop_scale: tuple[float, float] = (0.08, 1.0),
    ):
        super().__init__(encoder, *byol_views(encoder, crop_scale))
        small = encoder.image_size <= SMALL_IMAGE
        hidden = hidden_dim or (1024 if small else 4096)
        self.momentum = (0.99 if small else 0.996) if momentum is None else momentum
        self.projector = mlp(encoder.dim, hidden, projection_dim, batch_norm=True, last_bias=False)
        self.predictor = mlp(projection_dim, hidden, projection_dim, batch_norm=True, last_bias=False)
        self.target = Target(encoder, self.projector)

    def compared(self, views: Float[Tensor, "2*batch chans h w"]) -> Float[Tensor, "2*batch dim"]:
        return self.predictor(self.projector(self.encoder(views).pooled))

    def loss(self, batch: Batch, step: Step) -> Losses:
        first, second = self.views(batch, step).chunk(2)
        with torch.no_grad():  # each view alone, as its batch statistics are its own
            truth = [unit(self.target(view)) for view in (second, first)]
        said = [unit(self.compared(view)) for view in (first, second)]
        # 2 - 2 cos, the two directions summed (equation 2)
        apart = [(2 - 2 * (p * z).sum(1)).mean() for p, z in zip(said, truth, strict=True)]
        return {"byol": torch.stack(apart).sum()}

    def after_step(self, step: Step) -> None:
        follow(self.target, self, cosine(step.index, step.total, self.momentum, 1.0))
