"""DINO that compares with a sample of its prototypes at each step, as a batch of captions is one of what could be
said (Generalization Beyond Data Imbalance, Wen et al., NeurIPS 2024).

The sample changes from step to step, so that a running centre means nothing: Sinkhorn-Knopp takes its place.
"""

from dataclasses import replace
from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.encoders.ema import follow, teacher_of
from pretask.encoders.heads import PrototypeHead
from pretask.encoders.image import ImageEncoder
from pretask.methods.image.dino import DINO
from pretask.objectives.distillation import cosine, entropy, view_loss
from pretask.objectives.sinkhorn import sinkhorn
from pretask.pretexts import draw
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Step

ROUNDS = 3  # of Sinkhorn-Knopp
FINAL = 1e-6 / (0.03 * 1024 / 256)
"""The official last rate, over the peak for its batch."""


class SampledDINO(DINO):
    """DINO among few of its prototypes, the same for student and teacher, which have length 1 and learn from the
    first step on. What is not listed is DINO's.

    Args:
        encoder: any image encoder.
        prototypes: K; none takes 65536, 1024 for pictures of at most 64 pixels.
        sampled: of them, in a step; none takes a quarter. K of them is the study's ablation with a small K.
        num_local: local crops of each picture; none takes 8, 4 for small pictures.
        global_scale: area of a global crop, as a share of the picture's.
        local_scale: area of a local crop.
        momentum: the teacher's at the start, rising to 1 in a cosine; none takes 0.996, 0.99 for small pictures.
        temperature: the student's.
        teacher_temperature: the teacher's.
    """

    recipe = Recipe(
        "sgd", lr=0.03, batch_size=1024, epochs=100, weight_decay=1e-4, warmup=0.1, warmup_arrives=True,
        final_lr=FINAL,
    )  # fmt: skip

    def __init__(
        self,
        encoder: ImageEncoder,
        prototypes: int | None = None,
        sampled: int | None = None,
        num_local: int | None = None,
        global_scale: tuple[float, float] = (0.14, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.14),
        momentum: float | None = None,
        temperature: float = 0.1,
        teacher_temperature: float = 0.04,
    ):
        super().__init__(
            encoder, prototypes, num_local, None, global_scale, local_scale, unit_prototypes=True, momentum=momentum,
            temperature=temperature, teacher_temperature=teacher_temperature,
            teacher_temperature_start=teacher_temperature, freeze_last_layer=0,
        )  # fmt: skip
        self.recipe = replace(type(self).recipe)
        self.sampled = min(sampled or self.prototypes // 4, self.prototypes)
        del self.centre
        # short rows turn quickly: their direction alone counts
        nn.init.normal_(self.head.last_layer.weight_v, std=self.prototypes**-0.5)
        self.teacher.head = teacher_of(self.head)

    def sample(self, step: Step) -> Int[Tensor, "sampled"]:
        """The prototypes of this step, the same for all samples on all processes."""
        return draw.common((self.prototypes,), step.generator).argsort()[: self.sampled]

    def compare(
        self, head: PrototypeHead, pooled: Float[Tensor, "crops dim"], chosen: Int[Tensor, "sampled"]
    ) -> Float[Tensor, "crops sampled"]:
        """Cosines with the chosen prototypes; the others are not computed."""
        rows = head.last_layer.weight_v[chosen.to(pooled.device)]
        return head.embed(pooled) @ F.normalize(rows, dim=1).T

    def loss(self, batch: Batch, step: Step) -> Losses:
        views, chosen = self.views(batch, step), self.sample(step)
        with torch.no_grad():
            taught = self.teacher.encoder(torch.cat(views[:2])).pooled
            target = sinkhorn(self.compare(self.teacher.head, taught, chosen), self.sharpness(step), ROUNDS)
        seen = torch.cat([self.encode(part, step).pooled for part in (views[:2], views[2:]) if part])
        step.metrics["target_entropy"] = entropy(target).mean()
        logits = self.compare(self.head, seen, chosen)
        return {"cls": view_loss(logits, target.to(logits), len(target) // 2, self.temperature)}

    def after_step(self, step: Step) -> None:
        follow(self.teacher, self, cosine(step.index, step.total, self.momentum, 1.0))

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"cls": log(self.sampled)}
