"""iBOT: DINO whose student must also say what the teacher sees in hidden patches (Zhou et al., ICLR 2022)."""

from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pretask.encoders.features import Features
from pretask.encoders.image import PatchEncoder
from pretask.errors import UsageError
from pretask.methods.image.dino import DINO
from pretask.objectives.distillation import Centre, sharpen, soft_cross_entropy
from pretask.pretexts import draw
from pretask.pretexts.masks import ATTEMPTS, BLOCKS, block_mask
from pretask.pretexts.views import SMALL_IMAGE
from pretask.task import Batch, Losses, Panel, Sheet, Step


class IBOT(DINO):
    """Masked prediction of an online tokenizer's words, beside DINO's loss.

    The student sees global crops with hidden patches, the teacher sees them whole. One head serves class
    and patch tokens. Sizes left open follow DINO's rule for small pictures, which are not blurred either.

    Args:
        encoder: a vision transformer.
        prototypes: words to choose from, K; none takes 8192.
        mask: blocks of patches (BEiT's) or random ones.
        mask_ratio: smallest and largest share of the patches that is hidden in a masked crop.
        mask_probability: share of the global crops that is masked at all.
        cls_weight: of the loss between views.
        patch_weight: of the loss on hidden patches.
        num_local: local crops of each picture; none takes 10.
        local_size: their side in pixels; none takes 3/7 of the picture's (96 of 224).
        global_scale: area of a global crop, as a share of the picture's.
        local_scale: area of a local crop.
        hidden_dim: width of the head; none takes 2048.
        bottleneck_dim: width of what is compared with the prototypes; none takes 256.
        unit_prototypes: keep the prototypes at length 1; none does so from a ViT-B on.
        momentum: the teacher's at the start, rising to 1 in a cosine; none takes 0.996.
        temperature: the student's.
        teacher_temperature: the teacher's, for class and patch tokens.
        teacher_temperature_start: the teacher's in the first epoch.
        temperature_epochs: epochs over which it climbs; none takes 30, in a shorter run than 100 three tenths.
        centre_momentum: of the running means of the teacher's answers; 1 does without centring.
        drop_path: share of samples for which the last block is skipped, less for those before.
        clip: largest norm of each parameter's gradient.
        freeze_last_layer: epochs in which the prototypes do not learn; a tenth of a run no longer than that.
    """

    encoder: PatchEncoder

    def __init__(
        self,
        encoder: PatchEncoder,
        prototypes: int | None = None,
        mask: Literal["block", "random"] = "block",
        mask_ratio: tuple[float, float] = (0.1, 0.5),
        mask_probability: float = 0.5,
        cls_weight: float = 1.0,
        patch_weight: float = 1.0,
        num_local: int | None = None,
        local_size: int | None = None,
        global_scale: tuple[float, float] = (0.25, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.25),
        hidden_dim: int | None = None,
        bottleneck_dim: int | None = None,
        unit_prototypes: bool | None = None,
        momentum: float | None = None,
        temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        teacher_temperature_start: float = 0.04,
        temperature_epochs: int | None = None,
        centre_momentum: float = 0.9,
        drop_path: float = 0.1,
        clip: float = 3.0,
        freeze_last_layer: int = 1,
    ):
        if not hasattr(encoder, "patch_size"):
            raise UsageError("ibot hides patches: it needs a vision transformer as encoder")
        small = encoder.image_size <= SMALL_IMAGE
        super().__init__(
            encoder, prototypes or (1024 if small else 8192),
            (4 if small else 10) if num_local is None else num_local, local_size, global_scale, local_scale,
            hidden_dim, bottleneck_dim, unit_prototypes, momentum, temperature, teacher_temperature,
            teacher_temperature_start, temperature_epochs, centre_momentum, drop_path, clip,
            freeze_last_layer,
        )  # fmt: skip
        self.mask, self.mask_ratio, self.mask_probability = mask, mask_ratio, mask_probability
        self.weights = {"cls": cls_weight, "patch": patch_weight}
        self.mask_token = nn.Parameter(torch.zeros(1, encoder.dim))
        self.patch_centre = Centre(self.prototypes, centre_momentum)

    def look(
        self, clean: Float[Tensor, "2*batch chans h w"]
    ) -> tuple[Features, Float[Tensor, "2*batch heads patches"] | None]:
        """What the teacher sees in whole crops, and where it looks, for those who hide that."""
        return self.teacher.encoder(clean), None

    def hide(
        self, batch: int, step: Step, attention: Float[Tensor, "2*batch heads patches"] | None = None
    ) -> Bool[Tensor, "2*batch patches"]:
        """Which patches of the two global crops are hidden: no crop's mask depends on another's."""
        low, high = self.mask_ratio
        numbers = draw.uniform((batch, 2, 2), step.generator).transpose(0, 1).flatten(0, 1)
        ratio = (numbers[:, 0] < self.mask_probability) * (low + (high - low) * numbers[:, 1])
        count, patches = ratio * self.encoder.num_patches, self.encoder.num_patches
        if self.mask == "random":
            noise = draw.uniform((batch, 2, patches), step.generator).transpose(0, 1).flatten(0, 1)
            return noise.argsort(1).argsort(1) < count.floor()[:, None]
        unit = draw.uniform((batch, 2, BLOCKS, ATTEMPTS, 4), step.generator).transpose(0, 1).flatten(0, 1)
        return block_mask(unit, self.encoder.grid, count)

    def loss(self, batch: Batch, step: Step) -> Losses:
        views = self.views(batch, step)
        with torch.no_grad():
            (clean, attention), head = self.look(torch.cat(views[:2])), self.teacher.head
            hidden = self.hide(len(views[0]), step, attention).to(views[0].device)
            place, weight = hidden_places(hidden, max(self.mask_ratio))
            answers, words = head(clean.pooled), head.embed(clean.tokens)
            patch_answers = head.last_layer(words.flatten(0, 1)[place])
            # the mean over ALL patches: the prototypes are linear, so it is taken before them
            patch_mean = head.last_layer(words.mean((0, 1)))
        masked = self.encode(views[:2], step, hidden=hidden, mask_token=self.mask_token)
        seen = [masked.pooled]
        if self.num_local:
            seen.append(self.encode(views[2:], step).pooled)
        tokens = masked.tokens.flatten(0, 1)[place]
        logits = self.head(torch.cat([*seen, tokens]))  # one pass for all; only hidden patches are asked
        logits, patch_logits = logits.split([len(logits) - len(place), len(place)])
        target = sharpen(patch_answers, self.patch_centre.value, self.sharpness(step))
        self.note(self.patch_centre, patch_mean)
        return {
            "cls": self.agreement(logits, answers, step),
            "patch": soft_cross_entropy(patch_logits, target, weight, self.temperature),
        }

    def after_step(self, step: Step) -> None:
        super().after_step(step)
        self.patch_centre.update()

    def preview(self, batch: Batch, step: Step) -> Sheet:
        views = self.views(batch, step)[:2]
        clean, attention = self.look(torch.cat(views))
        view = views[0]
        hidden = self.hide(len(view), step, attention)[: len(view)].to(view.device)
        said = self.head(self.encoder(view, hidden=hidden, mask_token=self.mask_token).tokens).argmax(-1)
        true = self.teacher.head(clean.tokens[: len(view)]).argmax(-1)
        masked, answer, truth = (
            self.paint(view, hidden, words) for words in (torch.zeros_like(true), said, true)
        )
        rows = [
            [Panel("what the student sees", a), Panel("its words, as colours", b, "answer"),
             Panel("the teacher's words", c, "truth"), Panel("the picture", d)]
            for a, b, c, d in zip(masked, answer, truth, view, strict=True)
        ]  # fmt: skip
        return Sheet("iBOT", "What would the teacher say of the hidden patches?", rows)

    def paint(self, view: Tensor, hidden: Tensor, words: Tensor) -> Float[Tensor, "batch chans h w"]:
        """Hidden patches in a colour that stands for their word."""
        channel = torch.arange(1, view.shape[1] + 1, device=view.device).view(1, -1, 1)
        colour = (words[:, None] * channel * 0.618034 + 0.5).frac()  # far apart for neighbouring numbers
        shape = (len(view), -1, *self.encoder.grid)
        colour, cover = colour.view(shape).to(view.dtype), hidden.view(shape).to(view.dtype)
        cover = F.interpolate(cover, view.shape[-2:], mode="nearest")
        return torch.lerp(view, F.interpolate(colour, view.shape[-2:], mode="nearest"), cover)

    def chance(self, batch_size: int) -> dict[str, float]:
        """ln K; crops without a mask count as 0 in the loss on patches."""
        return {"cls": log(self.prototypes), "patch": self.mask_probability * log(self.prototypes)}


def hidden_places(
    hidden: Bool[Tensor, "crops patches"], most: float
) -> tuple[Int[Tensor, "places"], Float[Tensor, "places"]]:
    """Where the hidden patches are among all, and what each counts: a crop's hidden patches share its
    weight, and a crop without any counts 0 but stays in the mean.

    On an accelerator, which counting would stall, places are as many as there can be, the surplus with
    weight 0.

    Args:
        hidden: the mask.
        most: largest share of a crop's patches that is hidden.
    """
    flat = hidden.flatten()
    if flat.device.type == "cpu":
        place = flat.nonzero().squeeze(1)
    else:
        limit = len(hidden) * int(most * hidden.shape[1])
        place = flat.byte().argsort(descending=True, stable=True)[:limit]
    share = flat[place] / hidden.sum(1).clamp(min=1)[place // hidden.shape[1]]
    return place, share / len(hidden)
