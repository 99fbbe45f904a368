"""Convolutional networks over time and space: torchvision's ResNets at any width and depth, and C3D."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.video.resnet import (
    BasicBlock,
    Conv2Plus1D,
    Conv3DNoTemporal,
    Conv3DSimple,
    VideoResNet,
)

MAKERS: dict[str, list[Any]] = {
    "r3d_18": [Conv3DSimple] * 4,
    "mc3_18": [Conv3DSimple] + [Conv3DNoTemporal] * 3,
    "r2plus1d_18": [Conv2Plus1D] * 4,
}
"""The convolutions of each stage (Tran et al., CVPR 2018)."""

C3D_STAGES = (1, 1, 2, 2, 2)
"""Convolutions of each stage (Tran et al., ICCV 2015)."""


class Size(NamedTuple):
    """The arguments behind an encoder's name.

    Args:
        width: of the first stage; of the ResNets' and C3D's.
        layers: blocks of each stage of a ResNet: (1, 1, 1, 1) is R3D-10.
        frames: of a clip; longer videos are looked at clip by clip.
    """

    width: int = 64
    layers: tuple[int, ...] = (2, 2, 2, 2)
    frames: int = 16


class ResNet(VideoResNet):
    """At width 64 with two blocks a stage torchvision's own network, weights' names included.

    Args:
        kind: of `MAKERS`.
        size: of the network.
        in_chans: of the frames.
    """

    def __init__(self, kind: str, size: Size, in_chans: int):
        nn.Module.__init__(self)
        self.inplanes = size.width
        self.stem = stem(kind, size.width, in_chans)
        stages = zip(MAKERS[kind], size.layers, strict=True)
        for number, (maker, blocks) in enumerate(stages):
            width, stride = size.width * 2**number, 1 if number == 0 else 2
            setattr(self, f"layer{number + 1}", self._make_layer(BasicBlock, maker, width, blocks, stride))
        self.num_features = self.inplanes
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, video: Float[Tensor, "batch chans frames h w"]) -> Float[Tensor, "batch dim t y x"]:
        x = self.stem(video)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))  # type: ignore[operator]


def stem(kind: str, width: int, in_chans: int) -> nn.Sequential:
    """The first layer: halves height and width, not time."""

    def layers(before: int, after: int, kernel: tuple[int, int, int], stride: int) -> list[nn.Module]:
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        conv = nn.Conv3d(before, after, kernel, (1, stride, stride), padding, bias=False)
        return [conv, nn.BatchNorm3d(after), nn.ReLU(inplace=True)]

    if kind != "r2plus1d_18":
        return nn.Sequential(*layers(in_chans, width, (3, 7, 7), 2))
    between = max(1, 45 * width // 64)
    return nn.Sequential(*layers(in_chans, between, (1, 7, 7), 2), *layers(between, width, (3, 1, 1), 1))


class C3D(nn.Module):
    """Eight convolutions of 3x3x3 with batch normalisation, pooled four times; the fully connected layers
    are left out, as self-supervised work does (VCOP, Xu et al., CVPR 2019).

    Args:
        size: of the network.
        in_chans: of the frames.
    """

    def __init__(self, size: Size, in_chans: int):
        super().__init__()
        before, layers = in_chans, list[nn.Module]()
        for stage, convolutions in enumerate(C3D_STAGES):
            width = size.width * min(2**stage, 8)
            if stage:
                layers.append(nn.MaxPool3d((1, 2, 2) if stage == 1 else 2))
            for _ in range(convolutions):
                conv = nn.Conv3d(before, width, 3, padding=1)
                layers += [conv, nn.BatchNorm3d(width), nn.ReLU(inplace=True)]
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                before = width
        self.features = nn.Sequential(*layers)
        self.num_features = before

    def forward(self, video: Float[Tensor, "batch chans frames h w"]) -> Float[Tensor, "batch dim t y x"]:
        return self.features(video)


class S3D(nn.Module):
    """torchvision's S3D (Xie et al., ECCV 2018) without its classifier.

    Args:
        in_chans: of the frames.
    """

    def __init__(self, in_chans: int):
        from torchvision.models.video import s3d

        super().__init__()
        self.features = s3d().features
        if in_chans != 3:
            first = self.features[0][0][0]
            shape = {key: getattr(first, key) for key in ("kernel_size", "stride", "padding")}
            self.features[0][0][0] = nn.Conv3d(in_chans, first.out_channels, bias=False, **shape)
        self.num_features = 1024

    def forward(self, video: Float[Tensor, "batch chans frames h w"]) -> Float[Tensor, "batch dim t y x"]:
        return self.features(video)


def published(name: str, model: nn.Module) -> None:
    """Take torchvision's weights, which were learned with Kinetics-400's labels."""
    import torchvision

    state = torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(progress=False)
    own = model.state_dict().keys()
    model.load_state_dict({key: torch.as_tensor(value) for key, value in state.items() if key in own})
