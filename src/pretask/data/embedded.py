"""Real pictures that ship inside scikit-learn and scikit-image: data sets without a download."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from pretask.data.arrays import from_arrays
from pretask.data.source import Source
from pretask.errors import need

TEXTURES = ("brick", "grass", "gravel", "astronaut", "coffee", "chelsea", "rocket", "immunohistochemistry")
PHOTOS = (*TEXTURES, "retina", "hubble_deep_field", "moon", "coins", "camera")
SIDE = 32
TRAIN, TEST = 6000, 2000
TEXTURE_SIDES = (512, 256, 128)  # the same textures, coarse and fine


def photographs(names: tuple[str, ...], side: int) -> Float[Tensor, "photos 3 side side"]:
    """The middle squares of scikit-image's pictures, in [0, 1]."""
    data = need("skimage.data", "data")
    squares = []
    for name in names:
        picture = getattr(data, name)()
        picture = torch.from_numpy(np.array(picture if picture.ndim == 3 else np.stack([picture] * 3, -1)))
        height, width = picture.shape[:2]
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        square = picture[top : top + edge, left : left + edge, :3].permute(2, 0, 1)[None].float() / 255
        squares.append(F.interpolate(square, (side, side), mode="bilinear", antialias=True))
    return torch.cat(squares)


def windows(
    pictures: UInt8[Tensor, "photos 3 full full"], count: int, side: int, rng: np.random.Generator
) -> UInt8[Tensor, "count 3 side side"]:
    """Random windows of random pictures."""
    photos, _, full, _ = pictures.shape
    which = torch.from_numpy(rng.integers(photos, size=count)).view(-1, 1, 1)
    top = torch.from_numpy(rng.integers(full - side + 1, size=count)).view(-1, 1, 1)
    left = torch.from_numpy(rng.integers(full - side + 1, size=count)).view(-1, 1, 1)
    pixels = pictures.permute(0, 2, 3, 1)  # a window's pixels in one gather
    along = torch.arange(side)
    return pixels[which, top + along.view(1, -1, 1), left + along.view(1, 1, -1)].permute(0, 3, 1, 2)


def turned(
    pictures: UInt8[Tensor, "count chans side side"], rng: np.random.Generator
) -> UInt8[Tensor, "count chans side side"]:
    """Each picture turned by a random right angle: what it shows has no way up any more."""
    quarters = torch.from_numpy(rng.integers(4, size=len(pictures))).view(-1, 1, 1, 1)
    every = torch.stack([pictures.rot90(k, (-2, -1)) for k in range(4)])
    return every.gather(0, quarters.expand(pictures.shape).unsqueeze(0)).squeeze(0)


def placed(
    digits: Float[Tensor, "count 8 8"], side: int, rng: np.random.Generator
) -> Float[Tensor, "count 1 side side"]:
    """Digits at random places, in random sizes and slightly tilted: how much of each pixel is ink."""
    count = len(digits)
    edge = torch.from_numpy(rng.uniform(0.5, 0.8, count)).float()  # of the digit, as a share of the canvas
    angle = torch.from_numpy(rng.uniform(-0.25, 0.25, count)).float()
    shift = torch.from_numpy(rng.uniform(-1, 1, (count, 2))).float() * (1 - edge).unsqueeze(1)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    turn = turn / edge.view(-1, 1, 1)  # from the canvas' coordinates to the digit's
    affine = torch.cat([turn, -turn @ shift.unsqueeze(2)], dim=2)
    smooth = F.interpolate(digits.unsqueeze(1), (24, 24), mode="bicubic").clamp(0, 1)
    grid = F.affine_grid(affine, [count, 1, side, side], align_corners=False)
    return F.grid_sample(smooth, grid, mode="bilinear", align_corners=False)


def divided(target: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Rows for training and, a quarter of every class, for testing."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(target))
    train, test = train_test_split(rows, test_size=0.25, random_state=seed, stratify=target)
    return {"train": train, "test": test}


def digits_on_textures(seed: int = 0) -> Source:
    """Handwritten digits at random places on photographed textures, both in random colours; 10 classes.

    The textures are turned at random, so that only the digits have a way up. No test picture shows a digit
    that a training picture shows.
    """
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    digits = load_digits()
    ink, target = torch.from_numpy(digits.images).float() / 16, digits.target
    textures = [(photographs(TEXTURES, side) * 255).round().byte() for side in TEXTURE_SIDES]
    sources = divided(target, seed)
    parts = {}
    for part, count in (("train", TRAIN), ("test", TEST)):
        chosen = np.resize(rng.permutation(sources[part]), count)
        ground = torch.cat([windows(t, -(-count // len(textures)), SIDE, rng) for t in textures])
        ground = ground[torch.from_numpy(rng.permutation(len(ground))[:count])]
        ground = turned(ground, rng).float() / 255
        parts[part] = (painted(placed(ink[chosen], SIDE, rng), ground, rng).numpy(), target[chosen])
    return from_arrays("digits-on-textures", parts)


def painted(
    ink: Float[Tensor, "count 1 side side"],
    ground: Float[Tensor, "count 3 side side"],
    rng: np.random.Generator,
) -> UInt8[Tensor, "count 3 side side"]:
    """Ink in a random colour on tinted ground, lighter or darker than it."""
    count = len(ink)
    tint = torch.from_numpy(rng.uniform(0.5, 1.0, (count, 3, 1, 1))).float()
    ground = ground * tint
    mean = ground.mean(dim=(1, 2, 3), keepdim=True)
    light = torch.where(mean < 0.45, 1.0, 0.0)
    hue = torch.from_numpy(rng.uniform(0, 0.4, (count, 3, 1, 1))).float()
    colour = (light - hue).abs()
    return ((ground + ink * (colour - ground)) * 255).round().clamp(0, 255).byte()


def plain_digits(seed: int = 0) -> Source:
    """scikit-learn's 1,797 handwritten digits, grey, 8x8 enlarged to 16x16; a quarter is the test split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    ink = F.interpolate(torch.from_numpy(digits.images).float()[:, None] / 16, (16, 16), mode="bicubic")
    image = (ink.clamp(0, 1) * 255).round().byte().numpy()
    rows = divided(digits.target, seed)
    return from_arrays("digits", {part: (image[row], digits.target[row]) for part, row in rows.items()})


def photo_windows(seed: int = 0) -> Source:
    """2,000 windows of 64 pixels from scikit-image's photographs, without labels."""
    pictures = (photographs(PHOTOS, 384) * 255).round().byte()
    image = windows(pictures, 2000, 64, np.random.default_rng(seed))
    return from_arrays("photos", {"all": (image.numpy(), None)})


EMBEDDED: dict[str, Callable[[], Source]] = {
    "digits-on-textures": digits_on_textures,
    "digits": plain_digits,
    "photos": photo_windows,
}
