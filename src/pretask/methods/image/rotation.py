"""Rotation prediction: turn a picture by a right angle, ask by which (Gidaris et al., ICLR 2018).

Set up as in google/revisiting-self-supervised: one augmented crop a picture, all four turns of it in the
batch, labels 0..3 counter-clockwise, 4-way cross-entropy. Its crops begin at 5 % of the picture and change
brightness and saturation alone; these are gentler in size and reach all colours.
"""

from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.image import ImageEncoder
from pretask.pretexts.rotation import all_rotations
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step

TURNS = ("0°", "90°", "180°", "270°")


class Rotation(PretextTask):
    """Predict which of four right angles a picture was turned by.

    Args:
        encoder: any image encoder.
        crop_scale: area of the random crop, as a share of the picture's.
        jitter: strength of the colour distortion; 0 leaves colours alone.
    """

    encoder: ImageEncoder
    logits_of = "head"  # the layer that names classes
    recipe = Recipe(
        "sgd", lr=0.1, batch_size=64, epochs=35, weight_decay=1e-4, warmup=5 / 35, schedule="steps",
        drops=(15 / 35, 25 / 35),
    )  # fmt: skip

    def __init__(
        self, encoder: ImageEncoder, crop_scale: tuple[float, float] = (0.25, 1.0), jitter: float = 0.4
    ):
        super().__init__(encoder)
        self.view = ViewSpec(
            encoder.image_size, scale=crop_scale, flip=0.5, jitter=0.8 if jitter else 0.0,
            brightness=jitter, contrast=jitter, saturation=jitter, hue=jitter / 4,
        )  # fmt: skip
        self.head = nn.Linear(encoder.dim, 4)

    def puzzle(
        self, batch: Batch, step: Step
    ) -> tuple[Float[Tensor, "4*batch chans side side"], Int[Tensor, "4*batch"]]:
        """All four turns of one crop of each picture, and the number of quarter turns."""
        image = require(batch, "image", 4)
        view = draw_view(self.view, len(image), step.generator, batch.get("size"))
        return all_rotations(apply_view(self.view, image, view))

    def loss(self, batch: Batch, step: Step) -> Losses:
        turned, turns = self.puzzle(batch, step)
        logits = self.head(self.encoder(turned).pooled)
        step.metrics["accuracy"] = (logits.argmax(1) == turns).float().mean()
        return {"rotation": F.cross_entropy(logits, turns)}

    def question(self, batch: Batch, step: Step) -> Question:
        turned, turns = self.puzzle(batch, step)
        return Question(turned, torch.arange(len(turned), device=turned.device) // 4, turns)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        turned, turns = self.puzzle(batch, step)
        answers = self.head(self.encoder(turned).pooled).argmax(1)
        panels = [
            [
                Panel("what it sees", picture),
                Panel(f"turned by {TURNS[truth]}", picture.rot90(-int(truth), (-2, -1)), "truth"),
                Panel(f"answer: {TURNS[answer]}", picture.rot90(-int(answer), (-2, -1)), "answer"),
            ]
            for picture, truth, answer in zip(turned, turns, answers, strict=True)
        ]
        return Sheet("Rotation prediction", "By which right angle was the picture turned?", panels)

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"rotation": log(4)}
