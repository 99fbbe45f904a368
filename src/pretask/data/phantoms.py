"""Made-up abdomens: organs at the places they have in people, each body another, with noise. No file is needed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from pretask.data.source import Source
from pretask.data.voxels import Scan

EACH, TESTED = 60, 15  # bodies of a kind, and how many of them are for testing
SIZE = (64, 64, 16)  # voxels to the right, to the front, up: the axes of RAS
KINDS = ("ordinary", "large liver", "one kidney", "large spleen")


class Organ(NamedTuple):
    """An ellipsoid in a body that reaches from -1 to 1 along each axis."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    brightness: float


BODY = Organ((0, 0, 0), (0.85, 0.68, 2.5), 0.3)
ORGANS = {
    "liver": Organ((0.36, 0.12, 0.15), (0.36, 0.36, 0.8), 0.55),
    "spleen": Organ((-0.54, -0.16, 0.2), (0.14, 0.2, 0.5), 0.62),
    "stomach": Organ((-0.28, 0.3, 0.15), (0.22, 0.17, 0.5), 0.45),
    "right kidney": Organ((0.34, -0.36, -0.3), (0.13, 0.11, 0.5), 0.75),
    "left kidney": Organ((-0.33, -0.38, -0.2), (0.13, 0.11, 0.5), 0.75),
    "spine": Organ((0, -0.5, 0), (0.12, 0.12, 4), 0.95),
    "aorta": Organ((-0.05, -0.25, 0), (0.06, 0.06, 4), 0.7),
}
SEGMENTS = ("background", *ORGANS)
GROWN = {"large liver": ("liver", 1.3), "large spleen": ("spleen", 1.7)}


def smooth(rng: np.random.Generator) -> np.ndarray:
    """A field that varies slowly, about between -1 and 1."""
    coarse = torch.from_numpy(rng.uniform(-1, 1, (1, 1, 5, 5, 3)).astype(np.float32))
    return F.interpolate(coarse, SIZE, mode="trilinear", align_corners=True)[0, 0].numpy()


def reach(organ: Organ, jitter: float, rng: np.random.Generator, grown: float = 1.0) -> np.ndarray:
    """How far each voxel lies from the centre of a variant of this organ: 1 on its surface."""
    centre = np.array(organ.centre) + jitter * rng.normal(size=3)
    radii = np.array(organ.radii) * rng.uniform(0.87, 1.13, 3) * grown
    turn, _ = np.linalg.qr(np.eye(3) + 0.12 * rng.normal(size=(3, 3)))
    axes = np.ogrid[tuple(slice(-1 + 1 / n, 1, 2 / n) for n in SIZE)]
    away = [axis - place for axis, place in zip(axes, centre, strict=True)]
    squared = np.zeros(SIZE, np.float32)
    for along, radius in zip(turn.T, radii, strict=True):  # the axes of the ellipsoid
        x, y, z = (part * (step / radius) for part, step in zip(away, along, strict=True))
        squared += np.square((x + y).astype(np.float32) + z.astype(np.float32))
    return np.sqrt(squared)


def phantom(kind: str, rng: np.random.Generator) -> Scan:
    """A body of this kind, and which organ is where."""
    wobble = 1 + 0.06 * smooth(rng)
    inside = reach(BODY, 0.02, rng) < wobble
    volume = np.where(inside, BODY.brightness, 0).astype(np.float32)
    segments = np.zeros(SIZE, np.int16)
    for number, (name, organ) in enumerate(ORGANS.items(), start=1):
        grown = GROWN[kind][1] if kind in GROWN and GROWN[kind][0] == name else 1.0
        there = (reach(organ, 0.025, rng, grown) < wobble) & inside
        if kind == "one kidney" and name == "left kidney":
            continue
        volume[there] = organ.brightness * rng.uniform(0.93, 1.07)
        segments[there] = number
    noise = 0.05 * rng.standard_normal(SIZE, dtype=np.float32)
    return Scan((volume * (1 + 0.1 * smooth(rng)) + noise)[None], (1.0, 1.0, 1.0), segments)


class Phantoms:
    """All of them, each made when it is read."""

    segmented, segment_names = True, SEGMENTS

    def __init__(self, seed: int):
        self.seed = seed
        self.names = [f"{kind} {number}" for kind in KINDS for number in range(EACH)]

    def read(self, row: int) -> Scan:
        return phantom(KINDS[row // EACH], np.random.default_rng([self.seed, row]))


def phantoms(seed: int = 0) -> Source:
    """Four kinds of bodies, sixty of each; no two are alike."""
    number = torch.arange(len(KINDS) * EACH)
    return Source(
        "phantoms", Phantoms(seed), ((number % EACH) >= EACH - TESTED).long(), ("train", "test"),
        number // EACH, list(KINDS),
    )  # fmt: skip
