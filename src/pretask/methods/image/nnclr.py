"""NNCLR: the nearest neighbour of one view must be found by the other (Dwibedi et al., ICCV 2021)."""

from dataclasses import replace
from math import log

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.encoders.heads import mlp
from pretask.encoders.image import ImageEncoder
from pretask.methods.image.two_views import TwoViews
from pretask.objectives.contrastive import in_batch_nce, unit
from pretask.objectives.memory import Queue
from pretask.pretexts.views import SMALL_IMAGE, simclr_views
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Step


class NNCLR(TwoViews):
    """Contrast the nearest neighbour of one view, out of a queue, with what is predicted from the other. No code was
    released; the views are those of SimCLR, on which the paper builds, bicubic as in its code.

    Args:
        encoder: any image encoder.
        queue: projections kept to find neighbours among; none takes 98304, 4096 for pictures of at most 64 pixels.
        temperature: divides the similarities.
        hidden_dim: width of the hidden layers; none takes 2048 for the projector and 4096 for the predictor, 512
            for small pictures.
        projection_dim: width of what is contrasted.
        crop_scale: area of the random crops, as a share of the picture's.
    """

    title = "NNCLR"
    recipe = Recipe("lars", lr=0.3, batch_size=4096, epochs=1000, weight_decay=1e-6, warmup=0.01)

    def __init__(
        self,
        encoder: ImageEncoder,
        queue: int | None = None,
        temperature: float = 0.1,
        hidden_dim: int | None = None,
        projection_dim: int = 256,
        crop_scale: tuple[float, float] = (0.08, 1.0),
    ):
        view = simclr_views(encoder.image_size, crop_scale)
        super().__init__(encoder, replace(view, interpolation="bicubic"))
        small = encoder.image_size <= SMALL_IMAGE
        hidden, wide = (hidden_dim or (512 if small else size) for size in (2048, 4096))
        self.temperature = temperature
        self.projector = mlp(encoder.dim, hidden, hidden, projection_dim, batch_norm=True, last_norm="affine")
        self.predictor = mlp(projection_dim, wide, projection_dim, batch_norm=True)
        self.queue = Queue(queue or (4096 if small else 98304), projection_dim)
        self.seen: list[Tensor] = []

    def compared(self, views: Float[Tensor, "2*batch chans h w"]) -> Float[Tensor, "2*batch dim"]:
        return self.projector(self.encoder(views).pooled)

    @torch.no_grad()
    def neighbour(self, z: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """The row of the queue most like each projection."""
        rows = self.queue.rows.to(z.dtype)
        return rows[(unit(z).to(rows.dtype) @ rows.T).argmax(1)]

    def loss(self, batch: Batch, step: Step) -> Losses:
        projected = [self.compared(view) for view in self.views(batch, step).chunk(2)]
        predicted = [self.predictor(z) for z in projected]
        near = [self.neighbour(z) for z in projected]
        if self.training and torch.is_grad_enabled():  # looking on must not change what is learned
            self.seen.append(projected[0].detach())
        found = [in_batch_nce(n, p, self.temperature) for n, p in zip(near, reversed(predicted), strict=True)]
        return {"nnclr": torch.stack(found).mean()}

    def after_step(self, step: Step) -> None:
        for z in self.seen:
            self.queue.enqueue(z)
        self.seen.clear()

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"nnclr": log(batch_size)}
