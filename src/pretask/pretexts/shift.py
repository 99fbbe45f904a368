"""Small pictures moved by a few pixels and mirrored: the usual augmentation of CIFAR's classifiers."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pretask.pretexts import draw


class Shift(NamedTuple):
    """Where each picture moves.

    Args:
        offset: pixels down and right at which its window starts, 0 to twice the border.
        flip: mirrored after that.
    """

    offset: Int[Tensor, "batch 2"]
    flip: Bool[Tensor, "batch"]


def draw_shift(batch: int, border: int, generator: torch.Generator, flip: float = 0.5) -> Shift:
    """Uniform windows of a picture with `border` pixels added on each side."""
    return Shift(draw.integers(2 * border + 1, (batch, 2), generator), draw.chance(batch, flip, generator))


def apply_shift(
    image: Float[Tensor, "batch chans height width"], shift: Shift, border: int
) -> Float[Tensor, "batch chans height width"]:
    """torchvision's RandomCrop with padding, then its horizontal flip, a window a picture; what lies outside
    is 0, black for pictures in [0, 1]."""
    height, width = image.shape[2:]
    offset, flip = shift.offset.to(image.device), shift.flip.to(image.device)
    down = torch.arange(height, device=image.device) + offset[:, :1]  # (B, H)
    across = torch.arange(width, device=image.device).expand(len(image), -1)
    across = torch.where(flip[:, None], width - 1 - across, across) + offset[:, 1:]  # (B, W)
    padded = F.pad(image, (border,) * 4)
    sample = torch.arange(len(image), device=image.device)[:, None, None]
    return padded[sample, :, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2).contiguous()
