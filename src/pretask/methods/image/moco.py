"""MoCo v2: find a view's partner among a queue of keys from a slow copy of the network (Chen et al., 2020).

Its batch normalisation is not shuffled: over one process that changes nothing, and over several the trainer's
statistics are those of all.
"""

from math import log

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.encoders.ema import follow
from pretask.encoders.heads import mlp
from pretask.encoders.image import ImageEncoder
from pretask.methods.image.two_views import Target, TwoViews, moco_view
from pretask.objectives.contrastive import info_nce
from pretask.objectives.memory import Queue
from pretask.pretexts.views import SMALL_IMAGE
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Step


class MoCo(TwoViews):
    """Contrast a view with its partner and with the queue of the last batches' keys.

    The paper shuffles keys among devices: each normalises its own small batch, which would tell a key from those that
    were not beside its query. Here all processes share the statistics of the whole batch.

    Args:
        encoder: any image encoder.
        queue: keys kept; none takes 65536, 4096 for pictures of at most 64 pixels.
        momentum: of the key network; none takes 0.999, 0.99 for small pictures.
        temperature: divides the similarities.
        hidden_dim: width of the projector's hidden layer; none takes the encoder's.
        projection_dim: width of what is contrasted.
        crop_scale: area of the random crops, as a share of the picture's.
    """

    title = "MoCo v2"
    recipe = Recipe(
        "sgd", lr=0.03, batch_size=256, epochs=800, weight_decay=1e-4, decay_vectors=True, warmup=0.0
    )

    def __init__(
        self,
        encoder: ImageEncoder,
        queue: int | None = None,
        momentum: float | None = None,
        temperature: float = 0.2,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        crop_scale: tuple[float, float] = (0.2, 1.0),
    ):
        super().__init__(encoder, moco_view(encoder, crop_scale))
        small = encoder.image_size <= SMALL_IMAGE
        self.temperature = temperature
        self.momentum = (0.99 if small else 0.999) if momentum is None else momentum
        self.projector = mlp(encoder.dim, hidden_dim or encoder.dim, projection_dim)
        self.target = Target(encoder, self.projector)
        self.queue = Queue(queue or (4096 if small else 65536), projection_dim)
        self.keys: list[Tensor] = []

    def compared(self, views: Float[Tensor, "2*batch chans h w"]) -> Float[Tensor, "2*batch dim"]:
        return self.projector(self.encoder(views).pooled)

    def loss(self, batch: Batch, step: Step) -> Losses:
        first, second = self.views(batch, step).chunk(2)
        with torch.no_grad():
            key = self.target(second)
        if self.training and torch.is_grad_enabled():  # looking on must not change what is learned
            self.keys.append(key)
        return {"info_nce": info_nce(self.compared(first), key, self.queue.rows, self.temperature)}

    def after_step(self, step: Step) -> None:
        for key in self.keys:
            self.queue.enqueue(key)
        self.keys.clear()
        follow(self.target, self, self.momentum)

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"info_nce": log(1 + len(self.queue.rows))}
