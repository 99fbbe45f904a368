"""Instance discrimination: every picture is a class of its own (Wu et al., CVPR 2018; also called NPID)."""

from collections.abc import Iterable
from math import log
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.data.batch import require
from pretask.encoders.heads import mlp
from pretask.encoders.image import ImageEncoder
from pretask.errors import UsageError
from pretask.methods.image.two_views import TwoViews
from pretask.objectives.contrastive import bank_nce, log_sum_exp, unit
from pretask.objectives.memory import MemoryBank, Partition
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Step

MANY = 100_000  # pictures from which on nce is the default


class InstDisc(TwoViews):
    """Find a crop's own row in a memory that holds a row for every picture.

    One crop of each picture a step; the row it is compared with is what earlier crops of it left there. The paper's
    rate falls to a tenth twice; here it falls like a cosine. The proximal term (equation 10) is not in the official
    code: it is off.

    Args:
        encoder: any image encoder.
        loss: `softmax` over the whole memory (equation 2), or `nce` with rows drawn from it (equation 7); none takes
            nce from 100,000 pictures on, as the official code does for ImageNet and not for CIFAR-10.
        temperature: divides the similarities; none takes 0.07 for nce and 0.1 for softmax.
        num_negatives: rows drawn for nce, uniformly from all and with replacement.
        projection_dim: width of a row.
        memory_momentum: share of the old row that an update keeps.
        proximal_weight: of the squared distance between a crop's vector and its row, lambda.
        crop_scale: area of the random crop, as a share of the picture's.
    """

    title = "Instance discrimination"
    recipe = Recipe(
        "sgd", lr=0.03, batch_size=256, epochs=200, weight_decay=1e-4, decay_vectors=True, warmup=0.0
    )

    def __init__(
        self,
        encoder: ImageEncoder,
        loss: Literal["nce", "softmax"] | None = None,
        temperature: float | None = None,
        num_negatives: int = 4096,
        projection_dim: int = 128,
        memory_momentum: float = 0.5,
        proximal_weight: float = 0.0,
        crop_scale: tuple[float, float] = (0.2, 1.0),
    ):
        view = ViewSpec(
            encoder.image_size, crop_scale, flip=0.5, jitter=1.0, brightness=0.4, contrast=0.4, saturation=0.4,
            hue=0.4, grey=0.2,
        )  # fmt: skip
        super().__init__(encoder, view)
        self.form, self.num_negatives = loss, num_negatives
        self.temperature = temperature or 0.0  # what is left open here, `prepare` decides
        self.projection_dim, self.memory_momentum = projection_dim, memory_momentum
        if proximal_weight:
            self.weights["proximal"] = proximal_weight
        self.head = mlp(encoder.dim, projection_dim)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        if not num_samples or num_samples < 2:
            raise UsageError(
                "instdisc remembers every picture: it needs a known number of them, two at least"
            )
        device = next(self.parameters()).device
        self.bank = MemoryBank(num_samples, self.projection_dim, self.memory_momentum).to(device)
        self.partition = Partition(num_samples).to(device)
        self.form = self.form or ("nce" if num_samples >= MANY else "softmax")
        self.temperature = self.temperature or (0.07 if self.form == "nce" else 0.1)

    def compared(self, views: Float[Tensor, "views chans h w"]) -> Float[Tensor, "views dim"]:
        return unit(self.head(self.encoder(views).pooled))

    def loss(self, batch: Batch, step: Step) -> Losses:
        image, index = require(batch, "image", 4), require(batch, "index", 1)
        if not hasattr(self, "bank"):
            raise UsageError(
                "call prepare(batches, num_samples) first: instdisc's memory has a row a picture"
            )
        drawn = draw_view(self.first, len(image), step.generator, batch.get("size"))
        v = self.compared(apply_view(self.first, image, drawn))
        losses = {"instance": self.nce(v, index, step) if self.form == "nce" else self.softmax(v, index)}
        if "proximal" in self.weights:
            losses["proximal"] = (v - self.bank.rows[index].to(v.dtype)).square().sum(1).mean()
        if self.training and torch.is_grad_enabled():  # looking on must not change what is learned
            self.seen.append((index, v.detach()))
        return losses

    def nce(
        self, v: Float[Tensor, "batch dim"], index: Int[Tensor, "batch"], step: Step
    ) -> Float[Tensor, ""]:
        """Is a row the crop's own, or one of those drawn?"""
        scores = self.bank.scores(v, self.bank.draw(index, self.num_negatives, step.generator))
        return bank_nce(self.partition((scores / self.temperature).exp()), len(self.bank.rows))

    def softmax(self, v: Float[Tensor, "batch dim"], index: Int[Tensor, "batch"]) -> Float[Tensor, ""]:
        """Which of all rows is the crop's own?"""
        rows = self.bank.rows.to(v.dtype)
        return log_sum_exp(v / self.temperature, rows) - (v * rows[index]).sum(1).mean() / self.temperature

    def after_step(self, step: Step) -> None:
        for index, v in self.seen:
            self.bank.update(index, v)
        self.seen.clear()

    def chance(self, batch_size: int) -> dict[str, float]:
        """ln N; for nce with all rows equally likely ln(1 + K) and K ways to be wrong."""
        if not hasattr(self, "bank"):
            return {}  # `prepare` has not been told yet how many pictures there are
        k, n = self.num_negatives, len(self.bank.rows)
        return {"instance": log(n) if self.form == "softmax" else log(1 + k) + k * log(1 + 1 / k)}
