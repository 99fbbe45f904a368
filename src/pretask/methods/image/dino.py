"""DINO: say of any crop what a slow teacher says of another (Caron et al., ICCV 2021)."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from math import ceil, log

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.drop_path import droppable, dropping
from pretask.encoders.ema import awake, follow, teacher_of
from pretask.encoders.features import Features
from pretask.encoders.heads import PrototypeHead
from pretask.encoders.image import ImageEncoder, PatchEncoder
from pretask.encoders.stride import local_side
from pretask.objectives.distillation import Centre, cosine, entropy, linear_warmup, sharpen, view_loss
from pretask.objectives.gradients import clip_each
from pretask.pretexts import draw
from pretask.pretexts.views import SMALL_IMAGE, apply_view, dino_views, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step

BASE = 768  # width of a ViT-B
WARMUP = 30  # epochs in which the teacher's temperature climbs, in runs of a hundred and more


class Teacher(nn.Module):
    """The same network again, named alike, so that it can follow parameter by parameter."""

    def __init__(self, encoder: ImageEncoder, head: PrototypeHead):
        super().__init__()
        self.encoder, self.head = teacher_of(encoder), teacher_of(head)


class DINO(PretextTask):
    """Self-distillation without labels: students see all crops, the teacher the two large ones.

    Sizes left open are the paper's, and above 64 pixels only: small pictures get 1024 prototypes, a
    network of 256 with a bottleneck of 64, 4 local crops of half the size, momentum 0.99, no blur, and a
    rate that warms up for a tenth of the run. A class token that was not learned before starts as in the
    official code, larger than timm's, and local crops take positions resized as there.

    Args:
        encoder: any image encoder.
        prototypes: answers to choose from, K; none takes 65536.
        num_local: local crops of each picture; none takes 8.
        local_size: their side in pixels; none takes 3/7 of the picture's (96 of 224).
        global_scale: area of a global crop, as a share of the picture's.
        local_scale: area of a local crop.
        hidden_dim: width of the head; none takes 2048.
        bottleneck_dim: width of what is compared with the prototypes; none takes 256.
        unit_prototypes: keep the prototypes at length 1; none does so from a ViT-B on.
        momentum: the teacher's at the start, rising to 1 in a cosine; none takes 0.996.
        temperature: the student's.
        teacher_temperature: the teacher's; 0.07 is better where the warm-up is long enough.
        teacher_temperature_start: the teacher's in the first epoch.
        temperature_epochs: epochs over which it climbs; none takes 30, in a shorter run than 100 three tenths.
        centre_momentum: of the running mean of the teacher's answers; 1 does without centring.
        drop_path: share of samples for which the last block is skipped, less for those before.
        clip: largest norm of each parameter's gradient.
        freeze_last_layer: epochs in which the prototypes do not learn; a tenth of a run no longer than that.
    """

    encoder: ImageEncoder
    recipe = Recipe(
        "adamw", lr=5e-4, batch_size=1024, epochs=800, weight_decay=0.04, weight_decay_end=0.4,
        betas=(0.9, 0.999), warmup=10 / 800, warmup_arrives=True, final_lr=5e-4,
    )  # fmt: skip

    def __init__(
        self,
        encoder: ImageEncoder,
        prototypes: int | None = None,
        num_local: int | None = None,
        local_size: int | None = None,
        global_scale: tuple[float, float] = (0.4, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.4),
        hidden_dim: int | None = None,
        bottleneck_dim: int | None = None,
        unit_prototypes: bool | None = None,
        momentum: float | None = None,
        temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        teacher_temperature_start: float = 0.04,
        temperature_epochs: int | None = None,
        centre_momentum: float = 0.9,
        drop_path: float = 0.1,
        clip: float = 3.0,
        freeze_last_layer: int = 1,
    ):
        super().__init__(encoder)
        small = encoder.image_size <= SMALL_IMAGE
        self.prototypes = prototypes or (1024 if small else 65536)
        self.num_local = (4 if small else 8) if num_local is None else num_local
        self.momentum = (0.99 if small else 0.996) if momentum is None else momentum
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.teacher_temperature_start, self.temperature_epochs = (
            teacher_temperature_start,
            temperature_epochs,
        )
        self.drop_path, self.clip, self.freeze_last_layer = drop_path, clip, freeze_last_layer
        *globals_, local = dino_views(
            encoder.image_size, local_side(encoder, local_size), global_scale, local_scale
        )
        self.view_specs = [*globals_, *[local] * self.num_local]
        if small:
            self.view_specs = [replace(spec, blur=0.0) for spec in self.view_specs]
            self.recipe = replace(self.recipe, batch_size=256, warmup=0.1)
        if unit_prototypes is None:
            unit_prototypes = encoder.dim >= BASE
        self.head = PrototypeHead(
            encoder.dim, self.prototypes, hidden_dim or (256 if small else 2048),
            bottleneck_dim or (64 if small else 256), unit_prototypes,
        )  # fmt: skip
        if isinstance(encoder, PatchEncoder):
            start_as_dino(encoder)
        self.depth = len(droppable(encoder))  # before the copy: the teacher must not drop by timm's coins
        self.teacher = Teacher(encoder, self.head)
        self.centre = Centre(self.prototypes, centre_momentum)

    @property
    def learned(self) -> nn.Module:
        return awake(self.teacher.encoder, self.encoder)

    def views(self, batch: Batch, step: Step) -> list[Float[Tensor, "batch chans h w"]]:
        """Two global crops and the local ones."""
        image, size = require(batch, "image", 4), batch.get("size")
        return [
            apply_view(spec, image, draw_view(spec, len(image), step.generator, size))
            for spec in self.view_specs
        ]

    def dropped(self, views: list[Tensor], step: Step) -> AbstractContextManager[None]:
        """Within, the student skips blocks for some crops of these views, in training."""
        if not (self.training and self.drop_path and self.depth):
            return nullcontext()
        unit = draw.uniform((len(views[0]), len(views), self.depth, 2), step.generator)
        return dropping(self.encoder, unit.transpose(0, 1).flatten(0, 1).to(views[0].device), self.drop_path)

    def encode(self, views: list[Tensor], step: Step, **masking: Tensor) -> Features:
        """The student's features of crops of one size, each view's batch together."""
        with self.dropped(views, step):
            return self.encoder(torch.cat(views), **masking)

    def loss(self, batch: Batch, step: Step) -> Losses:
        views = self.views(batch, step)
        with torch.no_grad():
            answers = self.teacher.head(self.teacher.encoder(torch.cat(views[:2])).pooled)
        seen = [self.encode(part, step).pooled for part in (views[:2], views[2:]) if part]
        return {"cls": self.agreement(self.head(torch.cat(seen)), answers, step)}

    def agreement(
        self,
        student: Float[Tensor, "views*batch prototypes"],
        teacher: Float[Tensor, "globals*batch prototypes"],
        step: Step,
    ) -> Float[Tensor, ""]:
        """The loss over pairs of different views, with the centre of the steps before."""
        target = sharpen(teacher, self.centre.value, self.sharpness(step))
        self.note(self.centre, teacher.mean(0))
        step.metrics["teacher_entropy"] = entropy(target.mean(0))  # 0 or ln K: collapsed
        step.metrics["target_entropy"] = entropy(target).mean()
        return view_loss(student, target, len(teacher) // 2, self.temperature)

    def note(self, centre: Centre, logits_mean: Tensor) -> None:
        if self.training and torch.is_grad_enabled():  # looking on must not change what is learned
            centre.observe(logits_mean)

    def sharpness(self, step: Step) -> float:
        """The teacher's temperature in this epoch."""
        epochs = self.temperature_epochs
        if epochs is None:
            epochs = min(WARMUP, ceil(3 * step.total / (10 * step.steps_per_epoch)))
        return linear_warmup(step.epoch, self.teacher_temperature_start, self.teacher_temperature, epochs)

    def after_backward(self, step: Step) -> None:
        clip_each(self.parameters(), self.clip)
        frozen = self.freeze_last_layer * step.steps_per_epoch
        if step.index < (frozen if step.total > frozen else step.total / 10):
            for head in self.prototype_heads():
                for parameter in head.last_layer.parameters():
                    parameter.grad = None

    def prototype_heads(self) -> list[PrototypeHead]:
        return [self.head]

    def after_step(self, step: Step) -> None:
        follow(self.teacher, self, cosine(step.index, step.total, self.momentum, 1.0))
        self.centre.update()

    def question(self, batch: Batch, step: Step) -> Question:
        first, second = self.views(batch, step)[:2]
        return Question(torch.cat([first, second]), torch.arange(len(first), device=first.device).repeat(2))

    def preview(self, batch: Batch, step: Step) -> Sheet:
        views = self.views(batch, step)
        asked = views[2] if self.num_local else views[0]
        codes = self.teacher.head(self.teacher.encoder(views[1]).pooled).softmax(1)
        found = (self.head(self.encoder(asked).pooled).softmax(1) @ codes.T).argmax(1).tolist()
        rows = [
            [
                Panel("what the student sees", asked[row]),
                Panel("what the teacher sees", views[1][row], "truth"),
                Panel("answer: whose words they are", views[1][answer], "answer"),
            ]
            for row, answer in enumerate(found)
        ]
        return Sheet("DINO", "What would the teacher say of another crop of this picture?", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"cls": log(self.prototypes)}


def start_as_dino(encoder: PatchEncoder) -> None:
    """Where the official vision transformer differs from timm's: positions of local crops, and how a class token
    starts (Caron et al., ICCV 2021; iBOT's and AttMask's code have the same)."""
    encoder.dino_positions = True
    token = encoder.model.cls_token
    if token is not None and not encoder.pretrained:
        nn.init.trunc_normal_(token, std=0.02)
