"""The picture itself as its features: the baseline every encoder must beat."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.encoders.features import Features
from pretask.encoders.image import EncoderSpec, ImageEncoder

CELLS = 32
"""Cells a side at most: all pixels of a photograph would be 150,000 numbers, which a probe neither holds nor learns
from a few thousand pictures."""


class PixelEncoder(ImageEncoder):
    """All pixels of a small picture as one vector, of a larger one the mean in each cell of a lattice; nothing is
    learned.

    Args:
        image_size: side in pixels; evaluation resizes pictures to it.
        in_chans: channels.
    """

    def __init__(self, image_size: int = 32, in_chans: int = 3):
        model: Any = nn.Identity()
        model.num_features = in_chans * min(image_size, CELLS) ** 2
        spec = EncoderSpec("raw", in_chans, image_size)
        super().__init__(model, spec, (0.0,) * in_chans, (1.0,) * in_chans)

    def forward(self, image: Float[Tensor, "batch chans h w"]) -> Features:
        height, width = (min(side, CELLS) for side in image.shape[-2:])
        cells = F.adaptive_avg_pool2d(image, (height, width))
        tokens = cells.flatten(2).transpose(1, 2)  # (B, cells, C)
        return Features(cells.flatten(1), tokens, tokens[:, :0], (height, width))
