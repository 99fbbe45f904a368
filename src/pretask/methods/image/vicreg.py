"""VICReg: agree between views, vary between pictures, say nothing twice (Bardes et al., ICLR 2022)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pretask.encoders.heads import mlp
from pretask.encoders.image import ImageEncoder
from pretask.methods.image.two_views import TwoViews, byol_views
from pretask.objectives.contrastive import single
from pretask.objectives.decorrelation import covariance, variance_hinge
from pretask.pretexts.views import SMALL_IMAGE
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Step


class VICReg(TwoViews):
    """Invariance, variance and covariance of two views' projections (equation 6).

    Args:
        encoder: any image encoder.
        dim: width of the projector's three layers; none takes 8192, 1024 for pictures of at most 64 pixels.
        invariance_weight: of the squared distance between views.
        variance_weight: of the hinge on each feature's deviation.
        covariance_weight: of the covariances of different features.
        crop_scale: area of the random crops, as a share of the picture's.
    """

    title = "VICReg"
    recipe = Recipe(
        "lars", lr=0.2, batch_size=2048, epochs=1000, weight_decay=1e-6, warmup=0.01, final_lr=1e-3
    )

    def __init__(
        self,
        encoder: ImageEncoder,
        dim: int | None = None,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        crop_scale: tuple[float, float] = (0.08, 1.0),
    ):
        super().__init__(encoder, *byol_views(encoder, crop_scale))
        self.weights = {
            "invariance": invariance_weight, "variance": variance_weight, "covariance": covariance_weight,
        }  # fmt: skip
        dim = dim or (1024 if encoder.image_size <= SMALL_IMAGE else 8192)
        self.projector = mlp(encoder.dim, dim, dim, dim, batch_norm=True, last_bias=False)

    def compared(self, views: Float[Tensor, "2*batch chans h w"]) -> Float[Tensor, "2*batch dim"]:
        return self.projector(self.encoder(views).pooled)

    def loss(self, batch: Batch, step: Step) -> Losses:
        # each view alone: its batch statistics are its own, as in the official code
        first, second = (single(self.compared(view)) for view in self.views(batch, step).chunk(2))
        return {
            "invariance": F.mse_loss(first, second),
            "variance": (variance_hinge(first) + variance_hinge(second)) / 2,  # halved in the official code
            "covariance": covariance(first) + covariance(second),
        }
