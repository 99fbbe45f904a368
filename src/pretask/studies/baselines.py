"""What pretexts are compared with: the same encoder, trained on the labels, as classes or as words."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretask.data.batch import require
from pretask.data.captioned import OPENINGS
from pretask.data.tokens import Ragged, learn_tokenizer
from pretask.encoders import Encoder, build_encoder
from pretask.encoders.image import ImageEncoder
from pretask.encoders.towers import PictureTowers
from pretask.errors import UsageError
from pretask.methods.classifying import Classifying
from pretask.methods.image.two_views import TRANSFORMER
from pretask.methods.multimodal.clip import CLIP
from pretask.pretexts import draw
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Step

MOST = 100  # classes that there are captions of


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


class Told(CLIP):
    """CLIP where nobody has written captions: of a picture its class is told, by a number, in one of six ways. That
    is learning from labels, in words.

    Args:
        encoder: of pictures.
        text: of captions.
    """

    numbers: Tensor
    attention: Tensor

    def __init__(
        self, encoder: ImageEncoder, text: str = "distilbert:dim=128,n_layers=2,n_heads=2,hidden_dim=256"
    ):
        captions = [
            " ".join([*opening.split(), str(number)]) for number in range(MOST) for opening in OPENINGS
        ]
        words = learn_tokenizer(captions, 2000)
        ids, lengths, _ = words.encode(captions, 16)
        tower = build_encoder(text, "text", tokenizer=words.text, max_length=16)
        super().__init__(
            PictureTowers({"image": encoder, "text": tower}, f"image={encoder.name};text={text}", {})
        )
        numbers, attention = Ragged(ids, lengths).gather(torch.arange(len(captions)), words.vocabulary.pad)
        self.register_buffer("numbers", numbers, persistent=False)
        self.register_buffer("attention", attention, persistent=False)

    @property
    def learned(self) -> Encoder:
        """The encoder of pictures."""
        return self.encoder.tower("image")

    def loss(self, batch: Batch, step: Step) -> Losses:
        if "label" not in batch or int(batch["label"].max()) >= MOST:
            raise UsageError(f"captions are made of labels, 0 to {MOST - 1}, and these data have no such")
        way = draw.integers(len(OPENINGS), (len(batch["label"]),), step.generator).to(batch["label"].device)
        row = batch["label"] * len(OPENINGS) + way
        return super().loss({**batch, "tokens": self.numbers[row], "attention": self.attention[row]}, step)


def supervised(encoder: Any) -> Supervised:
    """As an arm's method."""
    return Supervised(encoder)


def told(encoder: Any) -> Told:
    """As an arm's method."""
    return Told(encoder)
