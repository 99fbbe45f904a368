"""EVA: what does a model of pictures and words see in the covered patches? (Fang et al., CVPR 2023)

The released code has no target but CLIP's features; the paper also tries features without masking, and tokens made
of them, for which `beit` and `moodv2` take CLIP as their teacher. Pixels stand in where no teacher is named. Not
here: the variant with a decoder (EVA-L), and the validation loss, whose mask is every second patch. The rate does not
depend on the batch, as in the released code.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from timm.models.eva import Eva
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.beit import small_, start_as_beit
from pretask.encoders.drop_path import droppable, dropping
from pretask.encoders.image import PatchEncoder
from pretask.encoders.teachers import load_teacher
from pretask.errors import UsageError
from pretask.objectives.distributed import mean
from pretask.objectives.reconstruction import greyed, painted, patchify, standardise
from pretask.pretexts import draw
from pretask.pretexts.masks import covered_first, draw_blocks, take
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step

LEAST = 16  # patches in a block, of 16 x 16; of fewer patches a sixteenth, or too few blocks would fit


class EVA(PretextTask):
    """Predict a frozen teacher's features of covered patches, up to their length.

    Args:
        encoder: a vision transformer (`vit_giant_patch14_224` has the paper's shape). Unless it is pretrained
            it starts as BEiT does, and pictures are normalised for it as for the teacher.
        teacher: whose features are predicted: `pixels` for the patches' own, standardised, otherwise a frozen
            encoder (`open_clip:ViT-L-14@openai` is the paper's; a run folder, `timm:NAME`,
            `transformers:NAME`).
        mask_ratio: share of the patches that blocks cover at most (105 of 256, in blocks of 16 or more).
        everything: cover nothing and predict the features of all patches: distillation without masking.
        crop_scale: area of the random crop, as a share of the picture's.
        drop_path: share of samples for which the last block is skipped, less for those before.
        init_std: deviation of the weights it starts with (0.015 for the paper's giant).
        first_gradient: share of its gradient by which the first layer learns (0.1 with the official
            `stop_grad_conv1`).

    Raises:
        UsageError: a mask that covers nothing or everything, or a timm `eva...`, which cannot be covered.
    """

    encoder: PatchEncoder
    recipe = Recipe(
        "adamw", lr=1e-3, lr_batch=0, batch_size=4096, epochs=150, weight_decay=0.05, betas=(0.9, 0.98), eps=1e-6,
        warmup=2 / 150, warmup_arrives=True, final_lr=1e-2, clip=3.0, undecayed=("cls_token", "pos_embed"),
    )  # fmt: skip

    def __init__(
        self,
        encoder: PatchEncoder,
        teacher: str = "pixels",
        mask_ratio: float = 0.4102,
        everything: bool = False,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        drop_path: float = 0.1,
        init_std: float = 0.02,
        first_gradient: float = 1.0,
    ):
        super().__init__(encoder)
        if isinstance(encoder.model, Eva):
            raise UsageError("timm's eva... cannot be covered; `vit_giant_patch14_224` has EVA's shape")
        self.num_hidden = int(encoder.num_patches * mask_ratio)
        if not everything and not 0 < self.num_hidden < encoder.num_patches:
            raise UsageError(
                f"mask_ratio {mask_ratio} covers {self.num_hidden} of {encoder.num_patches} patches; "
                "some must be covered and some not"
            )
        self.everything, self.drop_path, self.depth = everything, drop_path, len(droppable(encoder))
        self.first_gradient = first_gradient
        self.view = ViewSpec(encoder.image_size, crop_scale, flip=0.5, interpolation="bicubic")
        self.teacher = None if teacher == "pixels" else load_teacher(teacher, encoder.grid, encoder.in_chans)
        self.mask_token = None if everything else nn.Parameter(torch.zeros(1, encoder.dim))
        values = encoder.patch_size**2 * encoder.in_chans
        self.head = nn.Linear(encoder.dim, values if self.teacher is None else self.teacher.dim)
        if self.mask_token is not None:
            small_(self.mask_token, init_std)
        small_(self.head.weight, init_std)
        nn.init.zeros_(self.head.bias)
        if not encoder.pretrained:
            start_as_beit(encoder, init_std)
            if self.teacher is not None and len(self.teacher.mean) == encoder.in_chans:
                encoder.mean, encoder.std = self.teacher.mean.clone(), self.teacher.std.clone()

    def puzzle(self, batch: Batch, step: Step) -> tuple[Tensor, Bool[Tensor, "batch patches"]]:
        """Crops, and which of their patches are covered; each picture its own number."""
        image = require(batch, "image", 4)
        view = apply_view(
            self.view, image, draw_view(self.view, len(image), step.generator, batch.get("size"))
        )
        least = min(LEAST, self.encoder.num_patches / 16)
        hidden = draw_blocks(self.encoder.grid, self.num_hidden, len(view), step.generator, least)
        return view, hidden.to(view.device)

    @torch.no_grad()
    def truth(self, view: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch patches features"]:
        """The teacher's features of each patch of the whole crop."""
        if self.teacher is None:
            return standardise(patchify(self.encoder.normalise(view), self.encoder.patch_size)).values
        return self.teacher(view).tokens

    def answer(
        self, view: Tensor, hidden: Bool[Tensor, "batch patches"], places: Tensor, step: Step
    ) -> Float[Tensor, "batch places features"]:
        """What is predicted at these places."""
        seen = {} if self.everything else {"hidden": hidden, "mask_token": self.mask_token}
        if self.training and self.drop_path and self.depth:
            unit = draw.uniform((len(view), self.depth, 2), step.generator)
            with dropping(self.encoder, unit.to(view.device), self.drop_path):
                features = self.encoder(view, **seen)
        else:
            features = self.encoder(view, **seen)
        return self.head(self.encoder.model.fc_norm(take(features.tokens, places)))

    def loss(self, batch: Batch, step: Step) -> Losses:
        view, hidden = self.puzzle(batch, step)
        counted = torch.ones_like(hidden) if self.everything else hidden
        most = counted.shape[1] if self.everything else self.num_hidden
        places = covered_first(counted, most)
        answer, truth = self.answer(view, hidden, places, step), take(self.truth(view), places)
        if answer.dtype != torch.float64:
            answer, truth = answer.float(), truth.float()
        likeness = F.cosine_similarity(answer, truth, dim=-1)
        weight = counted.gather(1, places).to(likeness.dtype)
        return {"features": -(likeness * weight).sum() / mean(weight.sum()).clamp(min=1)}

    def after_backward(self, step: Step) -> None:
        """The first layer's output is s x + (1 - s) x, the second x without gradient."""
        for parameter in self.encoder.model.patch_embed.parameters() if self.first_gradient != 1 else ():
            if parameter.grad is not None:
                parameter.grad.mul_(self.first_gradient)

    def question(self, batch: Batch, step: Step) -> Question:
        """The features of the first covered patch."""
        view, hidden = self.puzzle(batch, step)
        first = hidden.byte().argmax(1, keepdim=True)
        return Question(
            self.cover(view, hidden),
            torch.arange(len(view), device=view.device),
            take(self.truth(view), first)[:, 0],
        )

    def cover(self, view: Tensor, hidden: Tensor) -> Float[Tensor, "batch chans h w"]:
        return greyed(view, hidden, self.encoder.patch_size, self.encoder.grid)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        """The answer is drawn as the batch's patches whose true features are most like what is predicted."""
        view, hidden = self.puzzle(batch, step)
        every = torch.arange(hidden.shape[1], device=view.device).expand(len(view), -1)
        answer, truth = self.answer(view, hidden, every, step), self.truth(view)
        known = F.normalize(truth.flatten(0, 1).float(), dim=-1)
        nearest = (F.normalize(answer.float(), dim=-1) @ known.T).argmax(-1)
        patches = patchify(view, self.encoder.patch_size)
        look = painted(
            view, hidden, patches.flatten(0, 1)[nearest], self.encoder.patch_size, self.encoder.grid
        )
        rows = [
            [
                Panel("what it sees", a),
                Panel("patches most like its answer", b, "answer"),
                Panel("the picture", c, "truth"),
            ]
            for a, b, c in zip(self.cover(view, hidden), look, view, strict=True)
        ]
        return Sheet("EVA", "What does the teacher see in the covered patches?", rows)
