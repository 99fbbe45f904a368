"""PIL's posterise, sharpness, solarise and autocontrast for batches, on 256 levels as PIL has them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pretask.pretexts import draw
from pretask.pretexts.photometric import where


class Enhancement(NamedTuple):
    """The numbers behind it; one row a sample.

    Args:
        chosen: whether all four are applied; else none is.
        step: 2^(8 - bits) levels that posterising makes one.
        sharpness: 0 smooths, 1 leaves alone, above sharpens.
        threshold: levels from here on are inverted.
    """

    chosen: Bool[Tensor, "batch"]
    step: Float[Tensor, "batch"]
    sharpness: Float[Tensor, "batch"]
    threshold: Float[Tensor, "batch"]


def draw_enhancement(batch: int, probability: float, generator: torch.Generator) -> Enhancement:
    """PIRL's ranges: 4 .. 8 bits, sharpness U(0.1, 1.9), threshold 0 .. 256."""
    unit = draw.uniform((batch, 4), generator)
    bits = 4 + (unit[:, 1] * 5).floor()
    return Enhancement(
        unit[:, 0] < probability, 2 ** (8 - bits), 0.1 + 1.8 * unit[:, 2], (unit[:, 3] * 257).floor()
    )


def enhance(
    image: Float[Tensor, "batch chans h w"], enhancement: Enhancement
) -> Float[Tensor, "batch chans h w"]:
    """Posterise, sharpen, solarise and stretch the contrast of the chosen pictures, in this order."""
    chosen, *numbers = (value.to(image.device) for value in enhancement)
    return where(chosen, image, enhance_all, *numbers)


def enhance_all(image: Tensor, step: Tensor, sharpness: Tensor, threshold: Tensor) -> Tensor:
    step, sharpness, threshold = (value.view(-1, 1, 1, 1) for value in (step, sharpness, threshold))
    levels = (image * 255).round()
    levels = sharpen(levels - levels % step, sharpness)
    levels = torch.where(levels < threshold, levels, 255 - levels)
    return autocontrast(levels) / 255


def sharpen(levels: Float[Tensor, "batch chans h w"], factor: Float[Tensor, "batch 1 1 1"]) -> Tensor:
    """Away from (or towards) a 3x3 smoothing with a centre of 5/13; the border stays as it is."""
    smooth = levels.clone()
    inside = levels[..., 1:-1, 1:-1]
    around = F.avg_pool2d(levels, 3, stride=1, divisor_override=1)
    smooth[..., 1:-1, 1:-1] = ((around + 4 * inside) / 13).round()
    return (smooth + factor * (levels - smooth)).clamp(0, 255).floor()


def autocontrast(levels: Float[Tensor, "batch chans h w"]) -> Tensor:
    """Each channel stretched to 0 .. 255; a channel of one level stays."""
    low, high = levels.amin((2, 3), keepdim=True), levels.amax((2, 3), keepdim=True)
    scale = 255 / (high - low)
    return torch.where(high > low, (levels * scale - low * scale).floor().clamp(0, 255), levels)
