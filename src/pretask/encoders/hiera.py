"""timm's Hiera: stages of plain attention, whose mask units can be left out before the first layer sees them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pretask.encoders.features import Features
from pretask.encoders.image import EncoderSpec, ImageEncoder
from pretask.errors import UsageError

SMALL: dict[str, Any] = {
    "patch_kernel": (3, 3), "patch_stride": (2, 2), "patch_padding": (1, 1), "mask_unit_size": (4, 4),
    "stages": (1, 2, 2), "q_pool": 1,
}  # fmt: skip
"""For pictures of less than 128 pixels: tokens of 2 pixels, units of 8, three stages."""


class HieraEncoder(ImageEncoder):
    """A timm `hiera_...`. For pretraining it pools one stage less (`q_pool=2`), as the paper has it; the same
    weights load into the full model.

    Attributes:
        units: rows and columns of mask units.
        unit: side of a unit in pixels.
        grid: rows and columns of the last stage's tokens.
        token: side of one of these in pixels.
    """

    def __init__(self, model: Any, spec: EncoderSpec, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__(model, spec, mean, std)
        rows, columns = model.mask_spatial_shape
        self.units: tuple[int, int] = (rows, columns)
        self.unit: int = model.patch_stride[0] * model.mask_unit_size[0]
        self.token: int = model.patch_stride[0] * model.q_stride[0] ** model.q_pool
        side = self.unit // self.token
        self.grid: tuple[int, int] = (rows * side, columns * side)

    @property
    def num_units(self) -> int:
        return self.units[0] * self.units[1]

    def stages(
        self, image: Float[Tensor, "batch chans h w"], kept: Bool[Tensor, "batch units"] | None = None
    ) -> list[Tensor]:
        """What each stage ends with, on the picture's grid (B, rows, columns, D); where only some units are
        kept, unit by unit (B, kept, rows, columns, D)."""
        _, found = self.model.forward_features(self.normalise(image), mask=kept, return_intermediates=True)
        return found

    def forward(self, image: Float[Tensor, "batch chans h w"]) -> Features:
        tokens = self.stages(image)[-1].flatten(1, 2)
        pooled = self.model.forward_head(tokens, pre_logits=True)
        return Features(pooled, tokens, tokens[:, :0], self.grid)


def settings(spec: EncoderSpec) -> dict[str, Any]:
    """What timm is told of the picture.

    Raises:
        UsageError: its side is no multiple of a mask unit's, or the units do not fit the stages.
    """
    own = {name: tuple(value) if isinstance(value, list) else value for name, value in spec.kwargs.items()}
    made = {"img_size": (spec.image_size,) * 2, **(SMALL if spec.image_size < 128 else {}), **own}
    tokens, stride = made.get("mask_unit_size", (8, 8))[0], made.get("patch_stride", (4, 4))[0]
    if spec.image_size % (tokens * stride):
        raise UsageError(
            f"image size {spec.image_size} is not a multiple of a Hiera's mask unit of {tokens * stride} pixels"
        )
    if "stages" in made and tokens != 2 ** (len(made["stages"]) - 1):
        raise UsageError(
            f"a Hiera of {len(made['stages'])} stages needs mask units of {2 ** (len(made['stages']) - 1)} tokens a "
            f"side, not {tokens}: others would keep the wrong ones"
        )
    return made


def scattered(
    kept: Float[Tensor, "batch kept rows columns dim"], where: Bool[Tensor, "batch units"], filling: Tensor
) -> Float[Tensor, "batch units rows columns dim"]:
    """Units at their places, and a filling at the others."""
    whole = filling.to(kept.dtype).expand(*where.shape, *kept.shape[2:]).clone()
    whole[where] = kept.flatten(0, 1)
    return whole


def unrolled(
    units: Float[Tensor, "batch units rows columns dim"], grid: tuple[int, int]
) -> Float[Tensor, "batch places dim"]:
    """The tokens of all units row by row of the picture; `grid` is that of the units."""
    batch, _, rows, columns, dim = units.shape
    cells = units.view(batch, *grid, rows, columns, dim)
    return cells.permute(0, 1, 3, 2, 4, 5).reshape(batch, grid[0] * rows * grid[1] * columns, dim)


def unit_places(units: tuple[int, int], side: int, device: torch.device | str | None = None) -> Tensor:
    """Which unit each token of the picture belongs to, row by row."""
    number = torch.arange(units[0] * units[1], device=device).view(units)
    return number.repeat_interleave(side, 0).repeat_interleave(side, 1).flatten()
