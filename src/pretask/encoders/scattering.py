"""Wavelet scattering with a small residual network behind it (ScatSimCLR, Kinakh et al., 2021), as timm models.

Importing this module registers `scatnet8`, `scatnet12`, `scatnet16`, `scatnet30` and `scatnet45` with timm. The
wavelets are kymatio's; its package imports no torch by itself, for that breaks where SciPy is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models import register_model
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from pretask.errors import UsageError, need

POOLED = 4  # rows and columns of what becomes the features


@lru_cache(maxsize=8)
def wavelets(height: int, width: int, scales: int, angles: int, device: str) -> Any:
    """kymatio's transform of order 2. Nothing in it learns, and its filters are the picture's size: it is no part
    of a network's state.

    Raises:
        UsageError: pictures are smaller than the widest wavelet.
    """
    if min(height, width) < 2**scales:
        raise UsageError(f"scattering over {scales} scales needs pictures of at least {2**scales} pixels")
    need("kymatio", "scattering")
    found = need("kymatio.scattering2d.frontend.torch_frontend", "scattering")
    return found.ScatteringTorch2D(J=scales, shape=(height, width), L=angles).to(device)


def coefficients(scales: int, angles: int) -> int:
    """Of one channel: 1 + L J + L^2 J (J - 1) / 2."""
    return 1 + angles * scales + angles**2 * scales * (scales - 1) // 2


class ScatNet(nn.Module):
    """Scattering coefficients of each channel, those of a channel next to each other, then a 3x3 convolution and
    residual blocks that keep the map's size, then means over 4 x 4 fields as one vector.

    The coefficients go in as they are: the batch normalisation that the official code makes for them is not used.

    Args:
        in_chans: channels of the pictures.
        num_classes: 0; kept for timm's sake, as is `global_pool`.
        scales: J; the map has a 2^J-th of the picture's side.
        angles: L.
        stem: channels behind the first convolution; 0 leaves the coefficients alone, and no block then.
        stacks: (width, number) of the residual blocks.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 0,
        global_pool: str = "avg",
        scales: int = 2,
        angles: int = 16,
        stem: int = 256,
        stacks: Sequence[Sequence[int]] = ((128, 30),),
    ):
        super().__init__()
        self.num_classes, self.scales, self.angles = num_classes, scales, angles
        width = in_chans * coefficients(scales, angles)
        layers: list[nn.Module] = []
        if stem:
            layers = [
                nn.Conv2d(width, stem, 3, padding=1, bias=False),
                nn.BatchNorm2d(stem),
                nn.ReLU(inplace=True),
            ]
            widths = [after for after, number in stacks for _ in range(number)]
            for before, after in zip([stem, *widths], widths, strict=False):
                fit = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))
                layers.append(BasicBlock(before, after, downsample=None if before == after else fit))
            width = widths[-1] if widths else stem
        self.adapter = nn.Sequential(*layers)
        self.num_features = width * POOLED**2

    @torch.compiler.disable
    def scatter(
        self, x: Float[Tensor, "batch chans h w"]
    ) -> Float[Tensor, "batch chans*coefficients rows columns"]:
        """The fixed part."""
        transform = wavelets(x.shape[2], x.shape[3], self.scales, self.angles, str(x.device))
        with torch.autocast(x.device.type, enabled=False):
            return transform(x.float().contiguous()).flatten(1, 2)

    def forward_features(
        self, x: Float[Tensor, "batch chans h w"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        return self.adapter(self.scatter(x))

    def forward_head(self, x: Float[Tensor, "batch dim rows columns"], pre_logits: bool = True) -> Tensor:
        return F.adaptive_avg_pool2d(x, POOLED).flatten(1)

    def forward(self, x: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch features"]:
        return self.forward_head(self.forward_features(x))


def sized(stem: int, stacks: Sequence[Sequence[int]], settings: dict[str, Any]) -> ScatNet:
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        settings.pop(name, None)
    return ScatNet(**{"stem": stem, "stacks": stacks, **settings})


@register_model
def scatnet8(pretrained: bool = False, **settings: Any) -> ScatNet:
    return sized(32, ((64, 4), (128, 4)), settings)


@register_model
def scatnet12(pretrained: bool = False, **settings: Any) -> ScatNet:
    return sized(256, ((128, 4), (64, 4), (128, 4)), settings)


@register_model
def scatnet16(pretrained: bool = False, **settings: Any) -> ScatNet:
    return sized(256, ((128, 6), (64, 4), (128, 6)), settings)


@register_model
def scatnet30(pretrained: bool = False, **settings: Any) -> ScatNet:
    return sized(256, ((128, 30),), settings)


@register_model
def scatnet45(pretrained: bool = False, **settings: Any) -> ScatNet:
    return sized(256, ((128, 15), (64, 15), (128, 15)), settings)
