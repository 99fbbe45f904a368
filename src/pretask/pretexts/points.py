"""What is done to a cloud before it is looked at, and which of its patches are hidden.

Randomness is data: `draw_pose` draws, `place` and `face` apply. `POINT_MASKS` holds the masks, all with an
exact count and True = hidden: to add one, write a function of (centres, num_hidden, generator) and enter it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pretask.data.geometry import Axis, rotation
from pretask.pretexts import draw
from pretask.pretexts.masks import random_mask


@dataclass(frozen=True)
class PoseSpec:
    """How clouds are turned, scaled and moved, in this order.

    Args:
        up: the axis they are turned about, by any angle; None does not turn.
        scale: factors, uniformly from this range.
        isotropic: one factor for all three axes rather than one each.
        shift: at most so far along each axis.
    """

    up: Axis | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    isotropic: bool = True
    shift: float = 0.0


class Pose(NamedTuple):
    """What was drawn for each cloud: p -> (p @ turn) * scale + shift."""

    turn: Float[Tensor, "batch 3 3"]
    scale: Float[Tensor, "batch 1 3"]
    shift: Float[Tensor, "batch 1 3"]


def draw_pose(spec: PoseSpec, batch: int, generator: torch.Generator) -> Pose:
    """A pose for each cloud."""
    unit = draw.uniform((batch, 7), generator)  # in one go, so that a draw does not depend on the spec
    angle = 2 * pi * unit[:, 0] if spec.up else torch.zeros_like(unit[:, 0])
    low, high = spec.scale
    scale = low + (high - low) * (unit[:, 1:2].expand(-1, 3) if spec.isotropic else unit[:, 1:4])
    shift = spec.shift * (2 * unit[:, 4:7] - 1)
    return Pose(rotation(spec.up or "y", angle), scale.unsqueeze(1), shift.unsqueeze(1))


def turned(
    vectors: Float[Tensor, "batch points 3"], turn: Float[Tensor, "batch 3 3"]
) -> Float[Tensor, "batch points 3"]:
    """`vectors @ turn` in their own precision: under autocast a matrix product would round coordinates."""
    return (vectors.unsqueeze(-1) * turn.to(vectors).unsqueeze(1)).sum(2)


def place(pose: Pose, points: Float[Tensor, "batch points chans"]) -> Float[Tensor, "batch points chans"]:
    """Points in their pose; what they carry besides their place stays."""
    places = turned(points[..., :3], pose.turn) * pose.scale.to(points) + pose.shift.to(points)
    return torch.cat([places, points[..., 3:]], dim=-1)


def face(pose: Pose, normals: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points 3"]:
    """Unit normals of the surface in its pose: turned with it, divided by what its axes are stretched by."""
    return F.normalize(turned(normals, pose.turn) / pose.scale.to(normals), dim=-1)


def some_points(batch: int, there: int, count: int, generator: torch.Generator) -> Int[Tensor, "batch count"]:
    """Which `count` of the points that are there a step sees, in random order, anew for each cloud."""
    return draw.permutations(batch, there, generator)[:, :count]


def around(
    centres: Float[Tensor, "batch groups 3"], start: Int[Tensor, "batch"], num_hidden: int
) -> Bool[Tensor, "batch groups"]:
    """Hide the `num_hidden` patches whose centres are nearest to that of patch `start`, itself included
    (Point-MAE's block mask)."""
    centre = centres[torch.arange(len(centres), device=centres.device), start.to(centres.device)]
    return random_mask(-(centres - centre.unsqueeze(1)).norm(dim=-1), num_hidden)


def hide_random(centres: Tensor, num_hidden: int, generator: torch.Generator) -> Tensor:
    noise = draw.uniform((len(centres), centres.shape[1]), generator)
    return random_mask(noise.to(centres.device), num_hidden)


def hide_around(centres: Tensor, num_hidden: int, generator: torch.Generator) -> Tensor:
    return around(centres, draw.integers(centres.shape[1], (len(centres),), generator), num_hidden)


PointMask = Callable[[Float[Tensor, "batch groups 3"], int, torch.Generator], Bool[Tensor, "batch groups"]]

POINT_MASKS: dict[str, PointMask] = {"random": hide_random, "block": hide_around}

SEEN, HIDDEN, ASIDE = (0.21, 0.41, 0.83), (0.85, 0.5, 0.05), (0.8, 0.82, 0.86)


def painted(
    points: Float[Tensor, "*points 3"], colour: tuple[float, float, float] | Float[Tensor, "*points 3"]
) -> Float[Tensor, "*points 6"]:
    """Points with a colour in [0, 1] behind their coordinates, as panels of clouds are drawn."""
    return torch.cat([points, torch.as_tensor(colour).to(points).clamp(0, 1).expand_as(points)], dim=-1)
