"""data2vec for pictures: what does a slow copy that sees all make of the covered patches? (Baevski et al., ICML 2022)

Which output of a block is told, how it is normalised, the mask and the optimisation are those of the released run for
pictures (ViT-B), where the paper speaks of the feed-forward part's output in general (`target`) and leaves the mean
as it is (`renormalise`). That network is `beit_base_patch16_224:use_rel_pos_bias=false,use_shared_rel_pos_bias=true,
init_values=0.0001`. Not here: its dropout of 5% of the attention. The paper sets the rate for its batch of 2048; with
the batch it is scaled here.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pretask.data.batch import require, single
from pretask.encoders.beit import small_, start_as_beit
from pretask.encoders.drop_path import droppable, dropping_some
from pretask.encoders.ema import follow, teacher_of
from pretask.encoders.image import PatchEncoder
from pretask.errors import UsageError
from pretask.objectives.distributed import mean
from pretask.objectives.reconstruction import greyed, painted, patchify
from pretask.pretexts.masks import covered_first, draw_blocks, take
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Sheet, Step


class Data2Vec(PretextTask):
    """Tell a slow teacher's features of covered patches, a mean over its last blocks.

    Args:
        encoder: a vision transformer. Unless it is pretrained it starts as BEiT does.
        target_layers: last blocks of the teacher whose outputs are averaged; all of an encoder that has fewer.
        target: what a block is taken to say: all it hands on, or what its feed-forward part adds to that.
        renormalise: normalise the mean of the blocks again, as each of them was.
        mask_ratio: share of the patches that blocks cover at most (120 of 196).
        beta: distance up to which the loss is quadratic; beyond, it is absolute.
        momentum: the teacher's, the same all the time. It is meant for half a million steps: in a run of hundreds
            the teacher would stay as it began, and 0.99 suits.
        crop_scale: area of the random crop, as a share of the picture's.
        jitter: strength of the change of brightness, contrast and saturation; 0 leaves colours alone.
        drop_path: share of samples for which the student's last block is skipped, less for those before.

    Raises:
        UsageError: no layers or no distance, or a mask that covers nothing or everything.
    """

    encoder: PatchEncoder
    recipe = Recipe(
        "adamw", lr=2e-3, lr_batch=2048, batch_size=2048, epochs=800, weight_decay=0.05, betas=(0.9, 0.999),
        warmup=10 / 800, warmup_arrives=True, final_lr=1e-5 / 2e-3, clip=3.0,
        undecayed=("cls_token", "pos_embed"),
    )  # fmt: skip

    def __init__(
        self,
        encoder: PatchEncoder,
        target_layers: int = 6,
        target: Literal["block", "feed-forward"] = "block",
        renormalise: bool = True,
        mask_ratio: float = 0.6123,
        beta: float = 2.0,
        momentum: float = 0.9998,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        jitter: float = 0.4,
        drop_path: float = 0.25,
    ):
        super().__init__(encoder)
        if target_layers < 1 or beta <= 0:
            raise UsageError(
                f"target_layers must be at least 1 and beta above 0, not {target_layers} and {beta}"
            )
        self.num_hidden = int(encoder.num_patches * mask_ratio)
        if not 0 < self.num_hidden < encoder.num_patches:
            raise UsageError(
                f"mask_ratio {mask_ratio} covers {self.num_hidden} of {encoder.num_patches} patches; "
                "some must be covered and some not"
            )
        droppable(encoder)
        self.target_layers, self.target, self.renormalise = target_layers, target, renormalise
        self.beta, self.momentum, self.drop_path = beta, momentum, drop_path
        self.view = ViewSpec(
            encoder.image_size, crop_scale, flip=0.5, jitter=float(jitter > 0), brightness=jitter,
            contrast=jitter, saturation=jitter, interpolation="bicubic", colours_first=True,
        )  # fmt: skip
        self.mask_token = nn.Parameter(torch.zeros(1, encoder.dim))
        self.head = nn.Linear(encoder.dim, encoder.dim)
        small_(self.mask_token)
        small_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if not encoder.pretrained:
            start_as_beit(encoder)
        self.teacher = teacher_of(encoder)

    def puzzle(self, batch: Batch, step: Step) -> tuple[Tensor, Bool[Tensor, "batch patches"]]:
        """Crops, and which of their patches are covered."""
        image = require(batch, "image", 4)
        view = apply_view(
            self.view, image, draw_view(self.view, len(image), step.generator, batch.get("size"))
        )
        hidden = draw_blocks(self.encoder.grid, self.num_hidden, len(view), step.generator)
        return view, hidden.to(view.device)

    @torch.no_grad()
    def truth(self, view: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch patches dim"]:
        """What the teacher's last blocks make of each patch of the whole crop, each standardised over its width, and
        their mean."""
        blocks, outputs = list(self.teacher.model.blocks)[-self.target_layers :], []
        told = [block if self.target == "block" else block.drop_path2 for block in blocks]
        hooks = [part.register_forward_hook(lambda _, inputs, out: outputs.append(out)) for part in told]
        try:
            self.teacher(view)
        finally:
            for hook in hooks:
                hook.remove()
        layers = [F.layer_norm(single(out), out.shape[-1:]) for out in outputs]
        average = torch.stack(layers).mean(0)[:, self.teacher.num_prefix :]
        return F.layer_norm(average, average.shape[-1:]) if self.renormalise else average

    def answer(
        self,
        view: Tensor,
        hidden: Bool[Tensor, "batch patches"],
        places: Int[Tensor, "batch places"],
        step: Step,
    ) -> Float[Tensor, "batch places dim"]:
        """What the student tells at some places of the covered picture."""
        rate = self.drop_path if self.training else 0.0
        with dropping_some(self.encoder, len(view), rate, step.generator):
            tokens = self.encoder(view, hidden=hidden, mask_token=self.mask_token).tokens
        # the last norm, wherever it is
        return single(self.head(self.encoder.model.fc_norm(take(tokens, places))))

    def loss(self, batch: Batch, step: Step) -> Losses:
        view, hidden = self.puzzle(batch, step)
        places = covered_first(hidden, self.num_hidden)
        truth = self.truth(view)
        # near 0 where what is told has collapsed
        step.metrics["spread"] = truth.flatten(0, 1).std(0).mean()
        error = F.smooth_l1_loss(
            self.answer(view, hidden, places, step), take(truth, places), reduction="none", beta=self.beta
        ).mean(-1)
        counted = hidden.gather(1, places).to(error.dtype)
        # over the batch, not picture by picture: pictures hide unequally many
        return {"features": (error * counted).sum() / mean(counted.sum()).clamp(min=1)}

    def after_step(self, step: Step) -> None:
        follow(self.teacher, self.encoder, self.momentum)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        """The answer is drawn as the batch's patches of which the teacher says what is most like it."""
        view, hidden = self.puzzle(batch, step)
        size, grid = self.encoder.patch_size, self.encoder.grid
        every = torch.arange(hidden.shape[1], device=view.device).expand(len(view), -1)
        patches, known = patchify(view, size), F.normalize(self.truth(view).flatten(0, 1), dim=-1)
        nearest = (self.answer(view, hidden, every, step) @ known.T).argmax(-1)
        blank = greyed(view, hidden, size, grid)
        look = painted(view, hidden, patches.flatten(0, 1)[nearest], size, grid)
        rows = [
            [Panel("what it sees", a), Panel("patches most like its answer", b, "answer"),
             Panel("what the slow copy sees", c, "truth")]
            for a, b, c in zip(blank, look, view, strict=True)
        ]  # fmt: skip
        return Sheet("data2vec", "What does a slow copy that sees all make of the covered patches?", rows)
