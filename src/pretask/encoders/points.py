"""Point clouds as tokens: a small PointNet looks at each patch, a transformer at all of them (Point-MAE)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pretask.data.geometry import Groups, group, interpolate
from pretask.encoders.base import Encoder, split_name
from pretask.encoders.features import Features
from pretask.encoders.heads import mlp
from pretask.errors import UsageError
from pretask.pretexts.masks import take

POSITION = 128  # hidden width of a network from coordinates to positions
CELLS = 8  # along each axis, for the data themselves as features


class Size(NamedTuple):
    """A transformer's size and how it cuts clouds; the arguments behind an encoder's name.

    Args:
        embed_dim: width of a token.
        depth: blocks.
        num_heads: attention heads.
        groups: patches of a cloud.
        group_size: points of a patch.
    """

    embed_dim: int
    depth: int
    num_heads: int
    groups: int = 64
    group_size: int = 32


SIZES = {
    "point_vit_tiny": Size(192, 12, 3),
    "point_vit_small": Size(384, 12, 6),  # Point-MAE's
    "point_vit_base": Size(768, 12, 12),
}


def position_mlp(dim: int) -> nn.Sequential:
    """From coordinates to a position of width `dim`."""
    return mlp(3, POSITION, dim, activation=nn.GELU)


class PatchTokens(nn.Module):
    """A small PointNet: a patch's points to one token, whatever their order.

    Args:
        in_chans: numbers a point.
        dim: width of a token.
    """

    def __init__(self, in_chans: int, dim: int):
        super().__init__()
        first: list[nn.Module] = [nn.Conv1d(in_chans, 128, 1), nn.BatchNorm1d(128), nn.ReLU()]
        second: list[nn.Module] = [nn.Conv1d(512, 512, 1), nn.BatchNorm1d(512), nn.ReLU()]
        self.first_conv = nn.Sequential(*first, nn.Conv1d(128, 256, 1))
        self.second_conv = nn.Sequential(*second, nn.Conv1d(512, dim, 1))

    def forward(self, patches: Float[Tensor, "batch groups size chans"]) -> Float[Tensor, "batch groups dim"]:
        batch, groups, size, _ = patches.shape
        own = pointwise(self.first_conv, patches.flatten(0, 2)).unflatten(0, (-1, size))  # (BG, S, 256)
        # the patch's maximum stands before each of its points: it need not be multiplied for each of them
        mix: Any
        mix, *rest = self.second_conv
        weight, width = mix.weight.squeeze(-1), own.shape[-1]
        mixed = F.linear(own, weight[:, width:], mix.bias)
        mixed = mixed + F.linear(own.amax(1, keepdim=True), weight[:, :width])
        tokens = pointwise(rest, mixed.flatten(0, 1)).unflatten(0, (-1, size)).amax(1)
        return tokens.unflatten(0, (batch, groups))


def pointwise(layers: Iterable[Any], x: Float[Tensor, "points chans"]) -> Float[Tensor, "points dim"]:
    """Layers that look at each point alone; convolutions of width 1 as the matrix products they are."""
    for layer in layers:
        if isinstance(layer, nn.Conv1d):
            x = F.linear(x, layer.weight.squeeze(-1), layer.bias)
        else:
            x = layer(x)
    return x


class Blocks(nn.Module):
    """Transformer blocks; the positions are added again at the input of each (Point-MAE).

    Args:
        dim: width.
        depth: blocks.
        heads: attention heads of each.
    """

    def __init__(self, dim: int, depth: int, heads: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, norm_layer=nn.LayerNorm) for _ in range(depth))

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], position: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        for block in self.blocks:
            x = block(x + position)
        return x


class PointTransformer(nn.Module):
    """The encoder of Point-MAE (Pang et al., ECCV 2022); its parameters have the official names.

    Args:
        in_chans: numbers a point.
        dim: width.
        depth: blocks.
        heads: attention heads.
    """

    def __init__(self, in_chans: int, dim: int, depth: int, heads: int):
        super().__init__()
        self.encoder = PatchTokens(in_chans, dim)
        self.pos_embed = position_mlp(dim)
        self.blocks = Blocks(dim, depth, heads)
        self.norm = nn.LayerNorm(dim)
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, nn.Conv1d)):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(
        self,
        patches: Float[Tensor, "batch groups size chans"],
        centres: Float[Tensor, "batch groups 3"],
        visible: Int[Tensor, "batch visible"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        tokens = self.encoder(patches)  # of hidden patches too: batch normalisation sees them all
        if visible is not None:
            tokens, centres = take(tokens, visible), take(centres, visible)
        return self.norm(self.blocks(tokens, self.pos_embed(centres)))


class PointEncoder(Encoder):
    """A transformer on patches of a cloud. What points carry besides their place is given to it unchanged.

    Args:
        name: what `build` was given.
        size: of the transformer, and how it cuts clouds.
        in_chans: numbers a point, coordinates first.

    Attributes:
        num_patches: patches of a cloud.
        group_size: points of a patch.
    """

    modality: ClassVar[str] = "points"

    def __init__(self, name: str, size: Size, in_chans: int):
        super().__init__()
        self.name, self.inputs = name, {"in_chans": in_chans}
        self.model = PointTransformer(in_chans, size.embed_dim, size.depth, size.num_heads)
        self.dim, self.num_heads, self.in_chans = size.embed_dim, size.num_heads, in_chans
        self.num_patches, self.group_size = size.groups, size.group_size

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.blocks.blocks

    def group(self, points: Float[Tensor, "batch points chans"]) -> Groups:
        """The cloud's patches.

        Raises:
            UsageError: points carry other numbers than the encoder takes, or are too few.
        """
        if points.ndim != 3 or points.shape[2] != self.in_chans:
            raise UsageError(
                f"the encoder takes clouds (batch, points, {self.in_chans}), not {tuple(points.shape)}"
            )
        if points.shape[1] < max(self.num_patches, self.group_size):
            raise UsageError(
                f"clouds of {points.shape[1]} points are too small for {self.num_patches} patches of "
                f"{self.group_size}: read more points, or name an encoder with fewer (groups=, group_size=)"
            )
        return group(points, self.num_patches, self.group_size)

    def forward(
        self,
        points: Float[Tensor, "batch points chans"],
        visible: Int[Tensor, "batch visible"] | None = None,
        groups: Groups | None = None,
    ) -> Features:
        """Encode; the pooled feature is the maximum over the patches.

        Args:
            points: clouds in the unit sphere, coordinates first.
            visible: which patches to encode; the others are dropped before the first block.
            groups: the clouds' patches, where they are known.
        """
        groups = self.group(points) if groups is None else groups
        tokens = self.model(groups.patches, groups.centres, visible)
        return Features(tokens.amax(1), tokens, tokens[:, :0], (self.num_patches,))

    def dense(
        self, points: Float[Tensor, "batch points chans"], places: Float[Tensor, "batch queries 3"]
    ) -> Float[Tensor, "batch queries dim"]:
        """What is said of any place: the tokens, carried there by three-nearest interpolation."""
        groups = self.group(points)
        return interpolate(places, groups.centres, self(points, groups=groups).tokens)


class RawPoints(Encoder):
    """How the points of a cloud are spread over the cells of a lattice, and the mean of what they carry:
    the data themselves as features, whatever the points' order. Nothing is learned.

    Args:
        in_chans: numbers a point, coordinates first.
    """

    modality: ClassVar[str] = "points"

    def __init__(self, in_chans: int = 3):
        super().__init__()
        self.model = nn.Identity()
        self.name, self.inputs = "raw", {"in_chans": in_chans}
        self.dim = CELLS**3 + in_chans - 3

    def forward(self, points: Float[Tensor, "batch points chans"]) -> Features:
        places = points[..., :3] - points[..., :3].mean(1, keepdim=True)
        places = places / places.norm(dim=-1).amax(1)[:, None, None].clamp(min=1e-12)
        cell = ((places + 1) / 2 * CELLS).long().clamp(0, CELLS - 1)
        number = (cell * cell.new_tensor([CELLS**2, CELLS, 1])).sum(-1)
        share = torch.full_like(places[..., 0], 1 / points.shape[1])
        spread = places.new_zeros(len(points), CELLS**3).scatter_add_(1, number, share)
        pooled = torch.cat([spread, points[..., 3:].mean(1)], dim=1)
        return Features(pooled, points, points[:, :0], (points.shape[1],))

    def dense(
        self, points: Float[Tensor, "batch points chans"], places: Float[Tensor, "batch queries 3"]
    ) -> Float[Tensor, "batch queries 3"]:
        """Of a place the place itself."""
        return places


def build(name: str, in_chans: int = 3) -> Encoder:
    """A point encoder by name, one of `SIZES` with any of `Size`'s arguments behind a colon
    (`point_vit_tiny:depth=4,groups=32`), or `raw`.

    Raises:
        UsageError: there is no such encoder or argument.
    """
    if name == "raw":
        return RawPoints(in_chans)
    plain, arguments = split_name(name)
    if plain not in SIZES:
        raise UsageError(f"there is no point encoder '{plain}'; there is: {', '.join(SIZES)}, raw")
    size = checked(name, SIZES[plain], arguments)
    return PointEncoder(name, size, in_chans)


def checked(name: str, size: Size, arguments: dict[str, Any]) -> Size:
    """
    Raises:
        UsageError: an argument that there is not, or one that is no whole number from 1.
    """
    for key, value in arguments.items():
        if key not in Size._fields:
            raise UsageError(f"encoder '{name}': there is no '{key}' but {', '.join(Size._fields)}")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"encoder '{name}': {key} must be a whole number from 1, not {value}")
    size = size._replace(**arguments)
    if size.embed_dim % size.num_heads:
        raise UsageError(
            f"encoder '{name}': embed_dim {size.embed_dim} is no multiple of {size.num_heads} heads"
        )
    return size
