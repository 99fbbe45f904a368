"""A picture in two parts: one is shown, the other hidden."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pretask.errors import UsageError

PARTS = ("left", "right", "top", "bottom", "centre", "ring", "columns")
"""What can be hidden: a half, the middle of half the side, all around it, every second column."""


def part_mask(part: str, height: int, width: int) -> Bool[Tensor, "h w"]:
    """The pixels that belong to a part.

    Raises:
        UsageError: there is no part of this name, or the picture is too small to have two.
    """
    mask = torch.zeros(height, width, dtype=torch.bool)
    if part in ("left", "right"):
        mask[:, : width // 2] = True
    elif part in ("top", "bottom"):
        mask[: height // 2] = True
    elif part in ("centre", "ring"):
        top, left = height // 4, width // 4
        mask[top : height - top, left : width - left] = True
    elif part == "columns":
        mask[:, 1::2] = True
    else:
        raise UsageError(f"there is no part '{part}' of a picture; there is: {', '.join(PARTS)}")
    if mask.all() or not mask.any():
        raise UsageError(f"a picture of {height} x {width} pixels is too small to hide its part '{part}'")
    return ~mask if part in ("right", "bottom", "ring") else mask


def without(image: Float[Tensor, "batch chans h w"], mask: Bool[Tensor, "h w"]) -> Tensor:
    """The picture with the masked pixels black."""
    return image * ~mask.to(image.device)


def only(image: Float[Tensor, "batch chans h w"], mask: Bool[Tensor, "h w"]) -> Float[Tensor, "batch values"]:
    """The masked pixels as a vector, channel by channel."""
    return image[:, :, mask.to(image.device)].flatten(1)
