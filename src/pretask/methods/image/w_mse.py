"""W-MSE: views agree where features are whitened, so that they cannot collapse (Ermolov et al., ICML 2021).

The rate falls in a cosine; the official code drops it twice near the end. Colours change after the crop, there
before it.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.encoders.heads import mlp
from pretask.encoders.image import ImageEncoder
from pretask.methods.image.two_views import TwoViews, moco_view
from pretask.objectives.distributed import gather
from pretask.objectives.whitening import w_mse
from pretask.pretexts import draw
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Step


class WMSE(TwoViews):
    """Bring whitened projections of two views together; nothing is a negative and nothing is a teacher.

    Args:
        encoder: any image encoder.
        whitened: samples that are whitened together, at least, of all processes.
        iterations: divisions of a batch over which the loss is averaged.
        hidden_dim: width of the projector's hidden layer.
        projection_dim: width of what is whitened; at most half of `whitened`.
        crop_scale: area of the random crops, as a share of the picture's.
    """

    title = "W-MSE"
    recipe = Recipe(
        "adam", lr=3e-3, batch_size=256, epochs=1000, weight_decay=1e-6, betas=(0.9, 0.999), warmup=0.003
    )

    def __init__(
        self,
        encoder: ImageEncoder,
        whitened: int = 128,
        iterations: int = 1,
        hidden_dim: int = 1024,
        projection_dim: int = 64,
        crop_scale: tuple[float, float] = (0.2, 1.0),
    ):
        view = moco_view(encoder, crop_scale)
        super().__init__(encoder, replace(view, grey=0.1, blur=0.0, interpolation="bicubic"))
        self.whitened, self.iterations = whitened, iterations
        self.projector = mlp(encoder.dim, hidden_dim, projection_dim, batch_norm=True)

    def compared(self, views: Float[Tensor, "2*batch chans h w"]) -> Float[Tensor, "2*batch dim"]:
        # as in the official code: to batch normalisation each view is a batch of its own in the encoder, and both
        # together are one in the projector
        return self.projector(torch.cat([self.encoder(view).pooled for view in views.chunk(2)]))

    def loss(self, batch: Batch, step: Step) -> Losses:
        first, second = (gather(part) for part in self.compared(self.views(batch, step)).chunk(2))
        total = first.new_zeros(())
        for _ in range(self.iterations):
            order = draw.common((len(first),), step.generator).argsort().to(first.device)
            total = total + w_mse(first, second, order, self.whitened) / self.iterations
        return {"w_mse": total}

    def chance(self, batch_size: int) -> dict[str, float]:
        """2, as of vectors that have nothing to do with each other."""
        return {"w_mse": 2.0}
