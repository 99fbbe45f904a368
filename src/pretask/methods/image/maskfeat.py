"""MaskFeat: which way do the edges of covered patches run, and how strongly? (Wei et al., CVPR 2022)

Pictures only, as the official code (SlowFast) has them: its optimisation is that of the released configuration, whose
300 epochs were 1600 for the published 84.0; its batch of 256 is one machine's of eight. Histograms have length 1 in
each cell and channel, as there, not in the whole patch.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.image import PatchEncoder
from pretask.errors import UsageError
from pretask.objectives.distributed import mean
from pretask.objectives.reconstruction import greyed
from pretask.pretexts.hog import BINS, by_cell, by_patch, cell_side, hog, strokes
from pretask.pretexts.masks import covered_first, draw_blocks, take
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step

STD = 0.02


class MaskFeat(PretextTask):
    """Tell the histograms of oriented gradients of covered patches by one linear layer.

    Args:
        encoder: a vision transformer. Unless it is pretrained it starts as in the official code.
        mask_ratio: share of the patches that blocks cover at most (78 of 196, in blocks of a fifth of that or more).
        cell: side in pixels of the cells that have a histogram each; none takes 8, or the side nearest to 8 that
            divides a patch: patches of fewer than 8 pixels are one cell.
        crop_scale: area of the random crop, as a share of the picture's.

    Raises:
        UsageError: a mask that covers nothing or everything, or cells that do not fit into patches.
    """

    encoder: PatchEncoder
    recipe = Recipe(
        "adamw", lr=2e-4, lr_batch=256, batch_size=2048, epochs=300, weight_decay=0.05, betas=(0.9, 0.999),
        warmup=30 / 300, warmup_from=1e-6 / 2e-4, final_lr=1e-6 / 2e-4, clip=0.02,
    )  # fmt: skip

    def __init__(
        self,
        encoder: PatchEncoder,
        mask_ratio: float = 0.4,
        cell: int | None = None,
        crop_scale: tuple[float, float] = (0.5, 1.0),
    ):
        super().__init__(encoder)
        self.num_hidden = round(encoder.num_patches * mask_ratio)
        if not 0 < self.num_hidden < encoder.num_patches:
            raise UsageError(
                f"mask_ratio {mask_ratio} covers {self.num_hidden} of {encoder.num_patches} patches; "
                "some must be covered and some not"
            )
        self.cell = cell or cell_side(encoder.patch_size)
        if encoder.patch_size % self.cell:
            raise UsageError(f"cell {cell} does not divide a patch's {encoder.patch_size} pixels")
        self.cells = encoder.patch_size // self.cell
        self.view = ViewSpec(encoder.image_size, crop_scale, flip=0.5, interpolation="bicubic")
        self.mask_token = nn.Parameter(torch.zeros(1, encoder.dim))
        self.head = nn.Linear(encoder.dim, encoder.in_chans * BINS * self.cells**2)
        nn.init.trunc_normal_(self.mask_token, std=STD)
        nn.init.trunc_normal_(self.head.weight, std=STD)
        nn.init.zeros_(self.head.bias)
        if not encoder.pretrained:
            start(encoder)

    def puzzle(self, batch: Batch, step: Step) -> tuple[Tensor, Bool[Tensor, "batch patches"], Tensor]:
        """Crops, which of their patches are covered, and the histograms of all patches."""
        image = require(batch, "image", 4)
        drawn = draw_view(self.view, len(image), step.generator, batch.get("size"))
        view = apply_view(self.view, image, drawn)
        hidden = draw_blocks(
            self.encoder.grid, self.num_hidden, len(view), step.generator, self.num_hidden // 5
        )
        return view, hidden.to(view.device), by_patch(hog(view, self.cell), self.cells)

    def answer(
        self, view: Tensor, hidden: Bool[Tensor, "batch patches"], places: Tensor
    ) -> Float[Tensor, "batch places values"]:
        """The histograms at some places of the covered picture."""
        tokens = self.encoder(view, hidden=hidden, mask_token=self.mask_token).tokens
        return self.head(self.encoder.model.fc_norm(take(tokens, places)))  # the last norm, wherever it is

    def loss(self, batch: Batch, step: Step) -> Losses:
        view, hidden, truth = self.puzzle(batch, step)
        places = covered_first(hidden, self.num_hidden)
        answer, counted = self.answer(view, hidden, places), hidden.gather(1, places)
        error = (answer.to(truth.dtype) - take(truth, places)).square().mean(2) * counted
        return {"hog": error.sum() / mean(counted.sum().to(error)).clamp(min=1)}

    def question(self, batch: Batch, step: Step) -> Question:
        """The histograms of the first covered patch."""
        view, hidden, truth = self.puzzle(batch, step)
        first = take(truth, hidden.byte().argmax(1, keepdim=True))[:, 0]
        return Question(self.cover(view, hidden), torch.arange(len(view), device=view.device), first)

    def cover(self, view: Tensor, hidden: Tensor) -> Float[Tensor, "batch chans h w"]:
        return greyed(view, hidden, self.encoder.patch_size, self.encoder.grid)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        """Histograms are drawn as strokes along the edges; the answer stands among the true ones."""
        view, hidden, truth = self.puzzle(batch, step)
        every = torch.arange(hidden.shape[1], device=view.device).expand(len(view), -1)
        said = torch.where(hidden[..., None], self.answer(view, hidden, every).to(truth.dtype), truth)
        told, true = (strokes(by_cell(part, self.cells, self.encoder.grid)) for part in (said, truth))
        rows = [
            [Panel("what it sees", a), Panel("the covered edges, as it says", b, "answer"),
             Panel("the true edges", c, "truth"), Panel("the picture", d)]
            for a, b, c, d in zip(self.cover(view, hidden), told, true, view, strict=True)
        ]  # fmt: skip
        return Sheet("MaskFeat", "Which way do edges run in the covered patches, and how clearly?", rows)


@torch.no_grad()
def start(encoder: PatchEncoder) -> None:
    """SlowFast's start: weights, class token and positions from a normal of deviation 0.02; biases, those of norms
    too, at 0.02, but of the first layer, and 0 for the last norm, which there is the head's."""
    model = encoder.model
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.trunc_normal_(module.weight, std=STD)
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and module.bias is not None:
            nn.init.constant_(module.bias, 0.0 if module in (model.norm, model.fc_norm) else STD)
    for single in (model.cls_token, model.pos_embed):
        if single is not None:
            nn.init.trunc_normal_(single, std=STD)
