"""Barlow Twins: what two views say of each other is the identity (Zbontar et al., ICML 2021)."""

from jaxtyping import Float
from torch import Tensor

from pretask.encoders.heads import mlp
from pretask.encoders.image import ImageEncoder
from pretask.methods.image.two_views import TwoViews, byol_views
from pretask.objectives.decorrelation import barlow_twins
from pretask.pretexts.views import SMALL_IMAGE
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Step


class BarlowTwins(TwoViews):
    """Make each feature agree between views, and no two features.

    Args:
        encoder: any image encoder.
        dim: width of the projector's three layers; none takes 8192, 1024 for pictures of at most 64 pixels.
        redundancy_weight: of the correlations between different features.
        crop_scale: area of the random crops, as a share of the picture's.
    """

    title = "Barlow Twins"
    recipe = Recipe(
        "lars", lr=0.2, batch_size=2048, epochs=1000, weight_decay=1.5e-6, warmup=0.01, final_lr=1e-3,
        vector_lr=0.0048,
    )  # fmt: skip

    def __init__(
        self,
        encoder: ImageEncoder,
        dim: int | None = None,
        redundancy_weight: float = 5e-3,
        crop_scale: tuple[float, float] = (0.08, 1.0),
    ):
        super().__init__(encoder, *byol_views(encoder, crop_scale))
        self.redundancy_weight = redundancy_weight
        dim = dim or (1024 if encoder.image_size <= SMALL_IMAGE else 8192)
        self.projector = mlp(encoder.dim, dim, dim, dim, batch_norm=True, last_bias=False)

    def compared(self, views: Float[Tensor, "2*batch chans h w"]) -> Float[Tensor, "2*batch dim"]:
        return self.projector(self.encoder(views).pooled)

    def loss(self, batch: Batch, step: Step) -> Losses:
        # each view alone: its batch statistics are its own, as in the official code
        first, second = (self.compared(view) for view in self.views(batch, step).chunk(2))
        return {"barlow": barlow_twins(first, second, self.redundancy_weight)}
