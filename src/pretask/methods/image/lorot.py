"""LoRot: beside its class a picture is asked how a part of it was turned (Moon, Kim, Heo, ECCV 2022).

The class is asked of the same, partly turned picture; one forward pass serves both heads.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data.batch import require, to_float
from pretask.encoders.image import ImageEncoder
from pretask.errors import UsageError
from pretask.methods.classifying import Classifying
from pretask.objectives.distributed import gather
from pretask.objectives.long_tail import NormedLinear, effective_weights, focal, ldam
from pretask.pretexts import draw
from pretask.pretexts.local_rotation import draw_square, turn_quadrants, turn_square
from pretask.pretexts.shift import apply_shift, draw_shift
from pretask.pretexts.views import SMALL_IMAGE, ViewSpec, apply_view, centre_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, Question, Sheet, Step


class LoRot(Classifying):
    """Learn classes, and by how many right angles a square of each picture was turned.

    Args:
        encoder: any image encoder.
        where: `implicit` turns a square anywhere, the same for a batch, and asks for the turn (4 answers);
            `explicit` turns one quadrant of each picture and asks for both (16 answers, of which 4 look alike).
        rotation_weight: of that question beside the classes.
        crop_scale: area of the random crop, as a share of the picture's; none takes 0.6 to 1, and moves pictures
            of at most 64 pixels by up to an eighth of their side instead (the official code: 4 of 32).
        class_loss: of the classes: cross-entropy (`ce`), `focal`, or `ldam`, with which both heads give cosines; the
            turn is always asked by plain cross-entropy, of cosines as they are. Data with a long tail want the last
            two, and a rotation_weight of 0.1.
        reweight_from: share of the run from which rare classes weigh more in `focal` and `ldam` (DRW; the paper's
            160 of 200 epochs are 0.8); none: never.
    """

    encoder: ImageEncoder
    count: Int[Tensor, "classes"]
    recipe = Recipe(
        "adam", lr=1e-3, lr_batch=0, batch_size=64, epochs=100, weight_decay=0.0, betas=(0.5, 0.999), warmup=0.0,
        schedule="steps", drops=(0.5,),
    )  # fmt: skip

    def __init__(
        self,
        encoder: ImageEncoder,
        where: Literal["implicit", "explicit"] = "implicit",
        rotation_weight: float = 0.5,
        crop_scale: tuple[float, float] | None = None,
        class_loss: Literal["ce", "focal", "ldam"] = "ce",
        reweight_from: float | None = None,
    ):
        super().__init__(encoder)
        if class_loss == "ce" and reweight_from is not None:
            raise UsageError(
                "reweight_from needs class_loss=focal or ldam: cross-entropy weighs all classes alike"
            )
        self.class_loss, self.reweight_from = class_loss, reweight_from
        self.where, self.answers = where, 4 if where == "implicit" else 16
        self.weights = {"classes": 1.0, "rotation": rotation_weight}
        small = encoder.image_size <= SMALL_IMAGE and crop_scale is None
        self.border = max(1, round(encoder.image_size / 8)) if small else 0
        self.view = ViewSpec(encoder.image_size, crop_scale or (0.6, 1.0), flip=0.5)
        self.head = self.layer(self.answers)
        if hasattr(encoder, "patch_size"):
            self.recipe = replace(self.recipe, optimizer="adamw", betas=(0.9, 0.999), weight_decay=0.05)

    def layer(self, answers: int) -> nn.Module:
        """A head with so many answers."""
        return (NormedLinear if self.class_loss == "ldam" else nn.Linear)(self.encoder.dim, answers)

    def make_classifier(self, classes: int) -> None:
        """The head of the classes, and where their loss asks for it how many pictures each has."""
        device = next(self.encoder.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.classifier_seed)
            self.classifier = self.layer(classes).to(device)  # type: ignore[assignment]
        if self.class_loss != "ce":
            self.register_buffer("count", torch.zeros(classes, dtype=torch.long, device=device))

    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        """Count the classes and the pictures of each.

        Raises:
            UsageError: the data have no labels.
        """
        seen: list[Tensor] = []

        def noted() -> Iterable[Batch]:
            for batch in batches:
                seen.extend(batch[key] for key in ("label",) if key in batch)
                yield {key: batch[key] for key in ("label",) if key in batch}

        super().prepare(noted(), num_samples)
        if seen and self.class_loss != "ce":
            label = gather(torch.cat(seen).to(self.count.device))
            self.count.copy_(torch.bincount(label, minlength=len(self.count)))

    def class_error(
        self, logits: Float[Tensor, "batch classes"], label: Int[Tensor, "batch"], step: Step
    ) -> Float[Tensor, ""]:
        if self.class_loss == "ce":
            return F.cross_entropy(logits, label)
        late = self.reweight_from is not None and step.progress >= self.reweight_from
        weight = effective_weights(self.count) if late else None
        if self.class_loss == "focal":
            return focal(logits, label, weight)
        return ldam(logits, label, self.count, weight)

    def puzzle(
        self, batch: Batch, step: Step
    ) -> tuple[Float[Tensor, "batch chans s s"], Float[Tensor, "batch chans s s"], Int[Tensor, "batch"]]:
        """Partly turned pictures, the same pictures as they were, and the answers: turns, or 4 quadrant + turns."""
        image = self.augmented(batch, step)
        turns = draw.integers(4, (len(image),), step.generator).to(image.device)
        if self.where == "implicit":
            square = draw_square(image.shape[-1], step.generator)
            return turn_square(image, square, turns), image, turns
        quadrant = draw.integers(4, (len(image),), step.generator).to(image.device)
        return turn_quadrants(image, quadrant, turns), image, 4 * quadrant + turns

    def augmented(self, batch: Batch, step: Step) -> Float[Tensor, "batch chans s s"]:
        """Moved and mirrored pictures, or random crops."""
        image = require(batch, "image", 4)
        if self.border:
            image = centre_view(to_float(image), batch.get("size"), self.view.size)
            return apply_shift(image, draw_shift(len(image), self.border, step.generator), self.border)
        view = draw_view(self.view, len(image), step.generator, batch.get("size"))
        return apply_view(self.view, image, view)

    def loss(self, batch: Batch, step: Step) -> Losses:
        self.check_prepared()
        turned, _, answer = self.puzzle(batch, step)
        seen = self.encoder(turned).pooled
        logits, told = self.classifier(seen), self.head(seen)
        label = require(batch, "label", 1)
        step.metrics["accuracy"] = (logits.argmax(1) == label).float().mean()
        step.metrics["rotation_accuracy"] = (told.argmax(1) == answer).float().mean()
        return {"classes": self.class_error(logits, label, step), "rotation": F.cross_entropy(told, answer)}

    def question(self, batch: Batch, step: Step) -> Question:
        turned, _, answer = self.puzzle(batch, step)
        return Question(turned, torch.arange(len(turned), device=turned.device), answer)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        turned, image, answer = self.puzzle(batch, step)
        told = self.head(self.encoder(turned).pooled).argmax(1)
        corner = ("top left ", "top right ", "bottom left ", "bottom right ")

        def words(code: int) -> str:
            return (corner[code // 4] if self.where == "explicit" else "") + f"by {90 * (code % 4)}°"

        rows = [
            [
                Panel("what it sees", a),
                Panel(f"answer: {words(int(said))}", a, "answer"),
                Panel(f"turned {words(int(true))}", b, "truth"),
            ]
            for a, b, said, true in zip(turned, image, told, answer, strict=True)
        ]
        return Sheet("LoRot", "Of which class is it, and how was a part of it turned?", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        known = {"rotation": log(self.answers)}
        return known | ({"classes": log(len(self.classifier.weight))} if hasattr(self, "classifier") else {})
