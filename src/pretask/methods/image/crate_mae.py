"""CRATE-MAE: masked completion in a transformer that is derived, not designed (Pai et al., ICLR 2024).

The encoder sees all places, hidden ones as a mask token; the decoder runs the encoder's blocks backwards, with
matrices of its own. Parts of the released model that its forward pass does not use are left out.
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pretask.encoders.crate import Crate, CrateDecoderBlock
from pretask.encoders.decoder import layer_norm, xavier_linear
from pretask.encoders.image import PatchEncoder
from pretask.errors import UsageError
from pretask.methods.image.mae import MAE
from pretask.pretexts.masks import Shuffle, take
from pretask.task import Batch, Sheet, Step


class CrateMAE(MAE):
    """Rebuild the pixels of hidden patches with an encoder and a decoder that mirror each other.

    Args:
        encoder: a `vit_crate_...`. Unless it is pretrained it starts as MAE's.
        mask_ratio: share of the patches that is hidden.
        normalise_target: ask for patches without their own mean and contrast.
        crop_scale: area of the random crop, as a share of the picture's.
    """

    def __init__(
        self,
        encoder: PatchEncoder,
        mask_ratio: float = 0.75,
        normalise_target: bool = False,
        crop_scale: tuple[float, float] = (0.2, 1.0),
    ):
        if not isinstance(encoder.model, Crate):
            raise UsageError("crate-mae needs a CRATE, for instance --encoder vit_crate_small_patch16_224")
        super().__init__(
            encoder, mask_ratio, normalise_target=normalise_target, decoder_depth=1, crop_scale=crop_scale
        )
        dim, blocks = encoder.dim, encoder.model.blocks
        heads: Any = blocks[0].attn.num_heads  # type: ignore[union-attr]
        self.decoder = nn.Sequential(  # type: ignore[assignment]
            *(CrateDecoderBlock(dim, heads) for _ in blocks),
            layer_norm(dim),
            nn.Linear(dim, self.num_values),
        )
        self.decoder.apply(xavier_linear)
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # two dimensions: it decays, as officially
        nn.init.normal_(self.mask_token, std=0.02)

    def hidden(self, order: Shuffle) -> Bool[Tensor, "batch patches"]:
        return order.restore >= order.visible.shape[1]

    def rebuild(self, image: Tensor, order: Shuffle) -> Float[Tensor, "batch hidden values"]:
        features = self.encoder(image, hidden=self.hidden(order), mask_token=self.mask_token)
        answered = self.decoder(torch.cat([features.prefix, features.tokens], dim=1))
        return take(answered[:, self.encoder.num_prefix :], order.hidden)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        return replace(super().preview(batch, step), title="CRATE-MAE")
