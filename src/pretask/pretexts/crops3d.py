"""Boxes cut from volumes, with where they lie: a grid of them, random ones, and how far they overlap.

A box is its first corner, in whole voxels; all boxes of a call have one size. Randomness is data: `draw_starts` and
`draw_changes` draw, `cut` and `change` apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pretask.pretexts import draw

Triple = tuple[int, int, int]
Boxes = Int[Tensor, "*boxes 3"]


def grid_starts(size: Triple, grid: Triple) -> tuple[Int[Tensor, "cells 3"], Triple]:
    """Boxes side by side that tile a volume, the last axis counting fastest, and their size.

    Where an axis is no multiple of its cells, the rest is left over evenly at both ends.
    """
    depth, height, width = (side // cells for side, cells in zip(size, grid, strict=True))
    crop = (depth, height, width)
    axes = [
        (side - cells * step) // 2 + step * torch.arange(cells)
        for side, cells, step in zip(size, grid, crop, strict=True)
    ]
    return torch.cartesian_prod(*axes).view(-1, 3), crop


def draw_starts(
    size: Triple, grid: Triple, batch: int, count: int, generator: torch.Generator
) -> Int[Tensor, "batch count 3"]:
    """Boxes of the grid's size anywhere within what the grid covers; along an axis of one cell they stay with it.

    Starts are uniform over the whole numbers from the first to the one before the last, as the authors draw centres.
    """
    bases, crop = grid_starts(size, grid)
    first = bases[0].tolist()
    axes = [
        first[axis] + draw.integers(max((grid[axis] - 1) * crop[axis], 1), (batch, count), generator)
        for axis in range(3)
    ]
    return torch.stack(axes, dim=2)


def overlap(
    boxes: Int[Tensor, "*boxes 3"], bases: Int[Tensor, "bases 3"], crop: Triple
) -> Float[Tensor, "*boxes bases"]:
    """The share of each box that lies in each base."""
    side = boxes.new_tensor(crop)
    shared = (side - (boxes.unsqueeze(-2) - bases.to(boxes.device)).abs()).clamp(min=0)
    return (shared / side).prod(-1)


def cut(
    volume: Float[Tensor, "batch chans depth height width"],
    starts: Int[Tensor, "batch boxes 3"],
    crop: Triple,
    side: int,
) -> Float[Tensor, "batch*boxes chans side side side"]:
    """The boxes' content, those of one volume next to each other, stretched onto cubes: trilinear, corners on
    corners, without averaging (the authors')."""
    starts = starts.to(volume.device)
    places = [starts[..., axis, None] + torch.arange(crop[axis], device=volume.device) for axis in range(3)]
    d, h, w = places[0][..., None, None], places[1][..., None, :, None], places[2][..., None, None, :]
    rows = torch.arange(len(volume), device=volume.device)[:, None, None, None, None]
    boxes = volume.movedim(1, -1)[rows, d, h, w].flatten(0, 1).movedim(-1, 1)
    if crop == (side, side, side):
        return boxes
    return F.interpolate(boxes, (side, side, side), mode="trilinear", align_corners=True)


@dataclass(frozen=True)
class Changes:
    """How crops are changed, each on its own, in this order.

    Args:
        flip: probability of mirroring, for each axis.
        turn: probability of a turn by one, two or three right angles from the first axis to the second.
        shift: probability of a shift of brightness.
        most: the largest shift, up or down.
    """

    flip: float = 0.2
    turn: float = 0.2
    shift: float = 0.1
    most: float = 0.1


class Drawn(NamedTuple):
    """What was drawn for each crop."""

    flip: Bool[Tensor, "crops 3"]
    turns: Int[Tensor, "crops"]
    shift: Float[Tensor, "crops"]


def draw_changes(changes: Changes, batch: int, boxes: int, generator: torch.Generator) -> Drawn:
    """Changes for so many crops of each volume, those of one volume next to each other."""
    unit = draw.uniform((batch, boxes, 7), generator).flatten(0, 1)
    turns = torch.where(unit[:, 3] < changes.turn, 1 + (3 * unit[:, 4]).long(), 0)
    shift = torch.where(unit[:, 5] < changes.shift, changes.most * (2 * unit[:, 6] - 1), 0.0)
    return Drawn(unit[:, :3] < changes.flip, turns, shift)


def change(crops: Float[Tensor, "crops chans side side side"], drawn: Drawn) -> Tensor:
    """Crops flipped, turned and shifted in brightness."""
    flip, turns, shift = (part.to(crops.device).view(len(crops), -1, 1, 1, 1) for part in drawn)
    for axis in range(3):
        crops = torch.where(flip[:, axis : axis + 1], crops.flip(axis + 2), crops)
    turned = [torch.rot90(crops, k, (2, 3)) for k in range(4)]
    for k in range(1, 4):
        crops = torch.where(turns == k, turned[k], crops)
    return crops + shift.to(crops.dtype)


def outlined(
    volume: Float[Tensor, "3 depth height width"],
    start: list[int],
    crop: Triple,
    colour: tuple[float, float, float],
) -> Float[Tensor, "3 depth height width"]:
    """A volume with a box drawn on its middle slices (of an even number the two in the middle), as it is seen along
    each axis."""
    shown = volume.clone()
    ink = volume.new_tensor(colour).view(3, 1, 1)
    for axis in range(3):
        (top, rows), (left, columns) = ((start[other], crop[other]) for other in range(3) if other != axis)
        side = volume.shape[axis + 1]
        for place in {(side - 1) // 2, side // 2}:
            inside = shown.select(axis + 1, place)[:, top : top + rows, left : left + columns]  # a view
            inside[:, [0, -1]] = ink
            inside[:, :, [0, -1]] = ink
    return shown


def tinted(
    volume: Float[Tensor, "chans depth height width"],
    bases: Int[Tensor, "bases 3"],
    crop: Triple,
    strength: Float[Tensor, "bases"],
    colour: tuple[float, float, float],
) -> Float[Tensor, "3 depth height width"]:
    """A volume in grey, its boxes tinted as strongly as said, from 0 to 1."""
    grey = volume.mean(0, keepdim=True).clamp(0, 1)
    tint = torch.zeros_like(grey)
    for start, value in zip(bases.tolist(), strength.clamp(0, 1), strict=True):
        d, h, w = (slice(first, first + side) for first, side in zip(start, crop, strict=True))
        tint[0, d, h, w] = value
    return grey + 0.6 * tint * (grey.new_tensor(colour).view(3, 1, 1, 1) - grey)


def upright(volume: Float[Tensor, "chans right front up"]) -> Float[Tensor, "chans down back right"]:
    """Axes of RAS in the order in which panels show them as people stand: the head on top, the face in front."""
    return volume.permute(0, 3, 2, 1).flip(1, 2)
