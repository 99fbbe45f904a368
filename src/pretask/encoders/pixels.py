"""The picture itself as its features: the baseline every encoder must beat."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from pretask.encoders.features import Features
from pretask.encoders.image import EncoderSpec, ImageEncoder


class PixelEncoder(ImageEncoder):
    """All pixels of a picture as one vector; nothing is learned.

    Args:
        image_size: side in pixels; evaluation resizes pictures to it.
        in_chans: channels.
    """

    def __init__(self, image_size: int = 32, in_chans: int = 3):
        model: Any = nn.Identity()
        model.num_features = in_chans * image_size**2
        spec = EncoderSpec("raw", in_chans, image_size)
        super().__init__(model, spec, (0.0,) * in_chans, (1.0,) * in_chans)

    def forward(self, image: Float[Tensor, "batch chans h w"]) -> Features:
        tokens = image.flatten(2).transpose(1, 2)  # (B, pixels, C)
        return Features(image.flatten(1), tokens, tokens[:, :0], tuple(image.shape[-2:]))
