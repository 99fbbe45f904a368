"""Turning a square of a picture where it is (LoRot, Moon et al., ECCV 2022)."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.pretexts import draw
from pretask.pretexts.rotation import rotate_each


class Square(NamedTuple):
    """A square that is the same in all pictures: its top left corner and its side, in pixels."""

    top: int
    left: int
    side: int


def draw_square(size: int, generator: torch.Generator, smallest: int = 2) -> Square:
    """A square for a whole batch: its side is uniform from `smallest` to half the picture's, its corner from 0 to
    size - side - 1, as in the official code, so that it never touches the right and the lower border."""
    unit = draw.common((3,), generator).tolist()
    side = smallest + int(unit[0] * (size // 2 - smallest + 1))
    top, left = (int(value * (size - side)) for value in unit[1:])
    return Square(top, left, side)


def turn_square(
    image: Float[Tensor, "batch chans size size"], square: Square, quarter_turns: Int[Tensor, "batch"]
) -> Float[Tensor, "batch chans size size"]:
    """The square of every picture turned counter-clockwise by its own number of quarter turns."""
    rows, columns = (slice(start, start + square.side) for start in square[:2])
    out = image.clone()
    out[..., rows, columns] = rotate_each(image[..., rows, columns], quarter_turns)
    return out


def turn_quadrants(
    image: Float[Tensor, "batch chans size size"],
    quadrant: Int[Tensor, "batch"],
    quarter_turns: Int[Tensor, "batch"],
) -> Float[Tensor, "batch chans size size"]:
    """One quadrant of every picture turned: 0 top left, 1 top right, 2 bottom left, 3 bottom right."""
    half, quadrant = image.shape[-1] // 2, quadrant.to(image.device)
    for number in range(4):
        top, left = (half * part for part in divmod(number, 2))
        turned = turn_square(image, Square(top, left, half), quarter_turns)
        image = torch.where((quadrant == number).view(-1, 1, 1, 1), turned, image)
    return image
