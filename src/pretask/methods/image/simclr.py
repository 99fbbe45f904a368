"""SimCLR: two views of a picture must find each other among those of the batch (Chen et al., ICML 2020)."""

from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.image import ImageEncoder
from pretask.objectives.contrastive import nt_xent
from pretask.pretexts.views import SMALL_IMAGE, View, apply_view, draw_view, simclr_views
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step


class SimCLR(PretextTask):
    """Contrast two views of each picture with all other views of the batch (NT-Xent, equation 1).

    The projector is the paper's g(h) = W2 ReLU(W1 h), batch-normalised after both layers as in the
    official code.

    Args:
        encoder: any image encoder.
        temperature: divides the similarities; none takes the paper's best, 0.1 for ImageNet and 0.5 for
            pictures of up to 64 pixels (CIFAR-10).
        hidden_dim: width of the projector's hidden layer; none takes the encoder's, as in the paper.
        projection_dim: width of what is contrasted.
        crop_scale: area of the random crops, as a share of the picture's.
    """

    encoder: ImageEncoder
    recipe = Recipe("lars", lr=0.3, batch_size=4096, epochs=100, weight_decay=1e-6, warmup=0.1)

    def __init__(
        self,
        encoder: ImageEncoder,
        temperature: float | None = None,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        crop_scale: tuple[float, float] = (0.08, 1.0),
    ):
        super().__init__(encoder)
        small = encoder.image_size <= SMALL_IMAGE
        self.temperature = temperature if temperature is not None else (0.5 if small else 0.1)
        self.view = simclr_views(encoder.image_size, crop_scale)
        hidden_dim = hidden_dim or encoder.dim
        self.projector = nn.Sequential(
            nn.Linear(encoder.dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, projection_dim, bias=False),
            nn.BatchNorm1d(projection_dim),
        )
        if hasattr(encoder, "patch_size"):  # transformers do not learn under LARS at small batches
            self.recipe = Recipe("adamw", lr=5e-4, batch_size=1024, epochs=100, weight_decay=0.05)

    def views(self, batch: Batch, step: Step) -> Float[Tensor, "2*batch chans h w"]:
        """The first views of all pictures, then the second ones."""
        image, size = require(batch, "image", 4), batch.get("size")
        drawn = [draw_view(self.view, len(image), step.generator, size) for _ in range(2)]
        return apply_view(self.view, image, View.joined(drawn))

    def project(self, views: Float[Tensor, "2*batch chans h w"]) -> Float[Tensor, "2*batch dim"]:
        """Both views in one forward pass: they share batch statistics, as in the official code."""
        return self.projector(self.encoder(views).pooled)

    def loss(self, batch: Batch, step: Step) -> Losses:
        first, second = self.project(self.views(batch, step)).chunk(2)
        return {"nt_xent": nt_xent(first, second, self.temperature)}

    def question(self, batch: Batch, step: Step) -> Question:
        views = self.views(batch, step)
        return Question(views, torch.arange(len(views), device=views.device) % (len(views) // 2))

    def preview(self, batch: Batch, step: Step) -> Sheet:
        views = self.views(batch, step)
        first, second = self.project(views).chunk(2)
        found = (F.normalize(first) @ F.normalize(second).T).argmax(1).tolist()
        first, second = views.chunk(2)
        rows = [
            [
                Panel("a view", first[row]),
                Panel("its partner", second[row], "truth"),
                Panel("answer: nearest second view", second[answer], "answer"),
            ]
            for row, answer in enumerate(found)
        ]
        return Sheet("SimCLR", "Which crop comes from the same picture?", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        """ln(2N - 1) for the N pictures of all processes together."""
        return {"nt_xent": log(2 * batch_size - 1)}
