"""MP3: no patch knows where it is; where does each belong? (Zhai et al., ICML 2022)

No code was released. What the paper leaves open, or is not known for certain, is decided so: one context in all
layers of a pass, a loss on every token, crops and flips as the only augmentation; half of the patches are masked in
small pictures and three quarters in others; AdamW with a rate of 1e-3 for 256 samples, 0.05 of decay, 10 of 150
epochs of warm-up and batches of 1024. Frames of sound, the paper's other data, are not asked.
"""

from math import log
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.attention import restricted
from pretask.encoders.image import PatchEncoder, check_norm
from pretask.errors import UsageError
from pretask.objectives.reconstruction import patchify, unpatchify
from pretask.pretexts import draw
from pretask.pretexts.masks import shuffle, take
from pretask.pretexts.views import SMALL_IMAGE, apply_view, draw_view, mae_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step

PLAIN = 1e-4  # largest difference of a channel within a patch of one colour: resampling rounds


class Puzzle(NamedTuple):
    """Augmented pictures, and the patches that may be asked of each."""

    image: Float[Tensor, "batch chans h w"]
    context: Int[Tensor, "batch context"]


class MP3(PretextTask):
    """Say of every patch where it belongs, from its content and that of some context patches.

    Positions that the encoder has are 0 and stay so while it is pretrained: it can learn them in fine-tuning.

    Args:
        encoder: a vision transformer without class token (`class_token=false,global_pool=avg,fc_norm=false`)
            and without relative positions.
        mask_ratio: share of the patches that no token may attend to, in any layer; one that may be is left. none
            takes 0.5 up to 64 pixels (CIFAR), 0.75 above.
        crop_scale: area of the random crop, as a share of the picture's.
    """

    encoder: PatchEncoder
    recipe = Recipe(
        "adamw", lr=1e-3, batch_size=1024, epochs=150, weight_decay=0.05, betas=(0.9, 0.999), warmup=10 / 150
    )

    def __init__(
        self,
        encoder: PatchEncoder,
        mask_ratio: float | None = None,
        crop_scale: tuple[float, float] = (0.2, 1.0),
    ):
        super().__init__(encoder)
        model: Any = encoder.model
        if encoder.num_prefix or not hasattr(encoder.blocks[0].attn, "q_norm"):  # type: ignore[index]
            raise UsageError(
                "mp3 needs a plain vision transformer without class token: add class_token=false,"
                "global_pool=avg,fc_norm=false to the encoder's name"
            )
        check_norm(encoder)
        if mask_ratio is None:
            mask_ratio = 0.5 if encoder.image_size <= SMALL_IMAGE else 0.75
        if not 0 <= mask_ratio <= 1:
            raise UsageError(f"mask_ratio must be from 0 to 1, not {mask_ratio}")
        self.num_context = max(1, int((1 - mask_ratio) * encoder.num_patches))
        if getattr(model, "pos_embed", None) is not None:
            model.pos_embed.requires_grad_(False).zero_()
        self.view = mae_view(encoder.image_size, crop_scale)
        self.head = nn.Linear(encoder.dim, encoder.num_patches)

    def puzzle(self, batch: Batch, step: Step) -> Puzzle:
        image = require(batch, "image", 4)
        view = draw_view(self.view, len(image), step.generator, batch.get("size"))
        image, patches = apply_view(self.view, image, view), self.encoder.num_patches
        noise = draw.uniform((len(image), patches), step.generator)
        return Puzzle(image, shuffle(noise, patches - self.num_context).visible.to(image.device))

    def answers(self, puzzle: Puzzle) -> Float[Tensor, "batch patches places"]:
        """For each patch how likely it is to belong to each place, as logits."""
        model: Any = self.encoder.model
        x = model.norm_pre(self.encoder.contents(puzzle.image))
        for block in self.encoder.blocks:  # type: ignore[attr-defined]
            x = restricted(block, x, puzzle.context)
        return self.head(model.norm(x))

    def loss(self, batch: Batch, step: Step) -> Losses:
        puzzle = self.puzzle(batch, step)
        logits = self.answers(puzzle)
        truth = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
        right, seen = (logits.argmax(-1) == truth).float(), varied(puzzle.image, self.encoder.patch_size)
        step.metrics["position_accuracy"] = right.mean()
        step.metrics["position_accuracy_varied"] = (right * seen).sum() / seen.sum().clamp(min=1)
        return {"position": F.cross_entropy(logits.flatten(0, 1), truth.flatten())}

    def question(self, batch: Batch, step: Step) -> Question:
        """One patch of each picture."""
        image = self.puzzle(batch, step).image
        place = draw.integers(self.encoder.num_patches, (len(image), 1), step.generator).to(image.device)
        patch = self.encoder.patch_size
        shown = unpatchify(take(patchify(image, patch), place), patch, (1, 1))
        return Question(shown, torch.arange(len(image), device=image.device), place[:, 0])

    def preview(self, batch: Batch, step: Step) -> Sheet:
        puzzle = self.puzzle(batch, step)
        patch, grid = self.encoder.patch_size, self.encoder.grid
        patches = patchify(puzzle.image, patch)
        order = draw.permutations(len(patches), patches.shape[1], step.generator).to(patches.device)
        said = self.answers(puzzle).argmax(-1)
        known = torch.zeros(patches.shape[:2], dtype=torch.bool, device=patches.device)
        known = known.scatter(1, puzzle.context, True)
        index = said[..., None].expand_as(patches)
        heap, context, answer = (
            unpatchify(part, patch, grid)
            for part in (
                take(patches, order),
                torch.where(known[..., None], patches, 0.5),
                torch.full_like(patches, 0.5).scatter(1, index, patches),
            )
        )
        rows = [
            [Panel("all patches, in no order", a), Panel("those that may be asked", b, "hidden"),
             Panel("where each is put", c, "answer"), Panel("the picture", d, "truth")]
            for a, b, c, d in zip(heap, context, answer, puzzle.image, strict=True)
        ]  # fmt: skip
        return Sheet("MP3", "Where does each patch belong?", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"position": log(self.encoder.num_patches)}


def varied(image: Float[Tensor, "batch chans h w"], patch: int) -> Bool[Tensor, "batch patches"]:
    """Which patches are not of one colour: nobody can place these where the background is plain."""
    pixels = patchify(image, patch).unflatten(2, (-1, image.shape[1]))
    return (pixels.amax(2) - pixels.amin(2)).amax(2) > PLAIN
