"""SelfPatch: a patch says what its neighbours that are like it say together (Yun et al., CVPR 2022), beside DINO.

As in the official code neighbours wrap around the picture's borders, a patch itself is not in its target, and
the teacher sees local crops too. The backbone's last norm takes no part in learning, and yet what is judged goes
through it, without a scale or shift that was learned: with `final_norm=false` in the encoder's name it is the
blocks' own features, as in the official dense evaluations. The aggregated class token is not judged. The recipe has
the paper's 200 epochs, which are not the code's default.
"""

from dataclasses import replace
from math import log
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.encoders.aggregate import Aggregation
from pretask.encoders.ema import teacher_of
from pretask.encoders.heads import PrototypeHead
from pretask.encoders.image import PatchEncoder
from pretask.errors import UsageError
from pretask.methods.image.dino import DINO
from pretask.objectives.distillation import Centre, sharpen, soft_cross_entropy, view_loss
from pretask.pretexts.views import SMALL_IMAGE
from pretask.task import Batch, Losses, Sheet, Step


class SelfPatch(DINO):
    """DINO, and each patch of the student against what a teacher gathers of its most similar neighbours.

    Sizes left open follow DINO's rule for small pictures, which are not blurred either; prototypes keep length 1,
    whatever the encoder's width.

    Args:
        encoder: a vision transformer without class token (`class_token=false,global_pool=avg,fc_norm=false`).
        alike: neighbours of a patch, out of eight, that make its target.
        patch_weight: of the loss on patches.
        prototypes: answers to choose from for a crop; none takes 65536.
        patch_prototypes: answers to choose from for a patch; none takes 4096, 256 for small pictures.
        num_local: local crops of each picture; none takes 8.
        local_size: their side in pixels; none takes 3/7 of the picture's (96 of 224).
        global_scale: area of a global crop, as a share of the picture's.
        local_scale: area of a local crop.
        momentum: the teacher's at the start, rising to 1 in a cosine; none takes 0.996.
        teacher_temperature: the teacher's, for crops and patches, from the first epoch on.
        drop_path: share of samples for which the last block is skipped, less for those before.
    """

    encoder: PatchEncoder

    def __init__(
        self,
        encoder: PatchEncoder,
        alike: int = 4,
        patch_weight: float = 0.1,
        prototypes: int | None = None,
        patch_prototypes: int | None = None,
        num_local: int | None = None,
        local_size: int | None = None,
        global_scale: tuple[float, float] = (0.25, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.25),
        momentum: float | None = None,
        teacher_temperature: float = 0.04,
        drop_path: float = 0.1,
    ):
        if getattr(encoder, "num_prefix", 1):
            raise UsageError(
                "selfpatch needs a vision transformer without class token: add class_token=false,"
                "global_pool=avg,fc_norm=false to the encoder's name"
            )
        if not 1 <= alike <= 8:
            raise UsageError(f"alike must be 1 to 8 of a patch's eight neighbours, not {alike}")
        super().__init__(
            encoder, prototypes, num_local, local_size, global_scale, local_scale, unit_prototypes=True,
            momentum=momentum, teacher_temperature=teacher_temperature,
            teacher_temperature_start=teacher_temperature, drop_path=drop_path,
        )  # fmt: skip
        small = encoder.image_size <= SMALL_IMAGE
        self.recipe = replace(self.recipe, epochs=200, warmup=max(self.recipe.warmup, 10 / 200))
        self.alike, self.weights = alike, {"cls": 1.0, "patch": patch_weight}
        self.patch_prototypes = patch_prototypes or (256 if small else 4096)
        self.aggregate = Aggregation(encoder.dim, encoder.blocks[0].attn.num_heads)  # type: ignore[index]
        self.patch_head = PrototypeHead(
            encoder.dim, self.patch_prototypes, 256 if small else 2048, 64 if small else 256
        )
        self.teacher.aggregate = teacher_of(self.aggregate)
        self.teacher.patch_head = teacher_of(self.patch_head)
        self.patch_centre = Centre(self.patch_prototypes, self.centre.momentum)

    def prototype_heads(self) -> list[PrototypeHead]:
        return [self.head, self.patch_head]

    def answers(
        self, network: Any, views: list[Tensor], alike: int = 0
    ) -> tuple[Float[Tensor, "crops prototypes"], Float[Tensor, "crops places patch_prototypes"]]:
        """What a network (the teacher, or this task) says of crops of one size and of their patches."""
        x, grid = network.encoder.embed(torch.cat(views))
        tokens = network.encoder.blocks(network.encoder.model.norm_pre(x))
        whole, each = network.aggregate(tokens, grid, alike)
        return network.head(whole), network.patch_head(each)

    def loss(self, batch: Batch, step: Step) -> Losses:
        views, temperature = self.views(batch, step), self.sharpness(step)
        said, true, patch, noted = [], [], torch.zeros((), device=views[0].device), []
        for part in filter(None, (views[:2], views[2:])):
            with torch.no_grad():
                teacher, patch_teacher = self.answers(self.teacher, part, self.alike)
            with self.dropped(part, step):
                student, patch_student = self.answers(self, part)
            target = sharpen(patch_teacher.flatten(0, 1), self.patch_centre.value, temperature)
            # every view counts alike, whatever its number of patches
            weight = target.new_full((len(target),), len(part) / (len(views) * len(target)))
            patch = patch + soft_cross_entropy(patch_student.flatten(0, 1), target, weight, self.temperature)
            said.append(student)
            true.append(teacher)
            noted.append(patch_teacher.flatten(0, 1))
        target = sharpen(true[0], self.centre.value, temperature)
        count = sum(map(len, noted))
        self.note(self.centre, torch.cat(true).mean(0))
        self.note(self.patch_centre, torch.stack([part.sum(0) for part in noted]).sum(0) / count)
        return {"cls": view_loss(torch.cat(said), target, len(views[0]), self.temperature), "patch": patch}

    def after_step(self, step: Step) -> None:
        super().after_step(step)
        self.patch_centre.update()

    def preview(self, batch: Batch, step: Step) -> Sheet:
        return replace(super().preview(batch, step), title="SelfPatch")

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"cls": log(self.prototypes), "patch": log(self.patch_prototypes)}
