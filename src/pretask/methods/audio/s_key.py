"""S-KEY: the key of music from how transposition turns the circle of fifths (Kong et al., ICASSP 2025).

On STONE (Kong et al., ISMIR 2024). Follows deezer/s-key. With an encoder of one mode (`chromanet:modes=1`) it is
STONE with 12 classes: key signatures alone; with `mode_from=views` STONE with 24 and no labels.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.data.batch import require
from pretask.encoders.audio import HEIGHT, KeyEncoder
from pretask.errors import UsageError
from pretask.objectives.distributed import mean
from pretask.objectives.phase import circle_point, turned_error
from pretask.pretexts.audio import OCTAVE, crop_bins, excerpts, octave_pooled
from pretask.pretexts.draw import integers, uniform
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Sheet, Step

LARGEST = 3.0  # norm of a parameter's gradient


class SKey(PretextTask):
    """Two excerpts of a track have one key, and a transposed one has it turned by as much; a mode is what the
    chroma says of the key signature's two candidates.

    The clipping of gradients is a parameter's own. The authors' rate falls like a cosine in 99 epochs, their weight
    decay climbs like one from 0.04 to 0.4 in 999; 100 epochs are run. Here both reach at the end of a run, however
    long, what theirs reach after 100 epochs: the rate 5e-8, the decay 0.049, which it nears along a whole cosine
    instead of the first tenth of one. The paper's runs of STONE end after 50 epochs, half-way down the rate.

    Args:
        encoder: of music, `chromanet`.
        excerpt: seconds of each of a track's two excerpts; tracks that are shorter are cut in two.
        frequency: turns that the twelve semitones make: 7 is the circle of fifths, 1 that of semitones.
        relative: semitones from a key signature's place to the other candidate for its tonic, where the
            chroma is compared: -3 is the paper's, down from the major to the minor root; the released code
            has 3.
        mode_from: what tells the mode: the `chroma` (S-KEY), or, softly, the other `views` (STONE with 24 classes,
            which has no balance).
        mode_weight: of the cross-entropy of the mode.
        balance_weight: of what keeps the two modes equally frequent (the paper's is 15, the code's 20).
    """

    encoder: KeyEncoder
    recipe = Recipe(
        "adamw", lr=1e-3, lr_batch=0, batch_size=128, epochs=100, weight_decay=0.04, weight_decay_end=0.049,
        betas=(0.9, 0.98), warmup=0.0, final_lr=5e-5,
    )  # fmt: skip

    def __init__(
        self,
        encoder: KeyEncoder,
        excerpt: float = 15.0,
        frequency: int = 7,
        relative: int = -3,
        mode_from: Literal["chroma", "views"] = "chroma",
        mode_weight: float = 1.5,
        balance_weight: float = 20.0,
    ):
        super().__init__(encoder)
        if not isinstance(encoder, KeyEncoder):
            raise UsageError(f"s-key trains a chromanet; '{getattr(encoder, 'name', encoder)}' is none")
        if frequency not in (1, 7):
            raise UsageError(f"frequency is 7 (fifths) or 1 (semitones), not {frequency}")
        self.excerpt, self.frequency, self.relative, self.mode_from = excerpt, frequency, relative, mode_from
        if encoder.size.modes == 2:
            self.weights = {"mode": mode_weight}
            if mode_from == "chroma":
                self.weights["balance"] = balance_weight

    def views(
        self, batch: Batch, step: Step
    ) -> tuple[
        Float[Tensor, "3 batch height frames"], Int[Tensor, "batch"], Float[Tensor, "2 batch samples"]
    ]:
        """Crops of the first excerpt, of the second, and of the first transposed; by how many bins the last
        starts higher; and the excerpts.

        Raises:
            UsageError: the recordings are too short.
        """
        audio = require(batch, "audio", 2)
        size = min(round(self.excerpt * self.encoder.rate), audio.shape[1] // 2)
        if size < self.encoder.shortest:
            raise UsageError(
                f"half a recording, {audio.shape[1] / 2 / self.encoder.rate:.2f} s, is too short: the encoder reads "
                f"at least {self.encoder.shortest / self.encoder.rate:.2f} s. Read longer pieces (seconds)"
            )
        heard = torch.stack(excerpts(audio, uniform((len(audio), 2), step.generator), size))
        start = 1 + integers(OCTAVE, (len(audio),), step.generator)
        higher = 1 + integers(OCTAVE - 1, (len(audio),), step.generator)
        other = (start + higher) % OCTAVE
        spectrum = self.encoder.spectrum(heard.flatten(0, 1)).unflatten(0, (2, -1))
        crops = [crop_bins(x, at, HEIGHT) for x, at in ((spectrum[0], start), (spectrum[1], start),
                                                        (spectrum[0], other))]  # fmt: skip
        return torch.stack(crops), other - start, heard

    def profiles(
        self, crops: Float[Tensor, "3 batch height frames"], step: Step
    ) -> Float[Tensor, "3 batch classes"]:
        """What the network says of the views, all normalised together; while training with branches left out."""
        rate, kept = self.encoder.size.drop_path, None
        if self.training and rate:
            unit = uniform((crops.shape[1], 3, len(self.encoder.size.channels)), step.generator)
            kept = ((unit >= rate) / (1 - rate)).transpose(0, 1).flatten(0, 1)
        return self.encoder.model(crops.flatten(0, 1), kept).unflatten(0, (3, -1))

    def loss(self, batch: Batch, step: Step) -> Losses:
        crops, shift, _ = self.views(batch, step)
        level = crops[:2].mean((0, 3))  # of each bin in the first two views
        return self.losses(self.profiles(crops, step), shift, octave_pooled(level[..., None]).squeeze(-1))

    def losses(
        self,
        profile: Float[Tensor, "3 batch classes"],
        shift: Int[Tensor, "batch"],
        chroma: Float[Tensor, "batch 12"],
    ) -> Losses:
        """
        Args:
            profile: of the three views, float32.
            shift: bins that the third starts higher.
            chroma: mean level of each pitch class in the first two.
        """
        by_mode = profile.unflatten(2, (-1, OCTAVE))
        signature = by_mode.sum(2)
        first, second, other = (circle_point(view, self.frequency) for view in signature)
        turns = (self.frequency, OCTAVE)
        found = {
            "invariance": turned_error(first, second, 0, *turns),
            "equivariance": turned_error(first, other, shift, *turns)
            + turned_error(second, other, shift, *turns),
        }
        if by_mode.shape[2] == 1:
            return found
        mode = by_mode[:, :, 0].sum(2)  # (3, batch): how much speaks for the first
        if self.mode_from == "views":
            return {**found, "mode": self.agreement(mode)}
        told = self.pseudo_label(signature[:2].mean(0), chroma)
        with torch.autocast(mode.device.type, enabled=False):
            found["mode"] = torch.stack(
                [F.binary_cross_entropy(view.clamp(0, 1), told) for view in mode]
            ).sum()
        found["balance"] = (mean(mode[:2].mean()) - 0.5).square()
        return found

    def agreement(self, mode: Float[Tensor, "3 batch"]) -> Float[Tensor, ""]:
        """Cross-entropies of one view's mode against another's; the gradient reaches both, as in STONE's code."""
        with torch.autocast(mode.device.type, enabled=False):
            first, second, other = mode.clamp(0, 1)
            told = (first, other, 1.0), (second, other, 0.5), (other, second, 0.5), (first, second, 1.0)
            return torch.stack([weight * F.binary_cross_entropy(b, a) for a, b, weight in told]).sum()

    @torch.no_grad()
    def pseudo_label(
        self, signature: Float[Tensor, "batch 12"], chroma: Float[Tensor, "batch 12"]
    ) -> Float[Tensor, "batch"]:
        """1 where the signature's own place sounds louder than its relative's: major, by the paper's rule."""
        place = signature.argmax(1, keepdim=True)
        return (
            (chroma.gather(1, place) > chroma.gather(1, (place + self.relative) % OCTAVE))
            .squeeze(1)
            .to(chroma.dtype)
        )

    def after_backward(self, step: Step) -> None:
        """Clip each parameter's gradient by itself. What is no number in it becomes 0, and all of it where
        something is infinite: its norm is."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.nan_to_num_()
                torch.nn.utils.clip_grad_norm_([parameter], LARGEST)

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"invariance": 1.0, "equivariance": 2.0}

    def preview(self, batch: Batch, step: Step) -> Sheet:
        crops, shift, heard = self.views(batch, step)
        said = self.profiles(crops, step).unflatten(2, (-1, OCTAVE))
        rows = []
        for number, higher in enumerate(shift.tolist()):
            first, second, other = (picture(crop[number]) for crop in crops)
            rows.append([
                Panel("one excerpt", heard[0, number], kind="audio"),
                Panel("seven octaves of it", first),
                Panel("another excerpt", heard[1, number], kind="audio"),
                Panel("the same octaves: same key?", second, "asked"),
                Panel(f"the first {'lowered' if higher > 0 else 'raised'} by {abs(higher)}", other, "asked"),
                Panel("keys heard in the three", said[:, number].flatten(0, 1)[None], "answer"),
            ])  # fmt: skip
        note = (
            "Which key signature, that both excerpts share and that moves along when the music is transposed?"
        )
        return Sheet("S-KEY", note, rows)


def picture(crop: Float[Tensor, "height frames"]) -> Float[Tensor, "1 height frames"]:
    """Levels from black to white, the lowest bin at the bottom; squared, so that tones stand out."""
    low, high = crop.amin(), crop.amax()
    return ((crop - low) / (high - low).clamp(min=1e-6)).square().flip(0)[None]
