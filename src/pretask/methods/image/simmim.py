"""SimMIM: large squares are covered by a token, and one linear layer says what was there (Xie et al., CVPR 2022)."""

from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pretask.encoders.beit import small_, start_as_beit
from pretask.encoders.drop_path import droppable, dropping_some
from pretask.encoders.image import PatchEncoder
from pretask.errors import UsageError
from pretask.methods.image.mae import MAE
from pretask.objectives.reconstruction import patchify
from pretask.pretexts import draw
from pretask.pretexts.masks import Shuffle, random_mask, take
from pretask.pretexts.views import ViewSpec
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Sheet, Step


class SimMIM(MAE):
    """Tell the pixels of covered squares, which the encoder sees as a mask token.

    Args:
        encoder: a vision transformer; a `beit_...` has the official relative positions. Unless it is pretrained it
            starts as BEiT does, as in the official code.
        mask_ratio: share of the squares that is covered, rounded up.
        unit: side of a square in patches; none takes 2 (32 pixels of 224) where the grid is even, else 1.
        crop_scale: area of the random crop, as a share of the picture's.
        drop_path: share of samples for which the last block is skipped, less for those before.
    """

    any_norm: ClassVar[bool] = True
    recipe = Recipe(
        "adamw", lr=1e-4, lr_batch=512, batch_size=2048, epochs=800, weight_decay=0.05, betas=(0.9, 0.999),
        warmup=10 / 800, warmup_from=5e-7 / 1e-4, schedule="steps", drops=(700 / 800,), clip=5.0,
        undecayed=("cls_token", "pos_embed"),
    )  # fmt: skip

    def __init__(
        self,
        encoder: PatchEncoder,
        mask_ratio: float = 0.6,
        unit: int | None = None,
        crop_scale: tuple[float, float] = (0.67, 1.0),
        drop_path: float = 0.1,
    ):
        rows, columns = encoder.grid
        unit = unit or (2 if rows % 2 == columns % 2 == 0 else 1)
        if rows % unit or columns % unit:
            raise UsageError(f"unit {unit} does not divide the {rows} x {columns} patches of a picture")
        squares = rows // unit * (columns // unit)
        covered = -int(-squares * mask_ratio // 1)
        if not 0 < covered < squares:
            raise UsageError(
                f"mask_ratio {mask_ratio} covers {covered} of {squares} squares; some must be covered and some not"
            )
        super().__init__(encoder, 0.5, normalise_target=False, decoder_depth=1, crop_scale=crop_scale)
        self.unit, self.squares, self.covered = unit, squares, covered
        self.num_hidden = covered * unit**2
        self.view = ViewSpec(encoder.image_size, crop_scale, flip=0.5)
        self.drop_path = drop_path
        droppable(encoder)
        self.decoder = nn.Linear(encoder.dim, self.num_values)  # type: ignore[assignment]
        self.mask_token = nn.Parameter(torch.zeros(1, encoder.dim))
        small_(self.mask_token)

    def start(self) -> None:
        start_as_beit(self.encoder)

    def draw_mask(self, batch: int, step: Step) -> Bool[Tensor, "batch patches"]:
        """Whole squares."""
        noise = draw.uniform((batch, self.squares), step.generator)
        grid = [side // self.unit for side in self.encoder.grid]
        squares = random_mask(noise, self.covered).unflatten(1, grid)
        return squares.repeat_interleave(self.unit, 1).repeat_interleave(self.unit, 2).flatten(1)

    def rebuild(self, image: Tensor, order: Shuffle) -> Float[Tensor, "batch hidden values"]:
        hidden = order.restore >= order.visible.shape[1]
        tokens = self.encoder(image, hidden=hidden, mask_token=self.mask_token).tokens
        # the last norm, wherever it is
        return self.decoder(self.encoder.model.fc_norm(take(tokens, order.hidden)))

    def loss(self, batch: Batch, step: Step) -> Losses:
        image, order = self.hide(batch, step)
        truth = take(patchify(self.encoder.normalise(image), self.encoder.patch_size), order.hidden)
        rate = self.drop_path if self.training else 0.0
        with dropping_some(self.encoder, len(image), rate, step.generator):
            rebuilt = self.rebuild(image, order)
        return {"pixels": F.l1_loss(rebuilt, truth)}

    def preview(self, batch: Batch, step: Step) -> Sheet:
        return replace(super().preview(batch, step), title="SimMIM")

    def chance(self, batch_size: int) -> dict[str, float]:
        return {}
