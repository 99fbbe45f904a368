"""Predict a hidden part of a picture from the rest (Predicting What You Already Know Helps, Lee et al., 2021).

The picture falls into X1, which is shown, and X2, which is asked for by regression: psi(x1) = E[X2 | x1]. Whether
that helps a labelled task, `pretask independence` estimates; `pretask study predict-what-you-know` says why.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.data.batch import require, to_float
from pretask.encoders.image import ImageEncoder
from pretask.pretexts.parts import only, part_mask
from pretask.pretexts.views import centre_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step


def dividing(side: int, cells: int) -> int:
    """The largest number of cells up to `cells` that divides the side; the side itself where none but 1 does."""
    return max((count for count in range(2, min(cells, side) + 1) if side % count == 0), default=side)


class PredictPart(PretextTask):
    """Regress one part of the picture on the rest, by squared error.

    Pictures are looked at whole, as the theory has it. The representation of the theory is the prediction, d2
    numbers; what is kept here is the encoder in front of it, as in the paper's experiments. (Recipe and encoder
    are ours: none are known.)

    Args:
        encoder: any image encoder; hidden pixels are shown to it as its mean colour.
        hidden: a half of the picture; its `centre` (half as wide and high), the `ring` around that; or every
            second of the `columns` of cells.
        cells: cells a side, of the whole picture, whose means are asked for.
    """

    encoder: ImageEncoder
    recipe = Recipe("adam", lr=1e-3, lr_batch=128, batch_size=128, epochs=100, weight_decay=0.0, warmup=0.0)
    mask: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        hidden: Literal["left", "right", "top", "bottom", "centre", "ring", "columns"] = "right",
        cells: int = 16,
    ):
        super().__init__(encoder)
        self.hidden = hidden
        self.cells = dividing(encoder.image_size, cells)
        mask = part_mask(hidden, self.cells, self.cells)
        self.register_buffer("mask", mask, persistent=False)
        self.head = nn.Linear(encoder.dim, self.num_answers(encoder.in_chans * int(mask.sum())))

    def num_answers(self, values: int) -> int:
        """How many numbers are asked, of a hidden part of so many."""
        return values

    def seen(self, batch: Batch) -> Float[Tensor, "batch chans side side"]:
        image = to_float(require(batch, "image", 4))
        return centre_view(image, batch.get("size"), self.encoder.image_size)

    def enlarged(self, cells: Tensor) -> Tensor:
        """A value of each cell at all of its pixels."""
        times = self.encoder.image_size // self.cells
        return cells.repeat_interleave(times, -2).repeat_interleave(times, -1)

    def shown(self, image: Float[Tensor, "batch chans side side"]) -> Float[Tensor, "batch chans side side"]:
        """X1 as a picture."""
        return torch.where(self.enlarged(self.mask), self.encoder.mean.to(image), image)

    def means(
        self, image: Float[Tensor, "batch chans side side"]
    ) -> Float[Tensor, "batch chans cells cells"]:
        """The normalised picture, cell by cell."""
        return F.adaptive_avg_pool2d(self.encoder.normalise(image), self.cells)

    def target(self, image: Float[Tensor, "batch chans side side"]) -> Float[Tensor, "batch answers"]:
        """X2."""
        return only(self.means(image), self.mask)

    def filled(
        self, image: Float[Tensor, "batch chans side side"], answer: Float[Tensor, "batch answers"]
    ) -> Float[Tensor, "batch chans side side"]:
        """The picture with what an answer says at the hidden places."""
        cells = self.means(image).clone()
        cells[:, :, self.mask] = self.part_of(answer).view(len(image), -1, int(self.mask.sum()))
        said = self.enlarged(cells) * self.encoder.std + self.encoder.mean
        return torch.where(self.enlarged(self.mask), said.clamp(0, 1), image)

    def part_of(self, answer: Float[Tensor, "batch answers"]) -> Float[Tensor, "batch values"]:
        """The hidden part that an answer speaks of."""
        return answer

    def loss(self, batch: Batch, step: Step) -> Losses:
        image = self.seen(batch)
        target = self.target(image)
        return {"regression": F.mse_loss(self.head(self.encoder(self.shown(image)).pooled), target)}

    def question(self, batch: Batch, step: Step) -> Question:
        image = self.seen(batch)
        target = self.target(image)
        return Question(self.shown(image), torch.arange(len(image), device=image.device), target)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        image = self.seen(batch)
        shown, target = self.shown(image), self.target(image)
        said = self.head(self.encoder(shown).pooled).to(target.dtype)
        rows = [
            [Panel("what it sees", a), Panel("predicted", b, "answer"), Panel("what is asked", c, "truth")]
            for a, b, c in zip(shown, self.filled(image, said), self.filled(image, target), strict=True)
        ]
        return Sheet("A hidden part", f"What is hidden ({self.hidden})?", rows)
