"""ColorMAE: a masked autoencoder whose masks are cut from coloured noise (Hinojosa et al., ECCV 2024).

Only the mask differs from MAE's: the patches where filtered noise is strongest are visible. The released
patterns are not used, new ones are filtered with widths of our choice (`pretexts.noise`, which also measures masks:
`ring_power` and `pieces`; how often each place is visible is their mean). The recipe is that of mmpretrain's MAE,
whose class and mask token do not decay.
"""

from dataclasses import replace
from itertools import pairwise
from math import inf
from typing import Literal

from jaxtyping import Bool
from torch import Tensor

from pretask.encoders.image import PatchEncoder
from pretask.errors import UsageError
from pretask.methods.image.mae import MAE
from pretask.pretexts.masks import hide_coloured
from pretask.pretexts.noise import COLOURS
from pretask.recipe import Recipe
from pretask.task import Batch, Sheet, Step


class ColorMAE(MAE):
    """Rebuild the pixels of patches hidden in clusters of one size.

    Args:
        encoder: a vision transformer. Unless it is pretrained it starts as MAE's.
        colour: of the noise: `green` keeps the middle frequencies, `red` the low, `blue` the high and
            `purple` all but the middle ones.
        next_colours: colours that take over later in the run.
        changes: when each of them does, as shares of the run.
        mixed: draw pattern, place and flips for each sample; the official code has sample i take pattern
            i, and the same place and flips for all.
        mask_ratio: share of the patches that is hidden.
        normalise_target: ask for patches without their own mean and contrast.
        decoder_dim: width of the decoder; none takes 512 from a ViT-B on and half the encoder's below.
        decoder_depth: blocks of the decoder; none takes 8 from a ViT-B on and 2 below.
        crop_scale: area of the random crop, as a share of the picture's.
    """

    recipe = Recipe(
        "adamw", lr=1.5e-4, batch_size=4096, epochs=300, weight_decay=0.05, betas=(0.9, 0.95), warmup=40 / 300,
        warmup_from=1e-4, warmup_arrives=True, undecayed=("cls_token", "mask_token"),
    )  # fmt: skip

    def __init__(
        self,
        encoder: PatchEncoder,
        colour: Literal["green", "red", "blue", "purple"] = "green",
        next_colours: tuple[str, ...] = (),
        changes: tuple[float, ...] = (),
        mixed: bool = False,
        mask_ratio: float = 0.75,
        normalise_target: bool = True,
        decoder_dim: int | None = None,
        decoder_depth: int | None = None,
        crop_scale: tuple[float, float] = (0.2, 1.0),
    ):
        super().__init__(
            encoder, mask_ratio, colour, normalise_target, decoder_dim, decoder_depth, crop_scale
        )
        ordered = all(one < other for one, other in pairwise((0.0, *changes, 1.0)))
        if len(next_colours) != len(changes) or not ordered:
            raise UsageError(
                f"changes {changes} must say when each of next_colours {next_colours} takes over: growing "
                "shares of the run between 0 and 1"
            )
        if unknown := set(next_colours) - set(COLOURS):
            raise UsageError(
                f"next_colours: there is no {', '.join(unknown)}; there is: {', '.join(COLOURS)}"
            )
        self.colours, self.ends, self.mixed = (colour, *next_colours), (*changes, inf), mixed

    def draw_mask(self, batch: int, step: Step) -> Bool[Tensor, "batch patches"]:
        """The official code changes colours at the beginning of an epoch."""
        done = step.epoch * step.steps_per_epoch / step.total
        colour = next(colour for colour, end in zip(self.colours, self.ends, strict=True) if done < end)
        return hide_coloured(self.encoder.grid, self.num_hidden, batch, step.generator, colour, self.mixed)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        return replace(super().preview(batch, step), title="ColorMAE")
