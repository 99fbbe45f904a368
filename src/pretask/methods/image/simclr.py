"""SimCLR: two views of a picture must find each other among those of the batch (Chen et al., ICML 2020)."""

from dataclasses import replace
from math import log

from jaxtyping import Float
from torch import Tensor

from pretask.encoders.heads import mlp
from pretask.encoders.image import ImageEncoder
from pretask.methods.image.two_views import TwoViews
from pretask.objectives.contrastive import nt_xent
from pretask.pretexts.views import SMALL_IMAGE, simclr_views
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Step


class SimCLR(TwoViews):
    """Contrast two views of each picture with all other views of the batch (NT-Xent, equation 1).

    The projector is the paper's g(h) = W2 ReLU(W1 h), batch-normalised after both layers, the second time
    without a shift, as in the official code.

    Args:
        encoder: any image encoder.
        temperature: divides the similarities; none takes the paper's best, 0.1 for ImageNet and 0.5 for
            pictures of up to 64 pixels (CIFAR-10).
        hidden_dim: width of the projector's hidden layer; none takes the encoder's, as in the paper.
        projection_dim: width of what is contrasted.
        crop_scale: area of the random crops, as a share of the picture's.
    """

    title = "SimCLR"
    recipe = Recipe("lars", lr=0.3, batch_size=4096, epochs=100, weight_decay=1e-6, warmup=0.1)

    def __init__(
        self,
        encoder: ImageEncoder,
        temperature: float | None = None,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        crop_scale: tuple[float, float] = (0.08, 1.0),
    ):
        super().__init__(
            encoder, replace(simclr_views(encoder.image_size, crop_scale), interpolation="bicubic")
        )
        small = encoder.image_size <= SMALL_IMAGE
        self.temperature = temperature if temperature is not None else (0.5 if small else 0.1)
        widths = (encoder.dim, hidden_dim or encoder.dim, projection_dim)
        self.projector = mlp(*widths, batch_norm=True, last_norm="affine")
        self.projector[-1].bias.requires_grad_(False)

    def compared(self, views: Float[Tensor, "2*batch chans h w"]) -> Float[Tensor, "2*batch dim"]:
        """Both views in one forward pass: they share batch statistics, as in the official code."""
        return self.projector(self.encoder(views).pooled)

    def loss(self, batch: Batch, step: Step) -> Losses:
        first, second = self.compared(self.views(batch, step)).chunk(2)
        return {"nt_xent": nt_xent(first, second, self.temperature)}

    def chance(self, batch_size: int) -> dict[str, float]:
        """ln(2N - 1) for the N pictures of all processes together."""
        return {"nt_xent": log(2 * batch_size - 1)}
