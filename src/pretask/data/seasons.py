"""Made-up places seen from above at four times: what the land is used for has a form, the time of year a colour."""

from __future__ import annotations

from math import pi
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

NAME = "seasons"
USES = ("field", "forest", "lake", "town", "dunes", "orchard", "road", "river", "island", "airfield")
SIDE, TIMES, REGIONS = 32, 4, 12
TRAIN, TEST = 1000, 250  # places
SPREAD = 3.0  # degrees around the middle of a region
SNOW_FROM = 35.0  # degrees from the equator where winters are white
YEAR = 365.25  # days


class Places(NamedTuple):
    """Pictures of places, those of one place next to each other, in the order of time.

    Args:
        image: (N, 3, S, S) in [0, 1].
        use: of each, its place in `USES`.
        where: latitude and longitude in degrees.
        place: a number for each place.
        time: in days since a new year.
    """

    image: Float[Tensor, "pictures 3 side side"]
    use: Int[Tensor, "pictures"]
    where: Float[Tensor, "pictures 2"]
    place: Int[Tensor, "pictures"]
    time: Float[Tensor, "pictures"]


def smooth(
    count: int, cells: int, rng: np.random.Generator, side: int = SIDE
) -> Float[Tensor, "count 1 side side"]:
    """Noise of mean 0 without edges: about so many hills along a side."""
    noise = torch.from_numpy(rng.normal(size=(count, 1, cells + 3, cells + 3))).float()
    return F.interpolate(noise, (side, side), mode="bicubic", align_corners=True)


def forms(use: Int[Tensor, "count"], rng: np.random.Generator) -> Float[Tensor, "count 1 side side"]:
    """What is built, grown or flooded at each place, from 0 to 1."""
    count = len(use)

    def number(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, 1, 1, 1))).float()

    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    angle, wave = number(0, pi), number(7, 11)
    a, b = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    hills, rough = smooth(count, 2, rng), smooth(count, 10, rng)
    off, phase, wide = number(-0.4, 0.4), number(0, 2 * pi), number(0.08, 0.14)
    blob = 0.55 - (a**2 + 1.3 * b**2).sqrt() + 0.2 * hills
    grid = torch.minimum((wave * a).sin(), (wave * b).sin())
    found = {
        "field": (1.6 * wave * a).sin() * 4,
        "forest": 4 * rough,
        "lake": 20 * blob,
        "town": 6 * (grid + 0.6),
        "dunes": (wave * a + 3 * hills).sin() * 2,
        "orchard": 8 * ((1.5 * wave * a).cos() * (1.5 * wave * b).cos() - 0.5),
        "road": 30 * (wide - (a - off).abs()),
        "river": 30 * (1.5 * wide - (a - off - 0.3 * (3 * b + phase).sin()).abs()),
        "island": -20 * blob,
        "airfield": 30 * (wide - torch.minimum((a - off).abs(), (b - off).abs())),
    }
    every = torch.stack([found[name].expand(count, 1, SIDE, SIDE) for name in USES])
    return every[use, torch.arange(count)].sigmoid()


def coordinates(use: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Latitudes and longitudes: every region has its own mixture of uses, so that where a place lies tells a
    little of what it is used for."""
    middle = np.stack([rng.uniform(-50, 60, REGIONS), rng.uniform(-170, 170, REGIONS)], 1)
    mixture = rng.dirichlet(np.full(len(USES), 0.3), REGIONS) + 1e-3
    share = mixture / mixture.sum(0)  # of each region in a use
    region = np.array([rng.choice(REGIONS, p=share[:, kind]) for kind in use])
    return middle[region] + rng.normal(0, SPREAD, (len(use), 2))


def seen(
    form: Float[Tensor, "count 1 side side"], soil: Float[Tensor, "count 3 1 1"], cover: Float[Tensor, "count 3 1 1"],
    latitude: Float[Tensor, "count"], day: Float[Tensor, "count"], rng: np.random.Generator,
) -> Float[Tensor, "count 3 side side"]:  # fmt: skip
    """A place at a time: green in its summer, brown in autumn, white in a cold winter; in more or less light, a pixel
    or two aside, with something new in it, sometimes with clouds over it."""
    count = len(form)
    season = 2 * pi * (day / YEAR + torch.where(latitude < 0, 0.5, 0.0))
    warm = (-season.cos()).view(-1, 1, 1, 1)  # -1 at new year in the north
    autumn = (-season.sin()).clamp(min=0).view(-1, 1, 1, 1)
    growth = torch.tensor([-0.15, 0.15, -0.1]).view(3, 1, 1) * warm.clamp(min=-0.3)
    growth = growth + torch.tensor([0.25, 0.05, -0.1]).view(3, 1, 1) * autumn
    moved = torch.from_numpy(rng.integers(-2, 3, (count, 2)))
    rows, columns = (((torch.arange(SIDE) + moved[:, [axis]]).clamp(0, SIDE - 1)) for axis in (0, 1))
    form = form[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None]][:, None]
    image = soil + growth + form * (cover - soil - growth / 2)
    snow = ((-warm - 0.3).clamp(min=0) * (latitude.abs() > SNOW_FROM).view(-1, 1, 1, 1)).clamp(max=0.6)
    image = image + snow * (1 - image) * (0.5 + 0.5 * smooth(count, 4, rng).sigmoid())
    corner = torch.from_numpy(rng.integers(0, SIDE - 3, (count, 2)))  # something small and new
    span = torch.arange(SIDE)
    here = [((span >= corner[:, [axis]]) & (span < corner[:, [axis]] + 3)) for axis in (0, 1)]
    spot = (here[0][:, :, None] & here[1][:, None])[:, None]
    image = torch.where(spot, torch.from_numpy(rng.uniform(size=(count, 3, 1, 1))).float(), image)
    image = image * torch.from_numpy(rng.uniform(0.6, 1.1, (count, 1, 1, 1))).float()
    cloudy = torch.from_numpy(rng.random((count, 1, 1, 1)) < 0.4)
    clouds = (4 * (smooth(count, 3, rng) - 0.8)).sigmoid() * cloudy
    return (image + clouds * (1 - image)).clamp(0, 1)


def draw_places(count: int, rng: np.random.Generator) -> Places:
    """So many places, each at `TIMES` days spread over a year."""
    kinds = np.resize(np.arange(len(USES)), count)
    rng.shuffle(kinds)
    use, where = torch.from_numpy(kinds), torch.from_numpy(coordinates(kinds, rng)).float()
    form = forms(use, rng)
    ground = torch.tensor([[0.45, 0.4, 0.25], [0.3, 0.45, 0.25], [0.55, 0.5, 0.4], [0.35, 0.35, 0.3]])
    soil = ground[torch.from_numpy(rng.integers(len(ground), size=count))][:, :, None, None]
    cover = soil + torch.from_numpy(
        rng.choice([-1.0, 1.0], (count, 1, 1, 1)) * rng.uniform(0.15, 0.3, (count, 3, 1, 1))
    )
    first = rng.uniform(0, YEAR, count)
    visits, days = [], []
    for time in range(TIMES):
        day = torch.from_numpy((first + time * YEAR / TIMES) % YEAR).float()
        visits.append(seen(form, soil, cover.float().clamp(0, 1), where[:, 0], day, rng))
        days.append(day)
    day, order = torch.stack(days, 1).sort(1)
    image = torch.stack(visits, 1)[torch.arange(count)[:, None], order].flatten(0, 1)
    number = torch.arange(count).repeat_interleave(TIMES)
    return Places(image, use[number], where[number], number, day.flatten())


def seasons(seed: int = 0) -> tuple[Places, Places]:
    """Places to learn from and others to be judged by, in the same regions."""
    whole = draw_places(TRAIN + TEST, np.random.default_rng(seed))
    held = whole.place % (1 + TRAIN // TEST) == 0
    first, second = (Places(*(value[rows] for value in whole)) for rows in (~held, held))
    return first, second
