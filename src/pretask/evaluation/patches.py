"""What learned from patches, judged by pictures: nine patches, averaged (Kolesnikov, Zhai, Beyer, CVPR 2019)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.data.batch import require, to_float
from pretask.encoders.features import Features
from pretask.encoders.stride import patch_geometry, stride
from pretask.methods.image.patch_puzzle import BYTES, standardised
from pretask.pretexts.patches import SIDE
from pretask.pretexts.views import centre_view
from pretask.task import Batch

WHOLE, CROPPED = 224, 192  # the picture's short side, and its middle that is cut into patches of 64


class NinePatches(nn.Module):
    """The encoder of a patch puzzle with the face of an encoder of pictures: the middle of a picture is cut into 3x3
    patches that adjoin, as large as those of the puzzle, each standardised and encoded by itself. In training the
    official probe crops anywhere; here the middle is taken always.

    Args:
        encoder: what learned from patches.
    """

    def __init__(self, encoder: Any):
        super().__init__()
        self.encoder, self.model, self.name = encoder, encoder.model, encoder.name
        self.dim, self.in_chans, self.image_size = encoder.dim, encoder.in_chans, encoder.image_size
        _, _, self.patch = patch_geometry(encoder)
        self.shown = max(self.patch, stride(encoder))
        self.whole = round(SIDE * self.patch * WHOLE / CROPPED)

    def encode(self, batch: Batch) -> Features:
        image = to_float(require(batch, "image", 4))
        return self(centre_view(image, batch.get("size"), self.whole))

    def forward(self, image: Float[Tensor, "batch chans side side"]) -> Features:
        """Features averaged over the patches; there is one place."""
        if image.shape[-1] != self.whole:
            image = F.interpolate(image, (self.whole, self.whole), mode="bilinear", antialias=True)
        size, edge = self.patch, (self.whole - SIDE * self.patch) // 2
        middle = image[:, :, edge : edge + SIDE * size, edge : edge + SIDE * size]
        patches = middle.unfold(2, size, size).unfold(3, size, size)  # (B, C, 3, 3, size, size)
        flat = standardised(patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2), BYTES)
        if self.shown != self.patch:
            flat = F.interpolate(flat, (self.shown, self.shown), mode="bilinear", align_corners=False)
        seen = self.encoder(flat * self.encoder.std + self.encoder.mean).pooled
        pooled = seen.unflatten(0, (-1, SIDE**2)).mean(1)
        return Features(pooled, pooled[:, None], pooled[:, :0, None].transpose(1, 2), (1, 1))
