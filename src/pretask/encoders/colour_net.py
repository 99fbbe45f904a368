"""The network of Colorful Image Colorization (Zhang et al., ECCV 2016, version 2), as a timm model.

Importing this module registers it with timm as `colour_net`.
"""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from timm.models import register_model
from torch import Tensor, nn

from pretask.pretexts.colour import rgb_to_lab

# convolutions as (width, dilation), a block a row; the first three blocks halve the picture at their end
BLOCKS = (
    ((64, 1),) * 2,
    ((128, 1),) * 2,
    ((256, 1),) * 3,
    ((512, 1),) * 3,
    ((512, 2),) * 3,
    ((512, 2),) * 3,
    ((512, 1),) * 3,
)
HALVED = 3


class ColourNet(nn.Module):
    """conv1 to conv7: VGG-like, ReLU after each convolution, batch norm without scale and shift after each
    block, stride 8. What the paper puts behind it (conv8 and the classifier) is the task's head.

    Whatever it is shown, it sees the lightness alone, L - 50, divided by nothing.

    Args:
        in_chans: 3 for RGB in [0, 1], whose lightness it takes; 1 for L / 100.
        num_classes: 0; kept for timm's sake, as is `global_pool`.
        width: multiplies all widths.
    """

    def __init__(self, in_chans: int = 3, num_classes: int = 0, global_pool: str = "avg", width: float = 1.0):
        super().__init__()
        self.num_classes = num_classes
        self.mean, self.std = (0.0,) * in_chans, (1.0,) * in_chans  # no normalisation in front of it
        layers: list[nn.Module] = []
        before = 1
        for number, block in enumerate(BLOCKS):
            for place, (full, dilation) in enumerate(block):
                stride = 2 if number < HALVED and place == len(block) - 1 else 1
                after = max(1, round(full * width))
                layers.append(nn.Conv2d(before, after, 3, stride, dilation, dilation))
                layers.append(nn.ReLU(inplace=True))
                before = after
            layers.append(nn.BatchNorm2d(before, affine=False))
        self.blocks = nn.Sequential(*layers)
        self.num_features = before
        for layer in self.blocks:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward_features(self, x: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch dim rows cols"]:
        lightness = 100 * x if x.shape[1] == 1 else rgb_to_lab(x)[:, :1]
        return self.blocks(lightness - 50)

    def forward_head(self, x: Float[Tensor, "batch dim rows columns"], pre_logits: bool = True) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def forward(self, x: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch dim"]:
        return self.forward_head(self.forward_features(x))


@register_model
def colour_net(pretrained: bool = False, **kwargs: Any) -> ColourNet:
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(name, None)
    return ColourNet(**kwargs)
