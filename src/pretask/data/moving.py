"""Videos made when they are asked for: real handwritten digits that move over real textures."""

from __future__ import annotations

from functools import lru_cache
from math import pi
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from pretask.data.embedded import TEXTURES, divided, photographs

MOTIONS = (
    "left", "right", "up", "down", "circling left", "circling right", "turning left", "turning right",
    "growing", "shrinking",
)  # fmt: skip
WAYS = torch.tensor(
    [  # of each motion: to the right, downwards, on a circle, about itself, in size
        [-1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, -1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, -1, 0, 0],
        [0, 0, 1, 0, 0], [0, 0, 0, -1, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, -1],
    ]
).float()  # fmt: skip
COLOURS = {
    "white": (1, 1, 1), "black": (0, 0, 0), "red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.2),
    "blue": (0.15, 0.3, 1), "yellow": (1, 0.9, 0.1),
}  # fmt: skip
GROUND = 128  # pixels of a texture's side, of which a scene shows a quarter to two fifths
TRAIN, TEST = 800, 200


class Scenes(NamedTuple):
    """What happens in each video: events one after the other, before one texture that moves slowly.

    Numbers of place are in half sides of the picture, x to the right and y downwards; those of an event
    have a row an event.

    Args:
        digit: which of scikit-learn's digits is seen.
        motion: its place in `MOTIONS`.
        colour: its place in `COLOURS`.
        place: where it is in the middle of the event.
        reach: how far it goes to either side of that place, or how wide its circle is.
        tilt: its angle in the middle of the event.
        size: its height then, as a share of the picture's.
        texture: which is behind it all.
        corner: of the part that is seen, as shares of the texture, at first.
        pan: by how much that moves in all.
        window: the part's side, as a share.
        tint: of the texture.
    """

    digit: Int[Tensor, "scenes events"]
    motion: Int[Tensor, "scenes events"]
    colour: Int[Tensor, "scenes events"]
    place: Float[Tensor, "scenes events 2"]
    reach: Float[Tensor, "scenes events"]
    tilt: Float[Tensor, "scenes events"]
    size: Float[Tensor, "scenes events"]
    texture: Int[Tensor, "scenes"]
    corner: Float[Tensor, "scenes 2"]
    pan: Float[Tensor, "scenes 2"]
    window: Float[Tensor, "scenes"]
    tint: Float[Tensor, "scenes 3"]

    def rows(self, chosen: Tensor) -> Scenes:
        return Scenes(*(value[chosen] for value in self))


@lru_cache(maxsize=1)
def sprites() -> tuple[Float[Tensor, "digits 1 24 24"], Int[Tensor, "digits"]]:
    """How much of each pixel is ink, of scikit-learn's handwritten digits, and which digit each is."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    ink = torch.from_numpy(digits.images).float()[:, None] / 16
    return F.interpolate(ink, (24, 24), mode="bicubic").clamp(0, 1), torch.from_numpy(digits.target).long()


@lru_cache(maxsize=1)
def textures() -> Float[Tensor, "textures 3 side side"]:
    return photographs(TEXTURES, GROUND)


def draw_scenes(events: int, seed: int, train: int = TRAIN, test: int = TEST) -> tuple[Scenes, list[str]]:
    """Scenes, each with the split it is of. No digit of the test part is one of the training part."""
    rng = np.random.default_rng(seed)
    sources = divided(sprites()[1].numpy(), seed)
    digit = np.concatenate([rng.choice(sources[part], (count, events)) for part, count in
                            (("train", train), ("test", test))])  # fmt: skip
    count = train + test
    window = rng.uniform(0.25, 0.4, count)
    pan = rng.uniform(-0.15, 0.15, (count, 2))
    low, high = np.maximum(0, -pan), 1 - window[:, None] - np.maximum(0, pan)  # so that all of it is texture
    numbers = (
        digit,
        rng.integers(len(MOTIONS), size=(count, events)),
        rng.integers(len(COLOURS), size=(count, events)),
        rng.uniform(-0.25, 0.25, (count, events, 2)),
        rng.uniform(0.4, 0.6, (count, events)),
        rng.uniform(-0.25, 0.25, (count, events)),
        rng.uniform(0.45, 0.6, (count, events)),
        rng.integers(len(TEXTURES), size=count),
        rng.uniform(low, high),
        pan,
        window,
        rng.uniform(0.5, 1.0, (count, 3)),
    )
    tensors = (torch.from_numpy(np.asarray(value)) for value in numbers)
    scenes = Scenes(*(value.float() if value.is_floating_point() else value.long() for value in tensors))
    return scenes, ["train"] * train + ["test"] * test


def render(
    scenes: Scenes, time: Float[Tensor, "scenes frames"], side: int
) -> UInt8[Tensor, "scenes 3 frames side side"]:
    """The scenes at these times.

    Args:
        scenes: what happens.
        time: from 0 to 1 over the whole scene; its events last equally long.
        side: of the picture in pixels.
    """
    batch, frames = time.shape
    ground = texture_at(scenes, time, side) * scenes.tint[:, :, None, None, None]
    ink = sprite_at(scenes, time, side).unflatten(0, (batch, frames)).transpose(1, 2)  # (B, 1, T, S, S)
    palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
    colour = palette[event_at(scenes.colour, time)[0]].permute(0, 2, 1)[..., None, None]  # (B, 3, T, 1, 1)
    return (ground + ink * (colour - ground)).mul(255).round_().clamp_(0, 255).byte()


def event_at(
    values: Tensor, time: Float[Tensor, "scenes frames"]
) -> tuple[Tensor, Float[Tensor, "scenes frames"]]:
    """The value of the event that goes on at each time, and how far it has got, from -1 to 1."""
    events = values.shape[1]
    number = (time * events).long().clamp(0, events - 1)
    return values[torch.arange(len(values))[:, None], number], 2 * (time * events - number) - 1


def sprite_at(
    scenes: Scenes, time: Float[Tensor, "scenes frames"], side: int
) -> Float[Tensor, "scenes*frames 1 side side"]:
    """How much of each pixel is ink."""
    motion, along = event_at(scenes.motion, time)
    right, down, circle, turn, grow = WAYS[motion].unbind(2)
    place, reach = event_at(scenes.place, time)[0], event_at(scenes.reach, time)[0]
    angle = pi * along * circle.abs()  # a whole turn in an event
    x = place[..., 0] + reach * (right * along + circle.abs() * angle.cos())
    y = place[..., 1] + reach * (down * along + circle * angle.sin())
    size = event_at(scenes.size, time)[0] * (0.5 * grow * along).exp()
    tilt = event_at(scenes.tilt, time)[0] + 1.5 * turn * along
    # from the picture's coordinates to the digit's: the digit turns the other way than this matrix
    sin, cos = -tilt.sin() / size, tilt.cos() / size
    matrix = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # (B, T, 2, 2)
    shift = -matrix @ torch.stack([x, y], -1)[..., None]
    affine = torch.cat([matrix, shift], dim=-1).flatten(0, 1)
    ink = sprites()[0][event_at(scenes.digit, time)[0].flatten()]
    grid = F.affine_grid(affine, [len(ink), 1, side, side], align_corners=False)
    return F.grid_sample(ink, grid, mode="bilinear", align_corners=False)


def texture_at(
    scenes: Scenes, time: Float[Tensor, "scenes frames"], side: int
) -> Float[Tensor, "scenes 3 frames side side"]:
    """The part of the texture that is seen at each time."""
    corner = scenes.corner[:, None] + time[..., None] * scenes.pan[:, None]  # (B, T, 2)
    pixel = (torch.arange(side) + 0.5) / side * scenes.window[:, None]  # (B, S)
    x, y = (2 * (corner[..., axis, None] + pixel[:, None]) - 1 for axis in (0, 1))  # (B, T, S)
    across = x[:, :, None, :].expand(-1, -1, side, -1)
    down = y[:, :, :, None].expand(-1, -1, -1, side)
    grid = torch.stack([across, down], -1).flatten(1, 2)  # all frames of a scene below each other
    seen = F.grid_sample(textures()[scenes.texture], grid, mode="bilinear", align_corners=False)
    return seen.unflatten(2, (time.shape[1], side))
