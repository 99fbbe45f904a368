"""A prediction for every place of a picture, from any encoder's grid of tokens."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.encoders.features import Features
from pretask.encoders.image import ImageEncoder, PatchEncoder


def grid_of(encoder: ImageEncoder) -> tuple[int, int]:
    """Rows and columns of an image encoder's tokens at its own image size."""
    if isinstance(encoder, PatchEncoder):
        return encoder.grid
    training = encoder.training
    image = torch.zeros(1, encoder.in_chans, encoder.image_size, encoder.image_size)
    with torch.no_grad():
        rows, columns = encoder.eval()(image.to(next(encoder.parameters()).device)).grid
    encoder.train(training)
    return rows, columns


def feature_map(features: Features) -> Float[Tensor, "batch dim rows columns"]:
    """Tokens laid out as they lie in the picture."""
    return features.tokens.transpose(1, 2).unflatten(2, features.grid)


def conv_block(layer: nn.Module, width: int) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


class DenseHead(nn.Module):
    """Doubles an encoder's grid until it is as fine as asked, then answers at each place.

    A 3x3 convolution, a 4x4 transposed convolution of stride 2 a doubling, another 3x3 and a 1x1, as in
    the last block of Zhang et al. (ECCV 2016); without any doubling it is a small convolutional head.

    Args:
        encoder: whose tokens are read.
        classes: numbers predicted at each place.
        stride: pixels between two predictions at the encoder's image size.
        width: channels inside.
    """

    def __init__(self, encoder: ImageEncoder, classes: int, stride: int = 4, width: int = 256):
        super().__init__()
        cells = math.ceil(encoder.image_size / stride)
        doublings = max(0, round(math.log2(cells / max(grid_of(encoder)))))
        blocks = [conv_block(nn.Conv2d(encoder.dim, width, 3, padding=1, bias=False), width)]
        for _ in range(doublings):
            blocks.append(conv_block(nn.ConvTranspose2d(width, width, 4, 2, 1, bias=False), width))
        blocks.append(conv_block(nn.Conv2d(width, width, 3, padding=1, bias=False), width))
        self.blocks = nn.Sequential(*blocks)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, features: Features, size: tuple[int, int]) -> Float[Tensor, "batch classes h w"]:
        """Predictions on a grid of `size`; resampled where doubling does not meet it exactly."""
        maps = self.blocks(feature_map(features))
        if maps.shape[-2:] != size:
            maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
        return self.classify(maps)
