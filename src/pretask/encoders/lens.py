"""A network that edits pictures before another one sees them, and both as one encoder."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pretask.encoders.base import Encoder
from pretask.encoders.features import Features
from pretask.encoders.image import ImageEncoder
from pretask.encoders.unet import UNet


class LensNet(nn.Module):
    """x + U(x) with a U-Net whose last layer starts at zero: at first every picture stays as it is. Nothing
    holds the result in [0, 1].

    Args:
        chans: channels of a picture.
        width: channels of the U-Net at full size.
        levels: its resolutions.
    """

    def __init__(self, chans: int, width: int = 16, levels: int = 3):
        super().__init__()
        self.shape = {"width": width, "levels": levels}
        self.edit = UNet(chans, chans, width, levels, zero=True)

    def forward(self, image: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch chans h w"]:
        return image + self.edit(2 * image - 1)


class LensedEncoder(ImageEncoder):
    """An encoder and a lens before it: [F(x), F(L(x))], or one of the two.

    Args:
        inner: F.
        lens: L.
        keep: `both`, one behind the other, or `lensed`, F(L(x)) alone.
    """

    def __init__(self, inner: ImageEncoder, lens: LensNet, keep: Literal["both", "lensed"] = "both"):
        Encoder.__init__(self)
        self.inner, self.lens, self.keep = inner, lens, keep
        self.spec, self.in_chans, self.image_size = inner.spec, inner.in_chans, inner.image_size
        self.dim = inner.dim * (2 if keep == "both" else 1)
        self.pretrained = inner.pretrained

    @property
    def model(self) -> nn.ModuleDict:  # type: ignore[override]
        """Both networks, as they are saved."""
        return nn.ModuleDict({"encoder": self.inner.model, "lens": self.lens})

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        return self.inner.mean

    @property
    def std(self) -> Tensor:  # type: ignore[override]
        return self.inner.std

    @property
    def inputs(self) -> dict[str, Any]:  # type: ignore[override]
        return {**self.inner.inputs, "lens": {**self.lens.shape, "keep": self.keep}}

    def forward(self, image: Float[Tensor, "batch chans h w"]) -> Features:
        self.inner.normalise(image[:0])  # its error for a wrong number of channels, before the lens's
        lensed = self.inner(self.lens(image))
        if self.keep == "lensed":
            return lensed
        plain = self.inner(image)
        pooled, tokens, prefix = (torch.cat(pair, dim=-1) for pair in zip(plain[:3], lensed[:3], strict=True))
        return Features(pooled, tokens, prefix, plain.grid)
