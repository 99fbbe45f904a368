"""Masked autoencoder: hide most patches, encode the rest, rebuild the hidden (He et al., CVPR 2022)."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pretask.data.batch import require
from pretask.encoders.attention import class_attention
from pretask.encoders.decoder import TokenDecoder, start_as_mae
from pretask.encoders.image import PatchEncoder, check_norm
from pretask.errors import UsageError
from pretask.objectives.reconstruction import patchify, standardise, unpatchify
from pretask.pretexts.masks import MASKS, Shuffle, random_mask, shuffle, take
from pretask.pretexts.views import apply_view, draw_view, mae_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Question, Sheet, Step


class MAE(PretextTask):
    """Rebuild the pixels of hidden patches from the visible ones.

    Args:
        encoder: a vision transformer. Unless it is pretrained it starts as in the paper: fixed
            sine-cosine positions, Xavier-uniform weights.
        mask_ratio: share of the patches that is hidden.
        mask: which are hidden: `random`, `block` (BEiT's blocks), `grid` (all but an even lattice), or
            clusters as `green`, `red`, `blue` or `purple` noise has them (ColorMAE); or `attention`: those that
            the encoder's own class token attends to most (AttMask asks a teacher's), for one more pass.
        normalise_target: ask for patches without their own mean and contrast.
        decoder_dim: width of the decoder; none takes 512 from a ViT-B on and half the encoder's below.
        decoder_depth: blocks of the decoder; none takes 8 from a ViT-B on and 2 below.
        crop_scale: area of the random crop, as a share of the picture's.
    """

    encoder: PatchEncoder
    any_norm: ClassVar[bool] = False  # whether a norm behind the pooling serves as well
    recipe = Recipe(
        "adamw", lr=1.5e-4, batch_size=4096, epochs=800, weight_decay=0.05, betas=(0.9, 0.95), warmup=40 / 800
    )

    def __init__(
        self,
        encoder: PatchEncoder,
        mask_ratio: float = 0.75,
        mask: Literal["random", "block", "grid", "green", "red", "blue", "purple", "attention"] = "random",
        normalise_target: bool = True,
        decoder_dim: int | None = None,
        decoder_depth: int | None = None,
        crop_scale: tuple[float, float] = (0.2, 1.0),
    ):
        super().__init__(encoder)
        if not self.any_norm:
            check_norm(encoder)
        self.num_hidden = encoder.num_patches - int(encoder.num_patches * (1 - mask_ratio))
        if not 0 < self.num_hidden < encoder.num_patches:
            raise UsageError(
                f"mask_ratio {mask_ratio} hides {self.num_hidden} of {encoder.num_patches} patches; "
                "some must be hidden and some visible"
            )
        self.mask, self.normalise_target = mask, normalise_target
        self.view = mae_view(encoder.image_size, crop_scale)
        self.num_values = encoder.patch_size**2 * encoder.in_chans
        self.decoder = TokenDecoder(encoder.dim, self.num_values, encoder.grid, decoder_dim, decoder_depth)
        if not encoder.pretrained:
            self.start()

    def start(self) -> None:
        """The encoder's first weights."""
        start_as_mae(self.encoder)

    def loss(self, batch: Batch, step: Step) -> Losses:
        image, order = self.hide(batch, step)
        target = self.target(take(self.patches(image), order.hidden))
        # All pictures hide equally many patches: this mean is the paper's sum over the batch's hidden
        # patches divided by their number.
        return {"reconstruction": F.mse_loss(self.rebuild(image, order), target)}

    def hide(self, batch: Batch, step: Step) -> tuple[Float[Tensor, "batch chans h w"], Shuffle]:
        """Augmented pictures, and which of their patches are visible and hidden."""
        image = require(batch, "image", 4)
        drawn = draw_view(self.view, len(image), step.generator, batch.get("size"))
        view = apply_view(self.view, image, drawn)
        hidden = self.attended(view) if self.mask == "attention" else self.draw_mask(len(image), step)
        return view, shuffle(hidden.to(image.device), self.num_hidden)

    def draw_mask(self, batch: int, step: Step) -> Bool[Tensor, "batch patches"]:
        return MASKS[self.mask](self.encoder.grid, self.num_hidden, batch, step.generator)

    @torch.no_grad()
    def attended(self, image: Float[Tensor, "batch chans h w"]) -> Bool[Tensor, "batch patches"]:
        return random_mask(class_attention(self.encoder, image)[1].mean(1), self.num_hidden)

    def rebuild(self, image: Tensor, order: Shuffle) -> Float[Tensor, "batch hidden values"]:
        features = self.encoder(image, visible=order.visible)
        return self.decoder(features.tokens, features.prefix, order)

    def patches(self, image: Tensor) -> Float[Tensor, "batch patches values"]:
        return patchify(self.encoder.normalise(image), self.encoder.patch_size)

    def target(self, patches: Float[Tensor, "*patches values"]) -> Float[Tensor, "*patches values"]:
        return standardise(patches).values if self.normalise_target else patches

    def question(self, batch: Batch, step: Step) -> Question:
        """The first hidden patch of the masked picture."""
        image, order = self.hide(batch, step)
        truth = self.patches(image)
        visible, hidden = take(truth, order.visible), take(truth, order.hidden)
        shown = self.assemble(visible, torch.zeros_like(hidden), order)
        return Question(shown, torch.arange(len(image), device=image.device), self.target(hidden[:, 0]))

    def preview(self, batch: Batch, step: Step) -> Sheet:
        image, order = self.hide(batch, step)
        truth = self.patches(image)
        visible, hidden = take(truth, order.visible), take(truth, order.hidden)
        rebuilt = self.rebuild(image, order).to(hidden.dtype)
        if self.normalise_target:
            _, mean, std = standardise(hidden)
            rebuilt = rebuilt * std + mean
        masked, answer = (self.assemble(visible, part, order) for part in (torch.zeros_like(hidden), rebuilt))
        rows = [
            [Panel("what it sees", a), Panel("rebuilt", b, "answer"), Panel("the picture", c, "truth")]
            for a, b, c in zip(masked, answer, image, strict=True)
        ]
        return Sheet("Masked autoencoder", "What was in the hidden patches?", rows)

    def assemble(self, visible: Tensor, hidden: Tensor, order: Shuffle) -> Float[Tensor, "batch chans h w"]:
        """The picture in [0, 1] from its visible and hidden patches."""
        patches = take(torch.cat([visible, hidden], dim=1), order.restore)
        image = unpatchify(patches, self.encoder.patch_size, self.encoder.grid)
        return (image * self.encoder.std + self.encoder.mean).clamp(0, 1)

    def chance(self, batch_size: int) -> dict[str, float]:
        """Answering each normalised patch with its mean, 0, leaves its biased variance: (n-1)/n."""
        return {"reconstruction": 1 - 1 / self.num_values} if self.normalise_target else {}
