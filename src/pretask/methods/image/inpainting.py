"""Context encoders: what was cut out of a picture? (Pathak et al., CVPR 2016)"""

from dataclasses import replace
from math import log
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pretask.data.batch import require
from pretask.encoders.image import ImageEncoder
from pretask.encoders.painter import Critic, Painter
from pretask.encoders.stride import places
from pretask.errors import UsageError
from pretask.methods.image.two_views import TRANSFORMER
from pretask.objectives.distributed import mean
from pretask.pretexts.regions import draw_shapes, grown, middle_square, shrunk
from pretask.pretexts.views import SMALL_IMAGE, ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, Player, PretextTask, Question, Sheet, Step


class Cut(NamedTuple):
    """A picture with a part cut out.

    Args:
        image: the whole picture, in [0, 1].
        seen: the same with the mean colour in place of the part.
        out: what is cut out.
        asked: what is to be painted: the part and its margin.
    """

    image: Float[Tensor, "batch chans side side"]
    seen: Float[Tensor, "batch chans side side"]
    out: Bool[Tensor, "batch side side"]
    asked: Bool[Tensor, "batch side side"]


class Inpainting(PretextTask):
    """Paint what was cut out, as it was (squared error) and so that a critic takes it for real.

    What is asked is a little larger than what is cut out; in this margin, which the network sees, errors count more,
    so that what it paints goes on from there. The cut-out part is filled with the mean colour. The critic is shown
    what is painted alone: of the middle square that square, of a random region all the network paints, which is a
    whole picture; it never sees the picture around it, for the seam would tell. Values are in [-1, 1].

    Args:
        encoder: any image encoder.
        region: what is cut out: a shape of no particular form (`random`), or the middle square (`middle`).
        share: of the picture's area that is asked (`middle`) or cut out (`random`).
        margin: pixels of the margin; none takes 7 of 224.
        margin_weight: of errors in it.
        adversarial_weight: of the critic's opinion; the error's weight is what is left of 1. 0 does without a critic.
        crop_scale: area of the random crop, as a share of the picture's.
    """

    encoder: ImageEncoder
    recipe = Recipe(
        "adam", lr=2e-3, lr_batch=0, batch_size=64, epochs=100, weight_decay=0.0, betas=(0.5, 0.999), warmup=0.0,
        schedule="constant",
    )  # fmt: skip

    def __init__(
        self,
        encoder: ImageEncoder,
        region: Literal["random", "middle"] = "random",
        share: float = 0.25,
        margin: int | None = None,
        margin_weight: float = 10.0,
        adversarial_weight: float = 1e-3,
        crop_scale: tuple[float, float] = (0.2, 1.0),
    ):
        super().__init__(encoder)
        side = encoder.image_size
        self.region, self.share, self.margin_weight = region, share, margin_weight
        self.margin = max(1, side // 32) if margin is None else margin
        if not 0 < round(side * share**0.5) - 2 * self.margin < side - 2 * self.margin:
            raise UsageError(
                f"share {share} of {side} pixels with a margin of {self.margin} leaves nothing to paint"
            )
        self.view = ViewSpec(side, crop_scale, flip=0.5)
        self.painter = Painter(encoder.dim, places(encoder), side, encoder.in_chans)
        if hasattr(encoder, "patch_size"):
            self.recipe = TRANSFORMER
        self.weights = {"reconstruction": 1 - adversarial_weight}
        if adversarial_weight:
            self.weights["adversarial"] = adversarial_weight
            shown = round(side * share**0.5) if region == "middle" else side
            self.critic = Critic(encoder.in_chans, shown, 32 if side <= SMALL_IMAGE else 64)
            own = replace(type(self).recipe, lr=2e-4)  # a tenth of the painter's
            self.players = {
                "painter": Player(("encoder.", "painter."), ("reconstruction", "adversarial"), self.recipe),
                "critic": Player(("critic.",), ("critic",), own),
            }

    def cut(self, batch: Batch, step: Step) -> Cut:
        """Crops with a part cut out."""
        image = require(batch, "image", 4)
        drawn = draw_view(self.view, len(image), step.generator, batch.get("size"))
        image = apply_view(self.view, image, drawn)
        count, side = len(image), self.view.size
        if self.region == "middle":
            asked = middle_square(side, self.share, count)
            out = shrunk(asked, self.margin)
        else:
            out = draw_shapes(side, self.share, count, step.generator)
            asked = grown(out, self.margin)
        out, asked = out.to(image.device), asked.to(image.device)
        self.encoder.normalise(image[:0])  # its error for a wrong number of channels, before the mean's
        seen = torch.where(out[:, None], self.encoder.mean.to(image.dtype), image)
        return Cut(image, seen, out, asked)

    def paint(self, cut: Cut) -> Float[Tensor, "batch chans side side"]:
        return self.painter(self.encoder(cut.seen).tokens)

    def loss(self, batch: Batch, step: Step) -> Losses:
        cut = self.cut(batch, step)
        made, truth = self.paint(cut), 2 * cut.image - 1
        weight = torch.where(cut.out, 1.0, self.margin_weight) * cut.asked
        error = ((made.to(truth.dtype) - truth).square() * weight[:, None]).sum()
        losses = {"reconstruction": error / mean(cut.asked.sum() * float(truth.shape[1]))}
        if "adversarial" in self.weights:
            fake, real = self.alone(made), self.alone(truth)
            losses["adversarial"] = verdict(self.critic(fake), True)
            losses["critic"] = verdict(self.critic(real), True) + verdict(self.critic(fake.detach()), False)
        return losses

    def alone(
        self, picture: Float[Tensor, "batch chans side side"]
    ) -> Float[Tensor, "batch chans part part"]:
        """What the critic sees of a picture: the part that is asked, or all where that has no form."""
        if self.region == "random":
            return picture
        edge = round(self.view.size * self.share**0.5)
        start = (self.view.size - edge) // 2
        return picture[:, :, start : start + edge, start : start + edge]

    def question(self, batch: Batch, step: Step) -> Question:
        """The mean colour of what was cut out."""
        cut = self.cut(batch, step)
        inside = cut.out[:, None].to(cut.image.dtype)
        colour = (cut.image * inside).sum((2, 3)) / inside.sum((2, 3))
        return Question(cut.seen, torch.arange(len(cut.image), device=cut.image.device), colour)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        cut = self.cut(batch, step)
        made = torch.where(cut.asked[:, None], (self.paint(cut).to(cut.image.dtype) + 1) / 2, cut.image)
        rows = [
            [Panel("what it sees", a), Panel("painted", b, "answer"), Panel("the picture", c, "truth")]
            for a, b, c in zip(cut.seen, made, cut.image, strict=True)
        ]
        return Sheet("Inpainting", "What was cut out?", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        """Of a critic that cannot tell."""
        return {"adversarial": log(2), "critic": 2 * log(2)} if "adversarial" in self.weights else {}


def verdict(logits: Float[Tensor, "batch"], real: bool) -> Float[Tensor, ""]:
    """Cross-entropy of a critic's opinion with the truth, or with what it is made to believe."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))
