"""P2 weighting: take the noise out of a picture, above all where content must be guessed (Choi et al., 2022).

A picture is hidden under noise of a random level; a U-Net guesses the noise; the squared error of a level
counts 1 / (k + SNR)^gamma. The variances of the steps back learn from the variational bound, unweighted.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.data.batch import require
from pretask.encoders.denoiser import Denoiser
from pretask.encoders.ema import follow, teacher_of
from pretask.encoders.image import ImageEncoder
from pretask.encoders.sampling import reverse
from pretask.errors import UsageError
from pretask.objectives.diffusion import WEIGHTS, band_shares, noise_error, p2_weight, variance_bound
from pretask.pretexts import draw
from pretask.pretexts.diffusion import diffuse, strided_levels, undiffuse
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Sheet, Step

SHOWN = {"little noise": 10.0, "noise": 0.5, "hardly more than noise": 0.02}
"""Signal-to-noise ratios of the preview, one of each of `pretexts.diffusion.BANDS`."""

STEPS = 10  # with which the preview draws a picture


class P2Weighting(PretextTask):
    """Guess the noise in a picture, weighing its level by how much content must be guessed there.

    The picture is the middle square, mirrored at random. An average of the weights follows the network and
    draws and answers in its place; with the run's last step the network takes it over, so that what is
    kept and judged is the average, as in the paper.

    Args:
        encoder: a denoiser (`unet:...`); its noise schedule and whether it learns variances belong to it.
        weighting: of the levels: `p2`, `min-snr`, `truncated-snr` or `vlb` (the variational bound's own).
        gamma: how strongly `p2` prefers noisy levels (paper 0.5 or 1); 0 weighs all alike, the baseline.
        k: where it begins to: keeps levels with almost no noise from being ignored altogether.
        rescale: divide the weights by their mean over levels, so that gradients stay as large.
        ema: decay of the average.
        ema_warmup: let the decay be (1 + steps) / (10 + steps) at most, which reaches 0.9999 after 90,000 steps. The
            official code takes the whole decay from the first step on: after 2,000 steps four fifths of such an
            average are still the weights that the run began with.
    """

    encoder: Denoiser
    weight: Float[Tensor, "levels"]
    recipe = Recipe(
        "adamw", lr=2e-5, lr_batch=8, batch_size=8, epochs=230, weight_decay=0.0, betas=(0.9, 0.999),
        warmup=0.0, schedule="constant",
    )  # fmt: skip

    def __init__(
        self,
        encoder: ImageEncoder,
        weighting: Literal["p2", "min-snr", "truncated-snr", "vlb"] = "p2",
        gamma: float = 1.0,
        k: float = 1.0,
        rescale: bool = False,
        ema: float = 0.9999,
        ema_warmup: bool = True,
    ):
        super().__init__(encoder)
        if not isinstance(encoder, Denoiser):
            raise UsageError("p2-weighting trains a denoiser: take the encoder 'unet'")
        if gamma < 0 or k <= 0:
            raise UsageError(f"gamma must not be negative and k must be positive, not {gamma:g} and {k:g}")
        schedule = encoder.schedule
        weight = p2_weight(schedule, k, gamma) if weighting == "p2" else WEIGHTS[weighting](schedule)
        self.register_buffer("weight", weight / weight.mean() if rescale else weight, persistent=False)
        self.ema, self.ema_warmup = ema, ema_warmup
        self.average = teacher_of(encoder)
        side = encoder.image_size  # a box of the whole area never fits but a square: the middle one is taken
        self.view = ViewSpec(side, (1.0, 1.0), (1.0, 1.0), flip=0.5, interpolation="bicubic")

    def clean(self, batch: Batch, step: Step) -> Float[Tensor, "batch chans h w"]:
        """Pictures in [-1, 1]."""
        image = require(batch, "image", 4)
        view = draw_view(self.view, len(image), step.generator, batch.get("size"))
        return self.encoder.normalise(apply_view(self.view, image, view))

    def loss(self, batch: Batch, step: Step) -> Losses:
        clean, schedule = self.clean(batch, step), self.encoder.schedule
        level = draw.integers(len(self.weight), (len(clean),), step.generator).to(clean.device)
        noise = draw.normal(tuple(clean.shape), step.generator).to(clean)
        noisy = diffuse(schedule, clean, noise, level)
        guess, between = self.encoder.predict(noisy, level)
        error = noise_error(guess, noise)
        step.metrics["error"] = error.detach().mean()
        losses = {"noise": (self.weight[level] * error).mean()}
        if between is not None:
            losses["variance"] = variance_bound(schedule, guess, between, clean, noisy, level).mean()
        return losses

    def after_step(self, step: Step) -> None:
        most = (1 + step.index) / (10 + step.index) if self.ema_warmup else 1.0
        follow(self.average, self.encoder, min(self.ema, most))
        if step.index + 1 == step.total:
            self.encoder.load_state_dict(self.average.state_dict())

    def preview(self, batch: Batch, step: Step) -> Sheet:
        clean, schedule = self.clean(batch, step), self.encoder.schedule
        noise = draw.normal(tuple(clean.shape), step.generator).to(clean)
        columns = [[Panel("the picture", picture, "truth") for picture in seen(clean)]]
        for caption, snr in SHOWN.items():
            nearest = int((schedule.snr.log() - torch.tensor(snr).log()).abs().argmin())
            level: Int[Tensor, "batch"] = torch.full((len(clean),), nearest, device=clean.device)
            noisy = diffuse(schedule, clean, noise, level)
            answer = undiffuse(schedule, noisy, self.average.predict(noisy, level)[0], level)
            columns.append([Panel(caption, picture) for picture in seen(noisy)])
            columns.append([Panel("without it", picture, "answer") for picture in seen(answer)])
        levels = strided_levels(len(self.weight), STEPS)
        drawn = reverse(self.average.predict, self.encoder.betas, noise, levels, step.generator)
        columns.append([Panel("drawn from noise", picture, "answer") for picture in seen(drawn)])
        shares = band_shares(self.weight, schedule.snr)
        note = "What is under the noise? Of what counts, " + ", ".join(
            f"{share:.0%} is {name}" for name, share in shares.items()
        )
        return Sheet("P2 weighting", note, [list(row) for row in zip(*columns, strict=True)])

    def chance(self, batch_size: int) -> dict[str, float]:
        """Guessing no noise at all misses its variance, 1, at every level."""
        return {"noise": float(self.weight.mean())}


def seen(picture: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch chans h w"]:
    """From [-1, 1] to [0, 1]."""
    return (picture.float() / 2 + 0.5).clamp(0, 1)
