"""Crops of a turned picture, and where in the picture they were (CIM, Li et al., CVPR 2023).

Lengths are in halves of the picture's side, positions seen from its middle, x to the right and y down.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pretask.pretexts import draw
from pretask.pretexts.views import TRIES, ViewSpec, draw_boxes

SAMPLES = 3  # points looked up along each side of a pixel of a crop, then averaged: antialiasing
ROUNDING = 1e-4


class Turned(NamedTuple):
    """Upright boxes in pictures that were turned.

    Args:
        box: left, top, right, bottom in the turned picture's frame.
        degrees: by how much the picture was turned, counter-clockwise.
    """

    box: Float[Tensor, "crops 4"]
    degrees: Float[Tensor, "crops"]


def turn(
    x: Float[Tensor, "*places"], y: Float[Tensor, "*places"], degrees: Float[Tensor, "*#places"]
) -> tuple[Float[Tensor, "*places"], Float[Tensor, "*places"]]:
    """Where places of a picture are after it was turned counter-clockwise."""
    angle = degrees.deg2rad()
    cos, sin = angle.cos(), angle.sin()
    return x * cos + y * sin, y * cos - x * sin


def draw_turned(spec: ViewSpec, batch: int, count: int, degrees: int, generator: torch.Generator) -> Turned:
    """Crops of each picture, those of one picture next to each other.

    Args:
        spec: `size` of the picture in pixels, `scale` and `ratio` of the boxes.
        batch: pictures.
        count: crops of each.
        degrees: largest angle; whole ones from -degrees to degrees - 1.
        generator: the randomness.
    """
    unit = draw.uniform((batch, count, 2 * TRIES + 3), generator).flatten(0, 1)
    angle = (unit[:, 0] * 2 * degrees).floor() - degrees
    size = unit.new_full((len(unit), 2), spec.size)
    box = 2 * draw_boxes(spec, unit[:, 1:], size) - 1
    return Turned(revise(surrounding(box, angle), angle), angle)


def surrounding(box: Float[Tensor, "crops 4"], degrees: Float[Tensor, "crops"]) -> Float[Tensor, "crops 4"]:
    """The upright box around each box after its picture was turned."""
    x, y = turn(box[:, [0, 2, 0, 2]], box[:, [1, 1, 3, 3]], degrees[:, None])
    return torch.stack([x.amin(1), y.amin(1), x.amax(1), y.amax(1)], dim=1)


def revise(box: Float[Tensor, "crops 4"], degrees: Float[Tensor, "crops"]) -> Float[Tensor, "crops 4"]:
    """Corners that lie outside the turned picture moved along a side of the box until they meet it, one after
    the other as in the official code; a corner takes its two sides along.

    Turned the other way it is the same with rows and columns exchanged.
    """
    clockwise = (degrees <= 0)[:, None]
    left, top, right, bottom = torch.where(clockwise, box[:, [1, 0, 3, 2]], box).unbind(1)
    frame = Frame.of(degrees.abs())
    new_top = torch.where(frame.holds(left, top), top, frame.rows(left)[0])
    new_right = torch.where(frame.holds(right, top), right, frame.columns(new_top)[1])
    new_left = torch.where(frame.holds(left, bottom), left, frame.columns(bottom)[0])
    new_bottom = torch.where(frame.holds(new_right, bottom), bottom, frame.rows(new_right)[1])
    revised = torch.stack([new_left, new_top, new_right, new_bottom], dim=1)
    return torch.where(clockwise, revised[:, [1, 0, 3, 2]], revised)


class Frame(NamedTuple):
    """Pictures turned counter-clockwise by 0 to 90 degrees."""

    cos: Float[Tensor, "crops"]
    sin: Float[Tensor, "crops"]

    @classmethod
    def of(cls, degrees: Float[Tensor, "crops"]) -> Frame:
        angle = degrees.deg2rad()
        return cls(angle.cos().clamp(min=1e-6), angle.sin().clamp(min=1e-6))

    def holds(self, x: Tensor, y: Tensor) -> Bool[Tensor, "crops"]:
        """Whether a place is in the picture."""
        before = (x * self.cos - y * self.sin, x * self.sin + y * self.cos)
        return torch.maximum(before[0].abs(), before[1].abs()) <= 1 + ROUNDING

    def rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The first and last row of the picture in a column."""
        low = torch.maximum((-1 - x * self.sin) / self.cos, (x * self.cos - 1) / self.sin)
        return low, torch.minimum((1 - x * self.sin) / self.cos, (x * self.cos + 1) / self.sin)

    def columns(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The first and last column of the picture in a row."""
        low = torch.maximum((y * self.sin - 1) / self.cos, (-1 - y * self.cos) / self.sin)
        return low, torch.minimum((y * self.sin + 1) / self.cos, (1 - y * self.cos) / self.sin)


def middles(count: int, like: Tensor) -> Float[Tensor, "count"]:
    """Middles of equal parts of [0, 1]."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count


def cut(
    image: Float[Tensor, "batch chans side side"], crops: Turned, size: int
) -> Float[Tensor, "crops chans size size"]:
    """The crops as squares of `size` pixels; what lies outside the picture is 0.

    The official code turns by the nearest pixel, then resizes; here both are one bilinear look-up of
    3 x 3 points a pixel.
    """
    count, points = len(crops.box) // len(image), size * SAMPLES
    left, top, right, bottom = crops.box.to(image)[:, :, None, None].unbind(1)
    place = middles(points, image)
    x, y = left + (right - left) * place, top + (bottom - top) * place[:, None]
    grid = torch.stack(turn(x, y, -crops.degrees.to(image)[:, None, None]), dim=-1)
    grid = grid.view(len(image), count * points, points, 2)
    found = F.avg_pool2d(F.grid_sample(image, grid, align_corners=False), SAMPLES)
    return found.unflatten(2, (count, size)).transpose(1, 2).flatten(0, 1)


def covered(crops: Turned, size: int) -> Bool[Tensor, "crops size size"]:
    """Which of size x size pixels of the upright picture have their middle in a crop."""
    place = 2 * middles(size, crops.box) - 1
    x, y = turn(place, place[:, None], crops.degrees[:, None, None])
    left, top, right, bottom = crops.box[:, :, None, None].unbind(1)
    return (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
