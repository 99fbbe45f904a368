"""A vision transformer over the tubelets of a video, all of which see each other (TVTS; VideoMAE's family)."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pretask.encoders.features import Features
from pretask.encoders.image import IMAGENET_MEAN, IMAGENET_STD
from pretask.encoders.video import VideoEncoder
from pretask.errors import UsageError
from pretask.pretexts.masks import take
from pretask.task import Batch


class Shape(NamedTuple):
    """A transformer's size and how it cuts videos; the arguments behind an encoder's name.

    Args:
        embed_dim: width of a token.
        depth: blocks.
        num_heads: attention heads.
        frames: of a video; of longer ones so many are looked at, evenly spread.
        tubelet: frames of a token.
        patch: side of a token in pixels; 0 takes 16, of frames under 128 pixels an eighth of their side.
    """

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    frames: int = 16
    tubelet: int = 2
    patch: int = 0


class SpaceTimeTransformer(nn.Module):
    """Tubelets, a class token, a table of positions in space that all times share and one of times, which starts
    at zero; the class token has the spatial table's first row. Pre-norm blocks, and a norm behind them.

    Args:
        shape: of the network.
        in_chans: of the frames.
        grid: tokens over time, down and across.
    """

    def __init__(self, shape: Shape, in_chans: int, grid: tuple[int, int, int]):
        super().__init__()
        dim, kernel = shape.embed_dim, (shape.tubelet, shape.patch, shape.patch)
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.num_features = dim
        self.patch_embed = nn.Conv3d(in_chans, dim, kernel, kernel)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid[1] * grid[2], dim))
        self.temporal_embed = nn.Parameter(torch.zeros(1, grid[0], dim))
        self.blocks = nn.ModuleList(
            Block(dim, shape.num_heads, qkv_bias=True, norm_layer=norm)  # type: ignore[arg-type]
            for _ in range(shape.depth)
        )
        self.norm = norm(dim)
        for table in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(table, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(
        self,
        video: Float[Tensor, "batch chans frames h w"],
        visible: Int[Tensor, "batch visible"] | None = None,
    ) -> Float[Tensor, "batch 1+tokens dim"]:
        """The class token and those of the tubelets, a time behind the other.

        Args:
            video: normalised frames.
            visible: which tubelets to encode; the others are dropped before the first block.
        """
        x = self.patch_embed(video).flatten(3).permute(0, 2, 3, 1)  # (B, times, places, D)
        x = x + self.pos_embed[:, None, 1:] + self.temporal_embed[:, :, None]
        x = x.flatten(1, 2)
        x = x if visible is None else take(x, visible)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The layers, from below, in timm's notation."""
        stem = r"^patch_embed|^cls_token|^pos_embed|^temporal_embed"
        return {"stem": stem, "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}

    @torch.no_grad()
    def start_from_pictures(self, pictures: Any) -> None:
        """Take the weights of a timm vision transformer of the same size: its kernel for each frame of a tubelet,
        as it is (not divided by their number), its positions for those in space; times stay at zero."""
        own, state = self.state_dict(), pictures.state_dict()
        kernel = state.pop("patch_embed.proj.weight")
        state["patch_embed.weight"] = kernel[:, :, None].expand_as(own["patch_embed.weight"])
        state["patch_embed.bias"] = state.pop("patch_embed.proj.bias")
        self.load_state_dict({**own, **{key: value for key, value in state.items() if key in own}})


class SpaceTimeEncoder(VideoEncoder):
    """A transformer that reads videos of a fixed number of frames; the pooled feature is its class token.

    Args:
        model: the network.
        name: what `build` was given.
        in_chans: channels of the frames.
        image_size: side of the frames in pixels.
        shape: of the network.

    Attributes:
        grid: tokens over time, down and across.
    """

    statistics = IMAGENET_MEAN, IMAGENET_STD  # its weights come from pictures

    def __init__(self, model: Any, name: str, in_chans: int, image_size: int, shape: Shape):
        super().__init__(model, name, in_chans, image_size, shape.frames)
        self.grid = grid_of(shape, image_size)

    def forward(
        self,
        video: Float[Tensor, "batch chans frames h w"],
        visible: Int[Tensor, "batch visible"] | None = None,
    ) -> Features:
        """Encode.

        Args:
            video: as many frames in [0, 1] as the encoder reads.
            visible: places of the tubelets to encode, time by time; the others are dropped.

        Raises:
            UsageError: another number of frames or pixels.
        """
        self.check_size(video)
        x = self.model(self.normalise(video), visible)
        return Features(x[:, 0], x[:, 1:], x[:, :1], self.grid)

    def encode(self, batch: Batch) -> Features:
        """Of the middles of equal parts of each video.

        Raises:
            UsageError: it has fewer frames than the encoder reads.
        """
        video = self.seen(batch)
        if video.shape[2] < self.frames:
            raise UsageError(f"the encoder reads {self.frames} frames and the videos have {video.shape[2]}")
        middle = torch.arange(self.frames, device=video.device) + 0.5
        return self(video[:, :, (middle * video.shape[2] / self.frames).long()])


def grid_of(shape: Shape, image_size: int) -> tuple[int, int, int]:
    return shape.frames // shape.tubelet, image_size // shape.patch, image_size // shape.patch


def build_space_time(
    name: str, given: dict[str, Any], in_chans: int, image_size: int, pretrained: bool
) -> SpaceTimeEncoder:
    """`space_time_vit`; published weights are those of a masked autoencoder of pictures.

    Raises:
        UsageError: it cannot take these arguments.
    """
    wrong = [key for key, value in given.items() if key not in Shape._fields or type(value) is not int]
    if wrong:
        raise UsageError(
            f"encoder '{name}': behind the colon stand whole numbers of {', '.join(Shape._fields)}"
        )
    shape = Shape(**given)
    if not shape.patch:
        shape = shape._replace(patch=16 if image_size >= 128 else max(2, image_size // 8))
    if min(shape) < 1 or shape.embed_dim % shape.num_heads or shape.frames % shape.tubelet:
        raise UsageError(
            f"encoder '{name}': {shape.num_heads} heads must divide embed_dim {shape.embed_dim}, and tubelets of "
            f"{shape.tubelet} the {shape.frames} frames"
        )
    if image_size % shape.patch:
        raise UsageError(f"frames of {image_size} pixels are no multiple of patches of {shape.patch}")
    model = SpaceTimeTransformer(shape, in_chans, grid_of(shape, image_size))
    encoder = SpaceTimeEncoder(model, name, in_chans, image_size, shape)
    if pretrained:
        import timm

        size: dict[str, Any] = {
            "img_size": image_size, "embed_dim": shape.embed_dim, "depth": shape.depth,
            "num_heads": shape.num_heads, "num_classes": 0,
        }  # fmt: skip
        model.start_from_pictures(timm.create_model("vit_base_patch16_224.mae", pretrained=True, **size))
        encoder.pretrained = True
    return encoder
