"""CLIP: which caption belongs to which picture? (Radford et al., ICML 2021)"""

from math import log

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.towers import Towers
from pretask.objectives.contrastive import in_batch_nce, unit
from pretask.pretexts.text import read_text
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Sheet, Step

LARGEST = 100.0  # what similarities are multiplied by at most


class CLIP(PretextTask):
    """Each picture finds its caption among those of all processes' batches, and each caption its picture: the mean
    of both cross-entropies, on cosines times a factor that is learned.

    Decided here: a caption is read by its first token, which sees all others, and not by the last one of a network
    that reads from left to right. The paper's rate is for batches of 32,768 and is taken as it is for any other;
    beta2 and epsilon are those of its transformers. Untrained encoders see colours by CLIP's own mean and deviation.

    Args:
        encoder: of pictures and of text (`image=resnet18;text=distilbert`).
        temperature: what cosines are divided by at first; it learns, and stays above 0.01.
        crop_scale: area of the random crop, the only change of a picture, as a share of it.
    """

    encoder: Towers
    recipe = Recipe(
        "adamw",
        lr=5e-4,
        lr_batch=0,
        batch_size=32768,
        epochs=32,
        weight_decay=0.2,
        betas=(0.9, 0.98),
        eps=1e-6,
        warmup=0.005,
    )

    def __init__(
        self, encoder: Towers, temperature: float = 0.07, crop_scale: tuple[float, float] = (0.9, 1.0)
    ):
        super().__init__(encoder)
        encoder.tower("text")
        self.view = ViewSpec(encoder.tower("image").image_size, crop_scale, interpolation="bicubic")
        self.log_scale = nn.Parameter(torch.tensor(log(1 / temperature)))

    def crop(self, batch: Batch, step: Step) -> Float[Tensor, "batch chans h w"]:
        image = require(batch, "image", 4)
        return apply_view(
            self.view, image, draw_view(self.view, len(image), step.generator, batch.get("size"))
        )

    def pictures(self, view: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch shared"]:
        return self.encoder.shared("image", self.encoder.tower("image")(view).pooled)

    def captions(self, batch: Batch) -> Float[Tensor, "batch shared"]:
        read_text(batch)  # one caption each, or it is explained
        return self.encoder.embed(batch, "text")

    def loss(self, batch: Batch, step: Step) -> Losses:
        seen, told = self.pictures(self.crop(batch, step)), self.captions(batch)
        temperature = (-self.log_scale).exp()
        ways = [in_batch_nce(a, b, temperature) for a, b in ((seen, told), (told, seen))]
        step.metrics["temperature"] = temperature.detach()
        return {"clip": torch.stack(ways).mean()}

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        self.log_scale.clamp_(0, log(LARGEST))

    def preview(self, batch: Batch, step: Step) -> Sheet:
        view, spell = self.crop(batch, step), self.encoder.tower("text").tokenizer
        likeness = unit(self.pictures(view)) @ unit(self.captions(batch)).T
        said = [spell.decode(text) for text in read_text(batch).tokens]
        rows = [
            [
                Panel("a picture", view[row]),
                Panel("its caption", said[row], "truth", "text"),
                Panel("answer: the caption", said[caption], "answer", "text"),
                Panel("answer: a picture for the caption", view[picture], "answer"),
            ]
            for row, (caption, picture) in enumerate(
                zip(likeness.argmax(1).tolist(), likeness.argmax(0).tolist(), strict=True)
            )
        ]
        return Sheet("CLIP", "Which caption belongs to which picture?", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"clip": log(batch_size)}
