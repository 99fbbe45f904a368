"""What pretexts are compared with: the same encoder, trained on the labels."""

from __future__ import annotations

import torch.nn.functional as F

from pretask.data.batch import require
from pretask.encoders.image import ImageEncoder
from pretask.methods.classifying import Classifying
from pretask.methods.image.two_views import TRANSFORMER
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Step


class Supervised(Classifying):
    """Name the class of a random crop.

    Args:
        encoder: any image encoder.
        crop_scale: area of the random crop, as a share of the picture's.
    """

    encoder: ImageEncoder
    recipe = Recipe("sgd", lr=0.1, batch_size=256, epochs=100, weight_decay=1e-4, warmup=0.05)

    def __init__(self, encoder: ImageEncoder, crop_scale: tuple[float, float] = (0.25, 1.0)):
        super().__init__(encoder)
        self.view = ViewSpec(encoder.image_size, crop_scale, flip=0.5)
        if hasattr(encoder, "patch_size"):
            self.recipe = TRANSFORMER

    def loss(self, batch: Batch, step: Step) -> Losses:
        self.check_prepared()
        image = require(batch, "image", 4)
        view = draw_view(self.view, len(image), step.generator, batch.get("size"))
        logits = self.classifier(self.encoder(apply_view(self.view, image, view)).pooled)
        step.metrics["accuracy"] = (logits.argmax(1) == batch["label"]).float().mean()
        return {"class": F.cross_entropy(logits, batch["label"])}
