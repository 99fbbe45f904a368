"""Skeletons over time: windows brought to one length, turns, motion, and masks that prefer what moves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.pretexts import draw
from pretask.pretexts.resample import product

TINY = 1e-10  # keeps logarithms and quotients finite (MAMP)


class Window(NamedTuple):
    """A part of each sequence.

    Args:
        start: its first frame.
        length: its frames.
    """

    start: Int[Tensor, "batch"]
    length: Int[Tensor, "batch"]


def draw_window(
    frames: Int[Tensor, "batch"], share: tuple[float, float], shortest: int, generator: torch.Generator
) -> Window:
    """A random part of each sequence: a share of its frames from `share`, rounded down, but no fewer than
    `shortest` unless it has fewer itself (MAMP)."""
    unit = draw.uniform((len(frames), 2), generator).to(frames.device).double()
    wanted = (frames * (share[0] + (share[1] - share[0]) * unit[:, 0])).floor().long()
    length = wanted.clamp(min=shortest).minimum(frames)
    start = ((frames - length + 1) * unit[:, 1]).floor().long()
    return Window(start.minimum(frames - length), length)


def centre_window(frames: Int[Tensor, "batch"], share: float) -> Window:
    """The middle of each sequence: at both ends (1 - share) / 2 is cut off, rounded down."""
    cut = ((1 - share) * frames.double() / 2).long()
    return Window(cut, frames - 2 * cut)


def resize(
    pose: Float[Tensor, "batch frames joints dims"], window: Window, frames: int
) -> Float[Tensor, "batch {frames} joints dims"]:
    """Each window at `frames` moments, linear between neighbouring frames of the window; without
    antialiasing, corners not aligned, as torch's `interpolate` does it."""
    moment = torch.arange(frames, device=pose.device, dtype=torch.float64) + 0.5
    place = (moment * (window.length.double() / frames)[:, None] - 0.5).clamp(min=0)
    low = place.long()
    high = (low + 1).minimum(window.length[:, None] - 1)
    weight = (place - low).to(pose)[..., None, None]
    row = torch.arange(len(pose), device=pose.device)[:, None]
    before, after = pose[row, window.start[:, None] + low], pose[row, window.start[:, None] + high]
    return (1 - weight) * before + weight * after


def rotations(angles: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 3 3"]:
    """Rz Ry Rx, for column vectors, of angles about x, y and z in radians. Each factor turns by the negative
    angle, as MAMP's do."""
    (sx, sy, sz), (cx, cy, cz) = angles.sin().unbind(1), angles.cos().unbind(1)
    zero, one = torch.zeros_like(sx), torch.ones_like(sx)

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, dim=1).unflatten(1, (3, 3))

    about_x = matrix(one, zero, zero, zero, cx, sx, zero, -sx, cx)
    about_y = matrix(cy, zero, -sy, zero, one, zero, sy, zero, cy)
    about_z = matrix(cz, sz, zero, -sz, cz, zero, zero, zero, one)
    return product(product(about_z, about_y), about_x)


def turn(
    pose: Float[Tensor, "batch frames joints 3"], matrix: Float[Tensor, "batch 3 3"]
) -> Float[Tensor, "batch frames joints 3"]:
    """Every joint multiplied from the left by its sequence's matrix."""
    return product(pose.flatten(1, 2), matrix.to(pose).transpose(1, 2)).view_as(pose)


def motion(
    pose: Float[Tensor, "batch frames joints dims"], stride: int = 1
) -> Float[Tensor, "batch frames joints dims"]:
    """x[t + stride] - x[t]; zero in the last `stride` frames, which have no later one (MAMP)."""
    return torch.cat([pose[:, stride:] - pose[:, :-stride], torch.zeros_like(pose[:, :stride])], dim=1)


def segments(
    pose: Float[Tensor, "batch frames joints dims"], size: int
) -> Float[Tensor, "batch tokens values"]:
    """Cut into pieces of `size` frames of one joint: tokens in the order of time, then joint; values lie as
    (frame, dimension), the dimension fastest."""
    batch, frames, joints, dims = pose.shape
    cells = pose.reshape(batch, frames // size, size, joints, dims).transpose(2, 3)
    return cells.reshape(batch, -1, size * dims)


def log_prior(
    tokens: Float[Tensor, "batch tokens values"], joints: int, tau: float
) -> Float[Tensor, "batch tokens"]:
    """Log of the share of each token in a prior that prefers what moves (MAMP, section 3.3).

    Motion here is the mean absolute difference between a segment's positions and those of the segment
    before; the first counts as the second. The prior is the softmax of it over tau times its maximum.

    Args:
        tokens: `segments` of positions.
        joints: of the skeleton.
        tau: small is partial, large is even.
    """
    cells = tokens.unflatten(1, (-1, joints))
    second = cells[:, :2][:, -1:]  # or the only one there is, which then has not moved
    moved = cells.diff(dim=1, prepend=second).abs().mean(3).flatten(1)
    return (moved / (moved.amax(1, keepdim=True) * tau + TINY)).log_softmax(1)


def gumbel(unit: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Gumbel noise from numbers of U[0, 1). Added to log weights it orders items as if they were drawn one
    after the other by weight, without replacement: the largest was drawn first."""
    return -(-(unit + TINY).log() + TINY).log()
