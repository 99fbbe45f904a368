"""Turning a picture, by right angles or by any."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def rotate(image: Float[Tensor, "*batch chans side side"], quarter_turns: int) -> Tensor:
    """Turn counter-clockwise by `quarter_turns` x 90 degrees (numpy's rot90 convention)."""
    return image.rot90(quarter_turns, (-2, -1))


def all_rotations(
    image: Float[Tensor, "batch chans side side"],
) -> tuple[Float[Tensor, "4*batch chans side side"], Int[Tensor, "4*batch"]]:
    """Every picture turned by 0, 90, 180 and 270 degrees counter-clockwise, the four of one picture
    next to each other, with the number of quarter turns as label."""
    turned = torch.stack([rotate(image, k) for k in range(4)], dim=1)  # (B, 4, C, S, S)
    labels = torch.arange(4, device=image.device).repeat(len(image))
    return turned.flatten(0, 1), labels


def rotate_each(
    image: Float[Tensor, "batch chans side side"], quarter_turns: Int[Tensor, "batch"]
) -> Float[Tensor, "batch chans side side"]:
    """Turn every picture counter-clockwise by its own number of quarter turns."""
    turns = quarter_turns.to(image.device).view(-1, 1, 1, 1)
    for k in range(1, 4):
        image = torch.where(turns >= k, image.rot90(1, (-2, -1)), image)
    return image


def rotate_by(
    image: Float[Tensor, "batch chans side side"], degrees: Float[Tensor, "batch"]
) -> Float[Tensor, "batch chans side side"]:
    """Turn every picture counter-clockwise by its own angle about its middle, at its size; what comes in from
    outside is 0. Pixels are points of a grid whose corners are turned with it, so that right angles
    are those of `rotate` up to rounding."""
    angle = degrees.to(image.device, image.dtype).deg2rad()
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    turn = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(turn, list(image.shape), align_corners=True)
    return F.grid_sample(image, grid, align_corners=True)
