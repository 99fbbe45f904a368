"""MAMP: hide most of a skeleton, above all what moves, and tell its motion (Mao et al., ICCV 2023).

Follows maoyunyao/MAMP. Two different motions are at work: the mask prefers joints whose positions differ from one
segment to the next, the target is the difference from frame to frame. Both are of the augmented sequence.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pretask.encoders.poses import PoseEncoder, SkeletonDecoder
from pretask.errors import UsageError
from pretask.objectives.reconstruction import standardise
from pretask.pretexts import draw
from pretask.pretexts.masks import Shuffle, shuffle, take
from pretask.pretexts.poses import (
    draw_window,
    gumbel,
    log_prior,
    motion,
    resize,
    rotations,
    segments,
    turn,
)
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Sheet, Step


class MAMP(PretextTask):
    """Tell how the hidden joints move from the few that are visible.

    Every person is a sequence of its own, an absent one too. With `target` joint and `tau` 0 this is the
    masked autoencoder that the paper compares with.

    The paper's head for fine-tuning is not there: dropout of 0.3, the means of each joint side by side (25 x 256
    numbers), a hidden layer of 2048 with batch normalisation and ReLU. Evaluation sees the mean of all tokens.

    Args:
        encoder: of skeletons, `skeleton_vit`.
        mask_ratio: share of the tokens that is hidden; what is left is rounded down.
        tau: temperature of the preference for hiding what moves, small is strong; 0 hides evenly.
        target: what is asked of a hidden token: its `motion`, or where the `joint` is.
        stride: frames between the two positions whose difference is the motion.
        normalise_target: ask for tokens without their own mean and spread.
        decoder_depth: blocks of the decoder (3 on NTU-60, 5 on NTU-120 and PKU-MMD).
        crop: share of a sequence's frames that is looked at.
        shortest: but no fewer frames than these.
        turn: largest angle about each axis by which sequences are turned, in radians.
    """

    encoder: PoseEncoder
    recipe = Recipe(
        "adamw", lr=1e-3, lr_batch=0, batch_size=128, epochs=400, weight_decay=0.05, betas=(0.9, 0.95),
        warmup=20 / 400, final_lr=0.5,
    )  # fmt: skip

    def __init__(
        self,
        encoder: PoseEncoder,
        mask_ratio: float = 0.9,
        tau: float = 0.8,
        target: Literal["motion", "joint"] = "motion",
        stride: int = 1,
        normalise_target: bool = True,
        decoder_depth: int = 3,
        crop: tuple[float, float] = (0.5, 1.0),
        shortest: int = 64,
        turn: float = 0.3,
    ):
        super().__init__(encoder)
        if not hasattr(encoder.model, "blocks"):
            raise UsageError(f"mamp trains a 'skeleton_vit'; '{encoder.name}' is no network of skeletons")
        visible = int(encoder.num_tokens * (1 - mask_ratio))  # 74 of 750 at 0.9: floats, as the authors'
        if not 0 < visible < encoder.num_tokens:
            raise UsageError(
                f"mask_ratio {mask_ratio} leaves {visible} of {encoder.num_tokens} tokens visible; some must "
                "be hidden and some visible"
            )
        if not 0 < stride < encoder.size.frames:
            raise UsageError(
                f"stride must lie between 1 and the encoder's {encoder.size.frames} frames, not {stride}"
            )
        if tau < 0 or decoder_depth < 1:
            raise UsageError(
                f"tau must not be negative and decoder_depth at least 1, not {tau}, {decoder_depth}"
            )
        self.num_hidden = encoder.num_tokens - visible
        self.tau, self.asked, self.stride, self.normalise_target = tau, target, stride, normalise_target
        self.crop, self.shortest, self.angle = crop, shortest, turn
        self.num_values = 3 * encoder.size.segment
        self.decoder = SkeletonDecoder(encoder, self.num_values, decoder_depth)

    def people(self, batch: Batch, step: Step) -> Float[Tensor, "people frames joints 3"]:
        """Augmented sequences, a person each: a window brought to one length, and turned."""
        pose, frames = self.encoder.sequence(batch)
        window = draw_window(frames, self.crop, self.shortest, step.generator)
        pose = resize(pose, window, self.encoder.size.frames)
        angles = draw.uniform((len(pose), 3), step.generator, -self.angle, self.angle)
        return self.encoder.people(turn(pose, rotations(angles.to(pose.device))))

    def hide(self, pose: Float[Tensor, "people frames joints 3"], step: Step) -> Shuffle:
        """Which tokens are visible and which hidden: those with the largest score are."""
        score = draw.uniform((len(pose), self.encoder.num_tokens), step.generator).to(pose.device)
        if self.tau:
            prior = log_prior(segments(pose, self.encoder.size.segment), self.encoder.joints, self.tau)
            score = prior + gumbel(score)
        return shuffle(score, self.num_hidden)

    def answers(self, pose: Float[Tensor, "people frames joints 3"]) -> Float[Tensor, "people tokens values"]:
        """The truth for every token, not yet normalised."""
        asked = motion(pose, self.stride) if self.asked == "motion" else pose
        return segments(asked, self.encoder.size.segment)

    def tell(self, pose: Tensor, order: Shuffle) -> Float[Tensor, "people hidden values"]:
        return self.decoder(self.encoder(pose, order.visible).tokens, order)

    def loss(self, batch: Batch, step: Step) -> Losses:
        pose = self.people(batch, step)
        order = self.hide(pose, step)
        truth = take(self.answers(pose), order.hidden)
        truth = standardise(truth).values if self.normalise_target else truth
        # all sequences hide equally many tokens: this mean is the sum over hidden ones by their number
        return {self.asked: F.mse_loss(self.tell(pose, order).to(truth.dtype), truth)}

    def preview(self, batch: Batch, step: Step) -> Sheet:
        pose = self.people(batch, step)
        order = self.hide(pose, step)
        truth = take(self.answers(pose), order.hidden)
        told = self.tell(pose, order).to(truth.dtype)
        if self.normalise_target:
            _, mean, std = standardise(truth)
            told = told * std + mean
        shown, told, truth = (self.drawn(pose, order, values) for values in (None, told, truth))
        rows = [
            [
                Panel("what it sees", seen, kind="pose"),
                Panel(f"the hidden joints' {self.asked}, told", answer, "answer", "pose"),
                Panel(f"the hidden joints' {self.asked}", right, "truth", "pose"),
            ]
            for seen, answer, right in zip(shown, told, truth, strict=True)
        ]
        return Sheet("MAMP", "Where do the hidden joints go?", rows[:: self.encoder.persons])

    def drawn(
        self, pose: Tensor, order: Shuffle, values: Tensor | None
    ) -> Float[Tensor, "people t joints 6"]:
        """Joints at the beginning of each segment as seen from the body's middle, and lines to where they are by its
        end (where they are on average, if that is asked); without `values` the visible joints alone."""
        size = self.encoder.size.segment
        place = pose[:, ::size].flatten(1, 2)  # (N, tokens, 3)
        if values is None:
            hidden = torch.full_like(take(place, order.hidden), torch.nan)
            place = take(torch.cat([take(place, order.visible), hidden], dim=1), order.restore)
            line = torch.zeros_like(place)
        else:
            steps = values.unflatten(2, (size, 3))
            told = (
                steps.sum(2) / self.stride
                if self.asked == "motion"
                else steps.mean(2) - take(place, order.hidden)
            )
            line = torch.cat([torch.zeros_like(take(place, order.visible)), told], dim=1)
            line = take(line, order.restore)
        place, line = (part.unflatten(1, self.encoder.grid) for part in (place, line))
        return torch.cat([place - pose[:, ::size].mean(2, keepdim=True), line], dim=3)

    def chance(self, batch_size: int) -> dict[str, float]:
        """Answering each normalised token with its mean, 0, leaves its biased variance: (n-1)/n."""
        return {self.asked: 1 - 1 / self.num_values} if self.normalise_target else {}
