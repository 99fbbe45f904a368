"""AttMask: iBOT whose teacher says what to hide: what it attends to (Kakogeorgiou et al., ECCV 2022).

`mask="high"` with `patch_weight=0` is the paper's plain distillation, in which hiding is an augmentation.
"""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pretask.encoders.attention import class_attention
from pretask.encoders.features import Features
from pretask.encoders.image import PatchEncoder
from pretask.errors import UsageError
from pretask.methods.image.ibot import IBOT
from pretask.pretexts import draw
from pretask.pretexts.masks import random_mask
from pretask.task import Batch, Sheet, Step

FINAL = 1e-6 / (5e-4 * 240 / 256)
"""The official last rate, over the peak for its batch."""


class AttMask(IBOT):
    """Masked distillation in which the patches that the teacher's class token attends to are hidden.

    As in the official code one share is drawn a batch and held for all crops, and a crop is masked or not
    by a coin. Sizes left open follow DINO's rule for small pictures, which are not blurred either.

    Args:
        encoder: a vision transformer with a class token.
        mask: hide the most attended patches (`high`), those less some hints (`hint`), or the least (`low`).
        mask_ratio: smallest and largest share of the patches that is hidden; one is drawn a batch.
        mask_probability: share of the global crops that is masked at all.
        show_max: hints are among this share of the patches, the most attended; another drawn ratio says how
            many of these are shown.
        prototypes: words to choose from, K; none takes 8192.
        cls_weight: of the loss between views.
        patch_weight: of the loss on hidden patches.
        num_local: local crops of each picture; none takes 10.
        local_size: their side in pixels; none takes 3/7 of the picture's (96 of 224).
        global_scale: area of a global crop, as a share of the picture's.
        local_scale: area of a local crop.
        momentum: the teacher's at the start, rising to 1 in a cosine; none takes 0.996.
        teacher_temperature: the teacher's, for class and patch tokens; 0.04 in the first epoch.
        temperature_epochs: epochs over which it climbs; none takes 30, in a shorter run than 100 three tenths.
        drop_path: share of samples for which the last block is skipped, less for those before.
    """

    def __init__(
        self,
        encoder: PatchEncoder,
        mask: Literal["high", "hint", "low"] = "high",
        mask_ratio: tuple[float, float] = (0.1, 0.5),
        mask_probability: float = 0.5,
        show_max: float = 0.1,
        prototypes: int | None = None,
        cls_weight: float = 1.0,
        patch_weight: float = 1.0,
        num_local: int | None = None,
        local_size: int | None = None,
        global_scale: tuple[float, float] = (0.25, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.25),
        momentum: float | None = None,
        teacher_temperature: float = 0.07,
        temperature_epochs: int | None = None,
        drop_path: float = 0.1,
    ):
        if getattr(encoder, "num_prefix", 0) < 1:
            raise UsageError(
                "attmask hides what a class token attends to: it needs a vision transformer with one"
            )
        super().__init__(
            encoder, prototypes, mask_ratio=mask_ratio, mask_probability=mask_probability,
            cls_weight=cls_weight, patch_weight=patch_weight, num_local=num_local, local_size=local_size,
            global_scale=global_scale, local_scale=local_scale, momentum=momentum,
            teacher_temperature=teacher_temperature, temperature_epochs=temperature_epochs, drop_path=drop_path,
        )  # fmt: skip
        self.attended, self.show_max = mask, show_max
        self.recipe = replace(
            self.recipe, batch_size=240, epochs=100, warmup=max(self.recipe.warmup, 0.1), final_lr=FINAL
        )

    def look(
        self, clean: Float[Tensor, "2*batch chans h w"]
    ) -> tuple[Features, Float[Tensor, "2*batch heads patches"]]:
        return class_attention(self.teacher.encoder, clean)  # type: ignore[arg-type]

    def hide(
        self, batch: int, step: Step, attention: Float[Tensor, "2*batch heads patches"] | None = None
    ) -> Bool[Tensor, "2*batch patches"]:
        assert attention is not None, "the teacher's attention decides what is hidden"
        patches, (low, high) = attention.shape[2], self.mask_ratio
        ratio, shown = (low + (high - low) * unit for unit in draw.common((2,), step.generator).tolist())
        coins = draw.uniform((batch, 2), step.generator).T.flatten().to(attention.device)
        noise = draw.uniform((batch, 2, patches), step.generator).transpose(0, 1).flatten(0, 1)
        return attention_mask(
            attention, int(patches * ratio), self.attended, coins <= self.mask_probability,
            int(patches * self.show_max), int(self.show_max * shown * patches), noise.to(attention.device),
        )  # fmt: skip

    def preview(self, batch: Batch, step: Step) -> Sheet:
        return replace(super().preview(batch, step), title="AttMask")


def attention_mask(
    attention: Float[Tensor, "crops heads patches"],
    count: int,
    attended: Literal["high", "hint", "low"],
    masked: Bool[Tensor, "crops"],
    top: int = 0,
    shown: int = 0,
    noise: Float[Tensor, "crops patches"] | None = None,
) -> Bool[Tensor, "crops patches"]:
    """Hide patches by the class token's attention, averaged over heads (section 3.2).

    Args:
        attention: of the class token to each patch.
        count: patches hidden.
        attended: the most or the least attended; `hint` shows some of the most attended again.
        masked: which crops are masked at all.
        top: hints are among so many most attended patches.
        shown: hints a crop.
        noise: which of them: those with the largest.
    """
    mean = attention.detach().mean(1)
    hidden = random_mask(-mean if attended == "low" else mean, count)
    if attended == "hint" and shown:
        assert noise is not None, "hints are chosen at random"
        among = random_mask(mean, top)
        hidden = hidden & ~random_mask(torch.where(among, noise, -1.0), shown)
    return hidden & masked[:, None]
