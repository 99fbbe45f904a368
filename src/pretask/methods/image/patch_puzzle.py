"""What jigsaw and relative location share: nine patches of a picture, each encoded by itself, and a head over some of
them in some order (Kolesnikov, Zhai, Beyer, CVPR 2019)."""

from __future__ import annotations

from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.heads import dropped
from pretask.encoders.image import ImageEncoder
from pretask.encoders.stride import patch_geometry, stride
from pretask.methods.image.two_views import TRANSFORMER
from pretask.pretexts import draw
from pretask.pretexts.patches import SIDE, cut, draw_jitter, patch_corners
from pretask.pretexts.permutation import from_tiles
from pretask.pretexts.views import SMALL_IMAGE, ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, PretextTask, Question, Step

RESIZED, CROPPED = 292, 255  # sides of the squashed picture and of the crop that is cut into patches
BYTES = 255  # the official code standardises patches of such values
PATCHES = SIDE**2
MOMENTUM = 0.003  # of the head's batch normalisation: what is new of its running statistics in a step


class PatchPuzzle(PretextTask):
    """Patches with gaps between them, without their brightness and contrast, at times without colour.

    The head's weights decay by 5e-4, those of the encoder and of the embedding by 1e-4. Each fall of the rate comes
    one step later in the official code.

    Args:
        encoder: any image encoder.
        orders: which patches the head is shown, one order an answer.
        embedding_dim: width of a patch's embedding.
        hidden_dim: width of the head; none takes 4096, 512 for pictures of at most 64 pixels.
        grey: probability that a picture is shown without colours.
        dropout: share of the head's hidden values that are dropped.
    """

    encoder: ImageEncoder
    orders: Tensor
    logits_of = "head"  # the layer that names classes
    recipe = Recipe(
        "sgd", lr=0.1, batch_size=128, epochs=35, weight_decay=1e-4, warmup=5 / 35, schedule="steps",
        drops=(15 / 35, 25 / 35), decays=(("hidden.", 5e-4), ("head.", 5e-4)),
    )  # fmt: skip

    def __init__(
        self,
        encoder: ImageEncoder,
        orders: Int[Tensor, "answers shown"],
        embedding_dim: int,
        hidden_dim: int | None,
        grey: float,
        dropout: float,
    ):
        super().__init__(encoder)
        self.crop, self.cell, self.patch = patch_geometry(encoder)
        self.shown = max(self.patch, stride(encoder))
        self.whole = round(self.crop * RESIZED / CROPPED)
        area = (self.crop / self.whole) ** 2
        self.view = ViewSpec(self.crop, (area, area), ratio=(1.0, 1.0))
        self.grey, self.dropout = grey, dropout
        self.register_buffer("orders", orders, persistent=False)
        hidden = hidden_dim or (512 if encoder.image_size <= SMALL_IMAGE else 4096)
        self.embed = nn.Linear(encoder.dim, embedding_dim)
        norm = nn.BatchNorm1d(hidden, momentum=MOMENTUM)
        self.hidden = nn.Sequential(nn.Linear(orders.shape[1] * embedding_dim, hidden), norm, nn.ReLU())
        self.head = nn.Linear(hidden, len(orders))
        for layer, bias in ((self.hidden[0], 0.1), (self.head, 0.0)):
            nn.init.trunc_normal_(layer.weight, std=0.005, a=-0.01, b=0.01)  # type: ignore[arg-type]
            nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]
        if hasattr(encoder, "patch_size"):
            self.recipe = TRANSFORMER

    def patches(self, batch: Batch, step: Step) -> Float[Tensor, "batch 9 chans patch patch"]:
        """Row by row, each from a random place in its cell, in [0, 1]; when it is only looked at, the middle of the
        middle crop. Pictures are squashed to squares."""
        image = require(batch, "image", 4)
        squashed = torch.full((len(image), 2), self.whole)
        view = draw_view(self.view, len(image), step.generator, squashed)
        grey = draw.chance(len(image), self.grey, step.generator).to(image.device)
        free = self.cell - self.patch
        # places of a patch: unlike VISSL's this code draws the last one too
        places = draw_jitter(len(image), SIDE, free + 1, step.generator)
        if not self.training:
            start = (self.whole - self.crop) // 2
            corners = view.box.new_tensor([start, start, start + self.crop, start + self.crop])
            view = view._replace(box=(corners / self.whole).expand_as(view.box))
            places = torch.full_like(places, free // 2)
        image = apply_view(self.view, image, view)
        image = torch.where(grey.view(-1, 1, 1, 1), image.mean(1, keepdim=True), image)
        return cut(image, patch_corners(places, self.cell, "rows"), self.patch)

    def embedded(self, patches: Float[Tensor, "batch 9 chans patch patch"]) -> Float[Tensor, "batch 9 dim"]:
        """Every patch encoded once, standardised."""
        flat = patches.flatten(0, 1)
        self.encoder.normalise(flat[:1])  # says so where the channels do not fit
        flat = standardised(flat, BYTES)
        if self.shown != self.patch:
            flat = F.interpolate(flat, (self.shown, self.shown), mode="bilinear", align_corners=False)
        seen = self.encoder(flat * self.encoder.std + self.encoder.mean)  # which the encoder takes away again
        return self.embed(seen.pooled).unflatten(0, patches.shape[:2])

    def answers(
        self, embedded: Float[Tensor, "batch 9 dim"], orders: Int[Tensor, "asked shown"], step: Step
    ) -> Float[Tensor, "batch*asked answers"]:
        """Logits for each picture in each of these orders."""
        shown = embedded[:, orders].flatten(2)
        hidden = self.hidden(shown.flatten(0, 1))
        if self.training and self.dropout:
            of_each = hidden.unflatten(0, shown.shape[:2])
            hidden = dropped(of_each, self.dropout, step.generator).flatten(0, 1)
        return self.head(hidden)

    def asked(self, step: Step) -> Int[Tensor, "asked"]:
        """The numbers of the orders that every picture of the batch is shown in."""
        return torch.arange(len(self.orders), device=self.orders.device)

    def loss(self, batch: Batch, step: Step) -> Losses:
        patches, asked = self.patches(batch, step), self.asked(step)
        logits = self.answers(self.embedded(patches), self.orders[asked], step)
        truth = asked.repeat(len(patches))
        step.metrics["accuracy"] = (logits.argmax(1) == truth).float().mean()
        return {"order": F.cross_entropy(logits, truth)}

    def question(self, batch: Batch, step: Step) -> Question:
        """Each picture's patches in one order; which?"""
        patches = self.patches(batch, step)
        number = draw.integers(len(self.orders), (len(patches),), step.generator).to(patches.device)
        order, sample = self.orders[number], torch.arange(len(patches), device=patches.device)
        shown = patches[sample[:, None], order]
        columns = SIDE if shown.shape[1] == PATCHES else shown.shape[1]
        return Question(from_tiles(shown, shown.shape[1] // columns, columns), sample, number)

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"order": log(len(self.orders))}


def standardised(image: Float[Tensor, "n chans h w"], span: float) -> Float[Tensor, "n chans h w"]:
    """Each picture (x - mean) / max(std, 1 / sqrt(values)), as TensorFlow does it.

    Args:
        image: in [0, 1].
        span: from the darkest to the brightest of the pictures that the bound is meant for.
    """
    mean, std = image.mean((1, 2, 3), keepdim=True), image.std((1, 2, 3), correction=0, keepdim=True)
    return (image - mean) / std.clamp(min=image[0].numel() ** -0.5 / span)
