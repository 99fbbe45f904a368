"""The picture itself as its features: the baseline every encoder must beat."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from pretask.encoders.features import Features


class PixelEncoder(nn.Module):
    """All pixels of a picture as one vector; nothing is learned.

    Args:
        image_size: side in pixels; evaluation resizes pictures to it.
        in_chans: channels.
    """

    def __init__(self, image_size: int = 32, in_chans: int = 3):
        super().__init__()
        self.image_size, self.in_chans = image_size, in_chans
        self.dim = in_chans * image_size**2

    def normalise(self, image: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch chans h w"]:
        return image

    def fresh_copy(self) -> PixelEncoder:
        return PixelEncoder(self.image_size, self.in_chans)

    def forward(self, image: Float[Tensor, "batch chans h w"]) -> Features:
        tokens = image.flatten(2).transpose(1, 2)  # (B, pixels, C)
        return Features(image.flatten(1), tokens, tokens[:, :0], tuple(image.shape[-2:]))
