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


class DenseHead(nn.Module):
    """Doubles an encoder's grid until it is as fine as asked, then answers at each place: conv8 of the network of
    Zhang et al. (ECCV 2016) and its classifier.

    A 4x4 transposed convolution of stride 2 a doubling, two 3x3 convolutions, and a 1x1; each but the last with ReLU
    behind it, all with biases, none with batch norm. The paper doubles once; without any doubling a 3x3
    convolution takes that layer's place.

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
        sides = (encoder.dim, *[width] * max(0, doublings - 1))
        layers: list[nn.ConvTranspose2d | nn.Conv2d]
        layers = [nn.ConvTranspose2d(side, width, 4, 2, 1) for side in sides[:doublings]]
        layers = layers or [nn.Conv2d(encoder.dim, width, 3, padding=1)]
        layers += [nn.Conv2d(width, width, 3, padding=1) for _ in range(2)]
        for layer in layers:  # without batch norm torch's own start would all but silence the last layer
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        self.blocks = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU(inplace=True))))
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, features: Features, size: tuple[int, int]) -> Float[Tensor, "batch classes h w"]:
        """Predictions on a grid of `size`; resampled where doubling does not meet it exactly."""
        maps = self.blocks(feature_map(features))
        if maps.shape[-2:] != size:
            maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
        return self.classify(maps)
