"""timm's Hiera, of pictures and of videos: stages of plain attention, whose mask units can be left out before the
first layer sees them."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from jaxtyping import Bool, Float
from timm.models.hiera import Hiera
from torch import Tensor

from pretask.encoders.base import Encoder
from pretask.encoders.features import Features
from pretask.encoders.image import EncoderSpec, ImageEncoder
from pretask.encoders.video import VideoEncoder
from pretask.errors import UsageError

SMALL: dict[str, Any] = {
    "patch_kernel": (3, 3), "patch_stride": (2, 2), "patch_padding": (1, 1), "mask_unit_size": (4, 4),
    "stages": (1, 2, 2), "q_pool": 1,
}  # fmt: skip
"""For pictures of less than 128 pixels: tokens of 2 pixels, units of 8, three stages."""

SIZES: dict[str, dict[str, Any]] = {
    "hiera_tiny": {"embed_dim": 96, "num_heads": 1, "stages": (1, 2, 7, 2)},
    "hiera_small": {"embed_dim": 96, "num_heads": 1, "stages": (1, 2, 11, 2)},
    "hiera_base": {"embed_dim": 96, "num_heads": 1, "stages": (2, 3, 16, 3)},
    "hiera_base_plus": {"embed_dim": 112, "num_heads": 2, "stages": (2, 3, 16, 3)},
    "hiera_large": {"embed_dim": 144, "num_heads": 2, "stages": (2, 6, 36, 4)},
    "hiera_huge": {"embed_dim": 256, "num_heads": 4, "stages": (2, 6, 36, 4)},
}
"""Of videos, by name; timm's own names stand for Hieras of pictures."""

VIDEO: dict[str, Any] = {
    "patch_kernel": (3, 7, 7), "patch_stride": (2, 4, 4), "patch_padding": (1, 3, 3), "mask_unit_size": (1, 8, 8),
    "q_stride": (1, 2, 2), "sep_pos_embed": True,
}  # fmt: skip
"""The paper's: tokens of 2 frames and 4 pixels, units of 2 frames and 32 pixels, never pooled over time."""

MEDIUM_VIDEO: dict[str, Any] = {"mask_unit_size": (1, 4, 4), "stages": (1, 2, 2), "q_pool": 1}
"""For frames of less than 128 pixels: units of 16 pixels, three stages."""

SMALL_VIDEO: dict[str, Any] = {
    **MEDIUM_VIDEO, "patch_kernel": (3, 3, 3), "patch_stride": (2, 2, 2), "patch_padding": (1, 1, 1)
}  # fmt: skip
"""For frames up to 64 pixels: tokens of 2 pixels, units of 8."""


class MaskUnits(Encoder):
    """What a Hiera is of whatever number of axes: rows and columns, in videos behind times. For pretraining it
    pools one stage less (`q_pool=2`), as the paper has it; the same weights load into the full model."""

    in_chans: int
    image_size: int
    mean: Tensor
    std: Tensor

    @property
    def units(self) -> tuple[int, ...]:
        """Mask units along each axis."""
        return tuple(self.model.mask_spatial_shape)

    @property
    def num_units(self) -> int:
        return prod(self.units)

    def side(self, pooled: int) -> tuple[int, ...]:
        """Tokens of a unit along each axis after so many poolings."""
        sizes = zip(self.model.mask_unit_size, self.model.q_stride, strict=True)
        return tuple(tokens // stride**pooled for tokens, stride in sizes)

    @property
    def last_side(self) -> tuple[int, ...]:
        """Tokens of a unit along each axis at the last stage."""
        return self.side(self.model.q_pool)

    @property
    def grid(self) -> tuple[int, ...]:
        """The last stage's tokens along each axis."""
        return tuple(units * side for units, side in zip(self.units, self.last_side, strict=True))

    @property
    def token(self) -> int:
        """Side of one of these in pixels."""
        return self.model.patch_stride[-1] * self.model.q_stride[-1] ** self.model.q_pool

    def normalise(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError

    def stages(
        self, pixels: Float[Tensor, "batch chans *size"], kept: Bool[Tensor, "batch units"] | None = None
    ) -> list[Tensor]:
        """What each stage ends with, on the input's grid (B, *grid, D); where only some units are kept, unit by
        unit (B, kept, *side, D)."""
        _, found = self.model.forward_features(self.normalise(pixels), mask=kept, return_intermediates=True)
        return found

    def forward(self, pixels: Float[Tensor, "batch chans *size"]) -> Features:
        tokens = self.stages(pixels)[-1].flatten(1, -2)
        pooled = self.model.forward_head(tokens, pre_logits=True)
        return Features(pooled, tokens, tokens[:, :0], self.grid)


class HieraEncoder(ImageEncoder, MaskUnits):
    """A timm `hiera_...`."""

    def __init__(self, model: Any, spec: EncoderSpec, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__(model, spec, mean, std)
        check(model, (spec.image_size, spec.image_size))


class HieraVideoEncoder(VideoEncoder, MaskUnits):
    """A Hiera that reads clips of a fixed number of frames; the features of a longer video are the mean over its
    clips.

    Args:
        model: timm's class, with three axes.
        name: what `build` was given.
        in_chans: channels of the frames.
        image_size: side of the frames in pixels.
        frames: of a clip.

    Attributes:
        tubelet: frames of a token.
    """

    statistics = (0.45,) * 3, (0.225,) * 3  # what the released models of videos were trained with

    def __init__(self, model: Any, name: str, in_chans: int, image_size: int, frames: int):
        super().__init__(model, name, in_chans, image_size, frames)
        check(model, (frames, image_size, image_size))
        if model.q_stride[0] != 1:
            raise UsageError(f"encoder '{name}': a Hiera of videos does not pool over time")
        self.tubelet: int = model.patch_stride[0]

    def stages(
        self, pixels: Float[Tensor, "batch chans frames h w"], kept: Bool[Tensor, "batch units"] | None = None
    ) -> list[Tensor]:
        """As of pictures, times first.

        Raises:
            UsageError: another number of frames or pixels.
        """
        self.check_size(pixels)
        return super().stages(pixels, kept)


def check(model: Any, size: tuple[int, ...]) -> None:
    """
    Raises:
        UsageError: the input is no multiple of a mask unit, or the units do not fit the stages.
    """
    tokens, stages = tuple(model.mask_unit_size), len(model.stage_ends)
    unit = [side * stride for side, stride in zip(tokens, model.patch_stride, strict=True)]
    if any(whole % part for whole, part in zip(size, unit, strict=True)):
        raise UsageError(
            f"an input of {by(size)} is not a multiple of a Hiera's mask unit of {by(unit)} pixels"
        )
    needed = tuple(stride ** (stages - 1) for stride in model.q_stride)
    if tokens != needed:
        raise UsageError(
            f"a Hiera of {stages} stages needs mask units of {by(needed)} tokens, not {by(tokens)}: others would "
            "keep the wrong ones"
        )


def by(sides: Any) -> str:
    return " x ".join(map(str, sides))


def with_tuples(given: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def settings(spec: EncoderSpec) -> dict[str, Any]:
    """What timm is told of the picture."""
    small = SMALL if spec.image_size < 128 else {}
    return {"img_size": (spec.image_size,) * 2, **small, **with_tuples(spec.kwargs)}


def build_hiera_video(
    name: str, given: dict[str, Any], in_chans: int, image_size: int, pretrained: bool
) -> HieraVideoEncoder:
    """A Hiera of `SIZES`; `given` are `frames` (16) and arguments of timm's class. timm publishes no weights of
    videos; the released ones have this layout (`timm.models.hiera.checkpoint_filter_fn` renames them).

    Raises:
        UsageError: there is no such Hiera, or it cannot take these arguments.
    """
    plain, own = name.partition(":")[0], with_tuples(given)
    frames = own.pop("frames", 16)
    if plain not in SIZES or type(frames) is not int or frames < 1:
        raise UsageError(
            f"'{name}': Hieras of videos are {', '.join(SIZES)}, with frames=16 or another whole number"
        )
    if pretrained:
        raise UsageError(f"there are no published weights of '{name}': timm has those of pictures only")
    small = {} if image_size >= 128 else MEDIUM_VIDEO if image_size > 64 else SMALL_VIDEO
    size = (frames, image_size, image_size)
    try:
        model = Hiera(
            img_size=size, in_chans=in_chans, num_classes=0, **{**SIZES[plain], **VIDEO, **small, **own}
        )
        model.register_parameter("pos_embed_abs", None)  # timm asks for it and sets it for pictures alone
        return HieraVideoEncoder(model, name, in_chans, image_size, frames)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UsageError(
            f"encoder '{name}' of {by(size)}: behind the colon stand arguments of timm's Hiera, sizes as three "
            f"numbers, q_pool less than the stages ({error})"
        ) from error


def scattered(
    kept: Float[Tensor, "batch kept *side dim"], where: Bool[Tensor, "batch units"], filling: Tensor
) -> Float[Tensor, "batch units *side dim"]:
    """Units at their places, and a filling at the others."""
    whole = filling.to(kept.dtype).expand(*where.shape, *kept.shape[2:]).clone()
    whole[where] = kept.flatten(0, 1)
    return whole


def unrolled(cells: Tensor, units: tuple[int, ...]) -> Tensor:
    """The tokens of all units (B, units, *side, D) in the order of the input's grid (B, places, D): row by row,
    time by time. `units` are those along each axis."""
    batch, _, *side, dim = cells.shape
    axes = len(units)
    order = [
        axis for pair in zip(range(1, axes + 1), range(axes + 1, 2 * axes + 1), strict=True) for axis in pair
    ]
    return cells.view(batch, *units, *side, dim).permute(0, *order, -1).reshape(batch, -1, dim)


def unit_places(
    units: tuple[int, ...], side: tuple[int, ...], device: torch.device | str | None = None
) -> Tensor:
    """Which unit each token of the grid belongs to; `side` is a unit's along each axis."""
    number = torch.arange(prod(units), device=device).view(1, -1, *(1 for _ in side), 1)
    return unrolled(number.expand(1, -1, *side, 1).contiguous(), units).flatten()
