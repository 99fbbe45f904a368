"""Shortcuts planted on purpose: what gives a pretext away without any understanding of the picture.

To find out whether a method takes them, and whether a remedy helps (Minderer et al., ICML 2020, section 4.1):
plant them before the pretext, leave them out where the encoder is judged. Float pictures in [0, 1].
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Pictures = Float[Tensor, "batch chans height width"]


def arrow(side: int) -> Bool[Tensor, "side side"]:
    """A triangle that fills a square and points up: its rows widen by half a step downwards.

    For 4 pixels 0110, 0110, 1111, 1111.
    """
    across = (torch.arange(side) + 0.5 - side / 2).abs()
    half_width = torch.arange(side) // 2 + 1  # two rows alike
    return across < half_width[:, None]


def plant_arrow(image: Pictures, side: int = 4, margin: int = 1) -> Pictures:
    """A white triangle that points up, in the upper left corner: a mark that tells the orientation, as a
    watermark does.

    Args:
        image: upright pictures.
        side: of the mark in pixels.
        margin: pixels between it and the borders.
    """
    marked = image.clone()
    corner = marked[:, :, margin : margin + side, margin : margin + side]
    corner.masked_fill_(arrow(side).to(image.device), 1.0)
    return marked


def mark_box(height: int, width: int, side: int = 4, margin: int = 1) -> Bool[Tensor, "height width"]:
    """Where `plant_arrow` plants: the square the triangle fills."""
    box = torch.zeros(height, width, dtype=torch.bool)
    box[margin : margin + side, margin : margin + side] = True
    return box


def plant_gradient(image: Pictures, strength: float = 0.1) -> Pictures:
    """Brighter by `strength` at the top and darker by as much at the bottom, within [0, 1]."""
    ramp = torch.linspace(strength, -strength, image.shape[2], device=image.device, dtype=image.dtype)
    return (image + ramp.view(1, 1, -1, 1)).clamp(0, 1)


def plant_aberration(image: Pictures, pixels: int = 1) -> Pictures:
    """The first channel moved up and the last one down against those between, by whole pixels: a chromatic
    aberration with a direction. Borders are repeated; a single channel stays as it is."""
    if image.shape[1] < 2 or pixels == 0:
        return image.clone()
    moved = image.clone()
    moved[:, 0, :-pixels] = image[:, 0, pixels:]
    moved[:, 0, -pixels:] = image[:, 0, -1:]
    moved[:, -1, pixels:] = image[:, -1, :-pixels]
    moved[:, -1, :pixels] = image[:, -1, :1]
    return moved
