"""Exemplar: copies of a picture belong together, however they were changed (Dosovitskiy et al., TPAMI 2016, as set up
by Kolesnikov et al., CVPR 2019)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.data.batch import require, to_float
from pretask.encoders.image import ImageEncoder
from pretask.methods.image.patch_puzzle import standardised
from pretask.methods.image.two_views import TRANSFORMER
from pretask.objectives.distributed import rank
from pretask.objectives.triplets import semi_hard_triplets
from pretask.pretexts import draw
from pretask.pretexts.views import View, ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step

BRIGHTER = 32 / 255  # added to or taken from all values of a copy, at most
SATURATION = 0.5  # its saturation is multiplied by 1 - 0.5 to 1 + 0.5
SPAN = 2  # the official code standardises pictures in [-1, 1]


class Exemplar(PretextTask):
    """Bring copies of one picture closer than those of any other, by triplets with semi-hard negatives.

    Copies are Inception's crops (TF-slim's `preprocess_image`, whose fast mode changes brightness and then saturation
    but neither contrast nor hue).

    Args:
        encoder: any image encoder.
        copies: of each picture.
        margin: between squared distances.
        embedding_dim: width of what is compared.
        normalise: embeddings have length 1 (`features`); the official code normalises over the `batch` instead.
        grey: probability that a picture is shown without colours, in all its copies.
        crop_scale: area of the random crops, as a share of the picture's.
    """

    encoder: ImageEncoder
    recipe = Recipe(
        "sgd", lr=0.1, batch_size=64, epochs=35, weight_decay=1e-4, warmup=5 / 35, schedule="steps",
        drops=(15 / 35, 25 / 35),
    )  # fmt: skip

    def __init__(
        self,
        encoder: ImageEncoder,
        copies: int = 8,
        margin: float = 0.5,
        embedding_dim: int = 1000,
        normalise: Literal["features", "batch"] = "features",
        grey: float = 0.66,
        crop_scale: tuple[float, float] = (0.05, 1.0),
    ):
        super().__init__(encoder)
        self.copies, self.margin, self.normalise, self.grey = copies, margin, normalise, grey
        self.view = ViewSpec(encoder.image_size, crop_scale, flip=0.5)
        self.embed = nn.Linear(encoder.dim, embedding_dim)
        if hasattr(encoder, "patch_size"):
            self.recipe = TRANSFORMER

    def shown(self, batch: Batch, step: Step) -> Float[Tensor, "copies*batch chans s s"]:
        """The first copies of all pictures, then the second ones, ..., in [0, 1]."""
        image, size = to_float(require(batch, "image", 4)), batch.get("size")
        drawn = [draw_view(self.view, len(image), step.generator, size) for _ in range(self.copies)]
        grey = draw.chance(len(image), self.grey, step.generator).to(image.device)
        image = torch.where(grey.view(-1, 1, 1, 1), image.mean(1, keepdim=True), image)
        views = apply_view(self.view, image, View.joined(drawn))
        change = 2 * draw.uniform((len(image), self.copies, 2), step.generator) - 1
        light, richer = change.to(views).transpose(0, 1).reshape(-1, 2, 1, 1, 1).unbind(1)
        return saturated(views + BRIGHTER * light, 1 + SATURATION * richer).clamp(0, 1)

    def embedded(self, views: Float[Tensor, "views chans s s"]) -> Float[Tensor, "views dim"]:
        self.encoder.normalise(views[:1])  # says so where the channels do not fit
        seen = self.encoder(standardised(views, SPAN) * self.encoder.std + self.encoder.mean)
        return F.normalize(self.embed(seen.pooled).float(), dim=1 if self.normalise == "features" else 0)

    def loss(self, batch: Batch, step: Step) -> Losses:
        views = self.shown(batch, step)
        count = len(views) // self.copies
        picture = torch.arange(count, device=views.device).repeat(self.copies) + rank() * count
        return {"triplets": semi_hard_triplets(self.embedded(views), picture, self.margin)}

    def question(self, batch: Batch, step: Step) -> Question:
        views = self.shown(batch, step)
        return Question(views, torch.arange(len(views), device=views.device) % (len(views) // self.copies))

    def preview(self, batch: Batch, step: Step) -> Sheet:
        views = self.shown(batch, step)
        first, second = (
            part[:2] for part in (views.chunk(self.copies), self.embedded(views).chunk(self.copies))
        )
        found = torch.cdist(second[0], second[1]).argmin(1).tolist()
        rows = [
            [Panel("a copy", first[0][n]), Panel("another of it", first[1][n], "truth"),
             Panel("answer: the nearest", first[1][answer], "answer")]
            for n, answer in enumerate(found)
        ]  # fmt: skip
        return Sheet("Exemplar", "Which copies are of the same picture?", rows)


def saturated(
    image: Float[Tensor, "views chans s s"], factor: Float[Tensor, "views 1 1 1"]
) -> Float[Tensor, "views chans s s"]:
    """HSV's saturation times a factor, at most 1, as TensorFlow does it: hue and the largest value stay."""
    if image.shape[1] != 3:
        return image
    value, least = image.amax(1, keepdim=True), image.amin(1, keepdim=True)
    saturation = torch.where(value > 0, (value - least) / value, 0.0)
    chroma = value * (factor * saturation).clamp(0, 1)
    return value - chroma * (value - image) / (value - least).clamp(min=1e-12)
