"""MONAI's networks of volumes with one face: levels of ever coarser maps, and one vector of them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.base import Encoder, split_name
from pretask.encoders.features import Features
from pretask.errors import UsageError, need
from pretask.task import Batch

CELLS = 8  # along each axis, of the data themselves as features


class Net(NamedTuple):
    """A kind of network.

    Args:
        stride: voxels between two tokens of the coarsest level.
        smallest: side of the smallest cube it can read.
        fine: the level of half the volume's resolution.
        width: channels of the finest level by default.
        divisor: of which the width must be a multiple.
        model: makes the third party's module from the number of channels and the width.
        levels: from that module and a volume to maps, from fine to coarse.
        widths: channels of these maps as multiples of the width.
    """

    stride: int
    smallest: int
    fine: int
    width: int
    divisor: int
    model: Callable[[int, int], nn.Module]
    levels: Callable[[Any, Tensor], list[Tensor]]
    widths: tuple[int, ...]


class SwinUNETREncoder(nn.Module):
    """The encoding half of MONAI's SwinUNETR (with `use_v2`), its modules under their own names: the weights load
    there. The residual block of each level reads one stage of the transformer, the finest reads the volume.

    Args:
        in_chans: values of a voxel.
        width: `feature_size`; 48 in the paper.
    """

    def __init__(self, in_chans: int, width: int):
        super().__init__()
        whole = need("monai.networks.nets", "volume").SwinUNETR(
            in_channels=in_chans, out_channels=1, feature_size=width, use_v2=True
        )
        self.swinViT = whole.swinViT
        self.encoder1, self.encoder2, self.encoder3 = whole.encoder1, whole.encoder2, whole.encoder3
        self.encoder4, self.encoder10 = whole.encoder4, whole.encoder10

    def forward(self, volume: Float[Tensor, "batch chans d h w"]) -> list[Tensor]:
        first, second, third, _, last = self.swinViT(volume)
        return [
            self.encoder1(volume), self.encoder2(first), self.encoder3(second), self.encoder4(third),
            self.encoder10(last),
        ]  # fmt: skip


def resnet(in_chans: int, width: int) -> nn.Module:
    """MONAI's residual network with a block a level: a small one, without the fourth level and the pooling, that
    reads boxes of 16 voxels. Its first layer halves the resolution."""
    model = need("monai.networks.nets", "volume").ResNet(
        "basic", [1, 1, 1, 1], [width, 2 * width, 4 * width, 8 * width], n_input_channels=in_chans,
        conv1_t_size=5, conv1_t_stride=2, no_max_pool=True, feed_forward=False,
    )  # fmt: skip
    model.layer4 = nn.Identity()
    return model


def resnet_levels(model: Any, volume: Tensor) -> list[Tensor]:
    x, found = model.act(model.bn1(model.conv1(volume))), []
    for layer in (model.layer1, model.layer2, model.layer3):
        x = layer(x)
        found.append(x)
    return found


def segresnet(in_chans: int, width: int) -> nn.Module:
    """MONAI's SegResNet without its decoder."""
    model = need("monai.networks.nets", "volume").SegResNet(init_filters=width, in_channels=in_chans)
    model.up_layers, model.up_samples, model.conv_final = nn.ModuleList(), nn.ModuleList(), nn.Identity()
    return model


NETS = {
    "swin_unetr": Net(32, 64, 1, 48, 12, SwinUNETREncoder, lambda model, x: model(x), (1, 1, 2, 4, 16)),
    "resnet": Net(8, 8, 0, 16, 8, resnet, resnet_levels, (1, 2, 4)),
    "segresnet": Net(8, 8, 1, 16, 8, segresnet, lambda model, x: model.encode(x)[1], (1, 2, 4, 8)),
}


class VolumeEncoder(Encoder):
    """A network of volumes; the pooled feature is the mean of every level, one behind the other.

    Args:
        net: which network.
        name: what `build` was given.
        width: channels of its finest level.
        in_chans: values of a voxel.
        size: voxels of the data along each axis.
    """

    modality: ClassVar[str] = "volume"

    def __init__(self, net: Net, name: str, width: int, in_chans: int, size: tuple[int, int, int]):
        super().__init__()
        self.net, self.name, self.inputs = net, name, {"in_chans": in_chans, "size": list(size)}
        self.model = net.model(in_chans, width)
        self.in_chans, self.size, self.stride = in_chans, size, net.stride
        self.dim = width * sum(net.widths)

    @property
    def reading(self) -> dict[str, Any]:
        return {"size": list(self.size), "channels": self.in_chans}

    def levels(self, volume: Float[Tensor, "batch chans d h w"]) -> list[Float[Tensor, "batch dim *grid"]]:
        """Maps from fine to coarse, of the volume stretched to whole cells.

        Raises:
            UsageError: it has other channels.
        """
        return self.net.levels(self.model, self.whole_cells(checked(volume, self.in_chans)))

    def whole_cells(self, volume: Tensor) -> Tensor:
        """Stretched so that every axis is a multiple of the coarsest level's cells, and the whole not too small."""
        cells = [max(1, round(side / self.stride)) for side in volume.shape[2:]]
        cells = [self.net.smallest // self.stride] * 3 if max(cells) == 1 else cells
        side = [count * self.stride for count in cells]
        if side == list(volume.shape[2:]):
            return volume
        return F.interpolate(volume, side, mode="trilinear", align_corners=False)

    def forward(self, volume: Float[Tensor, "batch chans d h w"]) -> Features:
        maps = self.levels(volume)
        tokens = maps[-1].flatten(2).transpose(1, 2)
        pooled = torch.cat([level.mean((2, 3, 4)) for level in maps], dim=1)
        return Features(pooled, tokens, tokens[:, :0], tuple(maps[-1].shape[2:]))

    def encode(self, batch: Batch) -> Features:
        return self(require(batch, "volume", 5))

    def maps(self, batch: Batch) -> Float[Tensor, "batch dim d h w"]:
        """All levels on one grid, of half the volume's resolution: what is said of every place."""
        levels = self.levels(require(batch, "volume", 5))
        grid = levels[self.net.fine].shape[2:]
        return torch.cat(
            [F.interpolate(level, grid, mode="trilinear", align_corners=False) for level in levels], dim=1
        )


class RawVolumes(Encoder):
    """Mean brightness in the cells of a lattice; of a place its voxel. Nothing is learned.

    Args:
        in_chans: values of a voxel.
        size: voxels of the data along each axis.
    """

    modality: ClassVar[str] = "volume"

    def __init__(self, in_chans: int, size: tuple[int, int, int]):
        super().__init__()
        self.model, self.name, self.inputs = nn.Identity(), "raw", {"in_chans": in_chans, "size": list(size)}
        self.in_chans = in_chans
        depth, height, width = (min(CELLS, side) for side in size)
        self.grid = (depth, height, width)
        self.dim = in_chans * self.grid[0] * self.grid[1] * self.grid[2]

    def forward(self, volume: Float[Tensor, "batch chans d h w"]) -> Features:
        cells = F.adaptive_avg_pool3d(checked(volume, self.in_chans), self.grid)
        tokens = cells.flatten(2).transpose(1, 2)
        return Features(cells.flatten(1), tokens, tokens[:, :0], self.grid)

    def maps(self, batch: Batch) -> Float[Tensor, "batch chans d h w"]:
        return checked(require(batch, "volume", 5), self.in_chans)


def checked(volume: Tensor, in_chans: int) -> Tensor:
    """
    Raises:
        UsageError: these are no volumes of so many channels.
    """
    if volume.ndim != 5 or volume.shape[1] != in_chans:
        raise UsageError(
            f"the encoder takes volumes (batch, {in_chans}, depth, height, width), not {tuple(volume.shape)}"
        )
    return volume


def build(name: str, in_chans: int = 1, size: tuple[int, int, int] = (96, 96, 96), **_: Any) -> Encoder:
    """`swin_unetr` (the paper's), `resnet` or `segresnet`, perhaps with `width` behind a colon, or `raw`.

    Raises:
        UsageError: there is no such encoder, or it cannot take these arguments.
    """
    depth, height, deep = size
    plain, given = split_name(name)
    if plain == "raw":
        return RawVolumes(in_chans, (depth, height, deep))
    if plain not in NETS or given.keys() - {"width"}:
        raise UsageError(f"'{name}': volumes are read by {', '.join(NETS)} (behind a colon: width) or raw")
    net = NETS[plain]
    width = given.get("width", net.width)
    if type(width) is not int or width < 1 or width % net.divisor:
        raise UsageError(f"encoder '{name}': width must be a multiple of {net.divisor}, not {width}")
    return VolumeEncoder(net, name, width, in_chans, (depth, height, deep))
