"""Regions of a picture that are cut out: a square in the middle, or a shape of no particular form."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from pretask.pretexts import draw

CELLS = 8  # of noise along a side; the official pattern has 7.7 for 128 pixels


def draw_shapes(
    side: int, share: float, batch: int, generator: torch.Generator
) -> Bool[Tensor, "batch side side"]:
    """Where smooth noise is lowest (Pathak et al., CVPR 2016, "random region"): a few blobs, cut at the border.

    The official code cuts windows from one large pattern until one covers 20 to 30 %; here every picture has noise of
    its own and covers exactly `share`.

    Args:
        side: of the picture in pixels.
        share: of the pixels, that is covered.
        batch: pictures.
        generator: the randomness.
    """
    noise = draw.uniform((batch, 1, CELLS, CELLS), generator)
    height = F.interpolate(noise, (side, side), mode="bicubic", align_corners=False).flatten(1)
    lowest = height.argsort(dim=1)[:, : round(share * side * side)]
    return torch.zeros_like(height, dtype=torch.bool).scatter(1, lowest, True).view(batch, side, side)


def middle_square(side: int, share: float, batch: int) -> Bool[Tensor, "batch side side"]:
    """A square of this share of the picture's area, in its middle."""
    edge = round(side * share**0.5)
    start = (side - edge) // 2
    mask = torch.zeros(batch, side, side, dtype=torch.bool)
    mask[:, start : start + edge, start : start + edge] = True
    return mask


def shrunk(mask: Bool[Tensor, "batch side side"], pixels: int) -> Bool[Tensor, "batch side side"]:
    """Without what is no further than so many pixels from the outside, which does not begin at the border."""
    return ~grown(~mask, pixels)


def grown(mask: Bool[Tensor, "batch side side"], pixels: int) -> Bool[Tensor, "batch side side"]:
    """With all that is no further than so many pixels, along rows and columns."""
    if not pixels:
        return mask
    size = 2 * pixels + 1
    return F.max_pool2d(mask.float()[:, None], size, stride=1, padding=pixels)[:, 0] > 0
