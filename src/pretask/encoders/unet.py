"""A small U-Net: from a picture to a picture of the same size (Ronneberger et al., MICCAI 2015)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

GROUPS = 4  # of channels that are normalised together


def block(before: int, after: int) -> nn.Sequential:
    """Two 3x3 convolutions, each normalised within a picture: what one picture becomes must not depend on
    the others of its batch."""
    layers: list[nn.Module] = []
    for width in (before, after):
        layers += [nn.Conv2d(width, after, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, after), nn.GELU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Down by halves and up again, with a connection past the middle at each level.

    Sides need not be divisible: the way up takes the sizes of the way down.

    Args:
        in_chans: channels of the input.
        out_chans: channels of the output.
        width: channels at full size, a multiple of 4; each level doubles them.
        levels: resolutions, the full one included.
        zero: start the last convolution at zero, so that the output is zero at first.
    """

    def __init__(self, in_chans: int, out_chans: int, width: int = 16, levels: int = 3, zero: bool = False):
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.down = nn.ModuleList(
            block(before, after) for before, after in zip([in_chans, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            block(low + high, high) for low, high in zip(widths[1:], widths, strict=False)
        )
        self.last = nn.Conv2d(width, out_chans, 1)
        if zero:
            for parameter in self.last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "batch in_chans h w"]) -> Float[Tensor, "batch out_chans h w"]:
        passed = []
        for level, part in enumerate(self.down):
            if level:
                x = F.max_pool2d(x, 2, ceil_mode=True)
            x = part(x)
            passed.append(x)
        for level in reversed(range(len(self.up))):
            x = F.interpolate(x, passed[level].shape[-2:], mode="nearest")
            x = self.up[level](torch.cat([x, passed[level]], dim=1))
        return self.last(x)
