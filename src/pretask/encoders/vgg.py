"""VGG19-BN of any width, without skip connections (Simonyan, Zisserman, ICLR 2015, as set up by Kolesnikov, Zhai,
Beyer, CVPR 2019): normalisation behind every layer, two wide layers at the end, no dropout. timm's own has one width.

Importing this module registers it with timm as `vgg19_bn_wide`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from timm.models import register_model
from torch import Tensor, nn

from pretask.encoders.revnet import EPS, MOMENTUM, conv, norm, plain

TIMES = (1, 2, 4, 8, 8)  # width of each block's convolutions in terms of the first's


def halved() -> nn.MaxPool2d:
    return nn.MaxPool2d(2, ceil_mode=True)  # a single place stays one: a patch of 8 pixels


class VGG(nn.Module):
    """Blocks of 3x3 convolutions, each block but for its pooling a stage, and two fully connected layers (fc6, fc7).

    Args:
        in_chans: channels of the pictures.
        num_classes: of the classifier; 0 is none.
        global_pool: kept for timm's sake.
        width: k: the first convolutions have 8 k channels, the last two layers 512 k; 8 is the standard.
        layers: convolutions of each block.
        head_side: the last map is averaged down to so many places a side before fc6: 7 at 224 pixels, 1 at 32.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        width: int = 8,
        layers: Sequence[int] = (2, 2, 4, 4, 4),
        head_side: int = 7,
    ):
        super().__init__()
        self.num_classes, self.num_features, self.head_side = num_classes, 512 * width, head_side
        stages: list[nn.Module] = []
        inside = in_chans
        for count, times in zip(layers, TIMES, strict=True):
            parts: list[nn.Module] = [halved()] if stages else []
            for _ in range(count):
                wide = 8 * width * times
                parts += [conv(inside, wide, 3), norm(wide), nn.ReLU()]
                inside = wide
            stages.append(nn.Sequential(*parts))
        self.stages, self.pool = nn.Sequential(*stages), halved()
        self.fc6 = self.layer(inside * head_side**2)
        self.fc7 = self.layer(self.num_features)
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def layer(self, inside: int) -> nn.Sequential:
        wide = self.num_features
        return nn.Sequential(
            nn.Linear(inside, wide, bias=False), nn.BatchNorm1d(wide, EPS, MOMENTUM), nn.ReLU()
        )

    def forward_features(
        self, x: Float[Tensor, "batch chans h w"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        return self.pool(self.stages(x))

    def forward_head(self, x: Float[Tensor, "batch dim rows columns"], pre_logits: bool = False) -> Tensor:
        x = self.fc7(self.fc6(F.adaptive_avg_pool2d(x, self.head_side).flatten(1)))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Float[Tensor, "batch chans h w"]) -> Tensor:
        return self.forward_head(self.forward_features(x))


@register_model
def vgg19_bn_wide(pretrained: bool = False, **settings: Any) -> VGG:
    return VGG(**plain(settings))
