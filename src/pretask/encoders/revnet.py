"""RevNet: residual blocks that can be run backwards, so that none of their inputs has to be kept (Gomez et al.,
NeurIPS 2017), as the study of Kolesnikov, Zhai, Beyer (CVPR 2019) sets it up. Importing this module registers it with
timm as `revnet50`, and as `resnetv2_50_bare` timm's `resnetv2_50` without its last ReLU (the study's "(-)").

A block takes two halves of the channels: (x1, x2) -> (x2, x1 + F(x2)), F a pre-activated bottleneck whose width is a
quarter of a half. Between stages both halves together are pooled to half the side and padded with zero channels to
twice as many; only that step cannot be run backwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models import register_model
from torch import Tensor, nn

EPS, MOMENTUM = 1e-3, 0.01  # TensorFlow's defaults


def conv(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)


def norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, EPS, MOMENTUM)


@contextmanager
def same_statistics(module: nn.Module) -> Iterator[None]:
    """Within, batch normalisation does not count what it sees: it has seen it before."""
    layers = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


class Bottleneck(nn.Sequential):
    """F: norm, ReLU, 1x1; norm, ReLU, 3x3; norm, ReLU, 1x1, of a quarter of the width in between.

    Args:
        width: channels of its input and its output.
    """

    def __init__(self, width: int):
        layers = ((width, width // 4, 1), (width // 4, width // 4, 3), (width // 4, width, 1))
        made = [[norm(a), nn.ReLU(), conv(a, b, kernel)] for a, b, kernel in layers]
        super().__init__(*[part for layer in made for part in layer])


class ReversibleBlock(nn.Module):
    """(x1, x2) -> (x2, x1 + F(x2)), the halves side by side in one tensor.

    Args:
        width: channels of its input and its output, both halves together.
    """

    def __init__(self, width: int):
        super().__init__()
        self.residual = Bottleneck(width // 2)

    def forward(self, x: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch chans h w"]:
        first, second = x.chunk(2, dim=1)
        return torch.cat([second, first + self.residual(second)], dim=1)

    def inverse(self, y: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch chans h w"]:
        """What went in."""
        second, last = y.chunk(2, dim=1)
        return torch.cat([last - self.residual(second), second], dim=1)


class Downsample(nn.Module):
    """Half the side by means of 2x2 places, those that are there at a border of an odd side; and twice the channels,
    the new ones zero, half of them before the others and half behind."""

    def forward(self, x: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch 2*chans h2 w2"]:
        pooled = F.avg_pool2d(x, 2, ceil_mode=True)
        return F.pad(pooled, (0, 0, 0, 0, x.shape[1] // 2, x.shape[1] // 2))


class Backwards(torch.autograd.Function):
    """Blocks in a row of which only the last output is kept; what went into each is found again on the way back."""

    @staticmethod
    def forward(ctx, x: Tensor, blocks: Sequence[ReversibleBlock], *parameters: Tensor) -> Tensor:
        ctx.blocks, ctx.parameters = blocks, parameters
        kind = x.device.type
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        for block in blocks:
            x = block(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        (y,) = ctx.saved_tensors
        kind, dtype, enabled = ctx.autocast
        found: dict[nn.Parameter, Tensor] = {}
        for block in reversed(ctx.blocks):
            second, last = y.chunk(2, dim=1)
            # of the half that is handed on, and of the one F was added to
            passed, added = grad.chunk(2, dim=1)
            wanted = [p for p in block.parameters() if p.requires_grad]
            with torch.enable_grad(), same_statistics(block), torch.autocast(kind, dtype, enabled):
                second = second.detach().requires_grad_()
                residual = block.residual(second)
            back, *own = torch.autograd.grad(residual, [second, *wanted], added.to(residual.dtype))
            found |= dict(zip(wanted, own, strict=True))
            y = torch.cat([last - residual.detach(), second.detach()], dim=1)
            grad = torch.cat([added, passed + back], dim=1)
        return grad, None, *(found.get(p) for p in ctx.parameters)


class Stage(nn.Sequential):
    """Blocks of one width, behind a step to it from half the width and twice the side where there is one. Where
    gradients are wanted, blocks keep nothing but their last output; the one behind such a step keeps all.

    Args:
        blocks: reversible blocks, at first perhaps a `Downsample`.
        save_memory: False keeps everything, as autograd does by itself.
    """

    def __init__(self, blocks: Sequence[nn.Module], save_memory: bool):
        super().__init__(*blocks)
        self.save_memory = save_memory

    def forward(self, x: Tensor) -> Tensor:
        blocks: list[Any] = list(self)
        if not (self.save_memory and torch.is_grad_enabled()):
            return super().forward(x)
        if isinstance(blocks[0], Downsample):
            # the next block sees channels of zeros; found again they are only almost zero, and half of them have
            # another gradient through a ReLU
            x, blocks = nn.Sequential(*blocks[:2])(x), blocks[2:]
        if not blocks:
            return x
        return Backwards.apply(x, blocks, *(p for block in blocks for p in block.parameters()))


class ZeroPadPool(nn.Sequential):
    """3x3 max pooling of stride 2 that sees zeros beyond the border."""

    def __init__(self) -> None:
        super().__init__(nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(3, 2))


class RevNet(nn.Module):
    """A reversible residual network with the face of a timm model.

    Args:
        in_chans: channels of the pictures.
        num_classes: of the classifier; 0 is none.
        global_pool: kept for timm's sake; places are averaged.
        width: k: 64 k, 128 k, 256 k, 512 k channels in the blocks, an eighth in their bottlenecks; 4 is standard.
        layers: blocks a stage.
        last_relu: end with a ReLU.
        save_memory: run blocks backwards instead of keeping what went into them.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        width: int = 4,
        layers: Sequence[int] = (3, 4, 6, 3),
        last_relu: bool = True,
        save_memory: bool = True,
    ):
        super().__init__()
        widths = [64 * width * 2**stage for stage in range(len(layers))]
        self.num_classes, self.num_features = num_classes, widths[-1]
        self.conv1, self.maxpool = conv(in_chans, widths[0], 7, 2), ZeroPadPool()
        self.stages = nn.Sequential()
        for number, (count, wide) in enumerate(zip(layers, widths, strict=True)):
            smaller = [Downsample()] if number else []
            blocks = [ReversibleBlock(wide) for _ in range(count)]
            self.stages.append(Stage([*smaller, *blocks], save_memory))
        self.norm, self.last = norm(widths[-1]), nn.ReLU() if last_relu else nn.Identity()
        self.fc = nn.Linear(widths[-1], num_classes) if num_classes else nn.Identity()
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(
        self, x: Float[Tensor, "batch chans h w"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        return self.last(self.norm(self.stages(self.maxpool(self.conv1(x)))))

    def forward_head(self, x: Float[Tensor, "batch dim rows columns"], pre_logits: bool = False) -> Tensor:
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: Float[Tensor, "batch chans h w"]) -> Tensor:
        return self.forward_head(self.forward_features(x))


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what timm tells every model."""
    own = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    return {name: value for name, value in settings.items() if name not in own}


@register_model
def revnet50(pretrained: bool = False, **settings: Any) -> RevNet:
    return RevNet(**plain(settings))


@register_model
def resnetv2_50_bare(pretrained: bool = False, **settings: Any) -> nn.Module:
    from timm.models.resnetv2 import resnetv2_50

    model: Any = resnetv2_50(pretrained=pretrained, **plain(settings))
    model.norm.act = nn.Identity()
    return model
