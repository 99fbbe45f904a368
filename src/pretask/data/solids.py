"""Solids of random proportions, sampled evenly by area, with their true normals: clouds without a file.

y points up. A solid is made of parts; a part knows its area and how to draw points on it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from typing import NamedTuple

import numpy as np
import torch

from pretask.data.clouds import Cloud
from pretask.data.source import Source

Drawn = tuple[np.ndarray, np.ndarray]  # points (n, 3) and normals (n, 3)
Rng = np.random.Generator

DENSE = 4096  # points of each solid, of which readers take some
EACH, TESTED = 100, 20  # solids of a kind, and how many of them are for testing


class Part(NamedTuple):
    """A piece of surface.

    Args:
        area: of it.
        draw: `draw(n, rng)` gives n points spread evenly over it, and its normals there.
    """

    area: float
    draw: Callable[[int, Rng], Drawn]

    def moved(self, *by: float) -> Part:
        def draw(n: int, rng: Rng) -> Drawn:
            points, normals = self.draw(n, rng)
            return points + np.array(by), normals

        return Part(self.area, draw)


def circle(n: int, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    angle = rng.uniform(0, 2 * pi, n)
    return np.cos(angle), np.sin(angle)


def triangles(corners: np.ndarray) -> Part:
    """Triangles (t, 3, 3), their corners counter-clockwise as seen from outside."""
    a, b, c = corners.transpose(1, 0, 2)
    outward = np.cross(b - a, c - a)
    areas = np.linalg.norm(outward, axis=1) / 2

    def draw(n: int, rng: Rng) -> Drawn:
        which = rng.choice(len(areas), n, p=areas / areas.sum())
        u, v = rng.uniform(size=(2, n, 1))
        u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
        points = a[which] + u * (b - a)[which] + v * (c - a)[which]
        return points, (outward / (2 * areas[:, None]))[which]

    return Part(float(areas.sum()), draw)


def box(width: float, height: float, depth: float) -> Part:
    half = np.array([width, height, depth]) / 2
    areas = np.repeat([height * depth, width * depth, width * height], 2)

    def draw(n: int, rng: Rng) -> Drawn:
        which = rng.choice(6, n, p=areas / areas.sum())
        axis, side = which // 2, which % 2 * 2.0 - 1
        points = rng.uniform(-1, 1, (n, 3)) * half
        normals = np.zeros((n, 3))
        points[np.arange(n), axis], normals[np.arange(n), axis] = side * half[axis], side
        return points, normals

    return Part(float(areas.sum()), draw)


def frustum(bottom: float, top: float, height: float) -> Part:
    """The side of a cylinder or of a (blunt) cone, around the y axis."""
    slant = np.hypot(height, bottom - top)

    def draw(n: int, rng: Rng) -> Drawn:
        radius = np.sqrt(
            bottom**2 + rng.uniform(size=n) * (top**2 - bottom**2)
        )  # as much as its circle is long
        if bottom == top:
            up = rng.uniform(size=n)
        else:
            up = (radius - bottom) / (top - bottom)
        cos, sin = circle(n, rng)
        points = np.stack([radius * cos, (up - 0.5) * height, radius * sin], axis=1)
        outward = np.stack([height * cos, np.full(n, bottom - top), height * sin], axis=1)
        return points, outward / slant

    return Part(pi * (bottom + top) * slant, draw)


def disc(radius: float, facing: float) -> Part:
    """A disc across the y axis that faces up (1) or down (-1)."""

    def draw(n: int, rng: Rng) -> Drawn:
        cos, sin = circle(n, rng)
        far = radius * np.sqrt(rng.uniform(size=n))
        return np.stack([far * cos, 0 * far, far * sin], axis=1), np.tile([0.0, facing, 0.0], (n, 1))

    return Part(pi * radius**2, draw)


def kept(candidates: Callable[[int], tuple[Drawn, np.ndarray]], n: int, rng: Rng) -> Drawn:
    """The first n candidates, each accepted with a probability of its own."""
    points, normals, count = [], [], 0
    while count < n:
        (some, their), chance = candidates(2 * n)
        accepted = rng.uniform(size=len(chance)) < chance
        points.append(some[accepted])
        normals.append(their[accepted])
        count += int(accepted.sum())
    return np.concatenate(points)[:n], np.concatenate(normals)[:n]


def ellipsoid(*radii: float) -> Part:
    size = np.array(radii)

    def draw(n: int, rng: Rng) -> Drawn:
        def candidates(count: int) -> tuple[Drawn, np.ndarray]:
            unit = rng.normal(size=(count, 3))
            unit /= np.linalg.norm(unit, axis=1, keepdims=True)
            stretch = np.linalg.norm(unit / size, axis=1)  # of the sphere's surface there, but for a factor
            return (unit * size, unit / size / stretch[:, None]), stretch * size.min()

        return kept(candidates, n, rng)

    p = 1.6075  # Thomsen's formula, within 1.1 %
    products = (radii[0] * radii[1], radii[1] * radii[2], radii[2] * radii[0])
    return Part(4 * pi * (sum(product**p for product in products) / 3) ** (1 / p), draw)


def half_ball(radius: float, facing: float) -> Part:
    def draw(n: int, rng: Rng) -> Drawn:
        unit = rng.normal(size=(n, 3))
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        unit[:, 1] = facing * np.abs(unit[:, 1])
        return radius * unit, unit

    return Part(2 * pi * radius**2, draw)


def torus(ring: float, tube: float) -> Part:
    def draw(n: int, rng: Rng) -> Drawn:
        def candidates(count: int) -> tuple[Drawn, np.ndarray]:
            (cos, sin), (out, up) = circle(count, rng), circle(count, rng)
            normals = np.stack([out * cos, up, out * sin], axis=1)
            middle = ring * np.stack([cos, 0 * cos, sin], axis=1)
            return (middle + tube * normals, normals), (ring + tube * out) / (ring + tube)

        return kept(candidates, n, rng)

    return Part(4 * pi**2 * ring * tube, draw)


def closed(bottom: float, top: float, height: float) -> list[Part]:
    """A frustum with its lids."""
    lids = [disc(bottom, -1).moved(0, -height / 2, 0), disc(top, 1).moved(0, height / 2, 0)]
    return [frustum(bottom, top, height), *lids]


def pyramid(width: float, height: float) -> Part:
    w, h = width / 2, height / 2
    base = np.array([[w, -h, w], [w, -h, -w], [-w, -h, -w], [-w, -h, w]])
    sides = [[base[i], base[(i + 1) % 4], [0, h, 0]] for i in range(4)]
    return triangles(np.array([*sides, base[[0, 2, 1]], base[[0, 3, 2]]]))


def legs(width: float, depth: float, height: float, thick: float) -> list[Part]:
    """Four, below the origin."""
    x, z = (width - thick) / 2, (depth - thick) / 2
    return [box(thick, height, thick).moved(i * x, -height / 2, j * z) for i in (-1, 1) for j in (-1, 1)]


def table(rng: Rng) -> list[Part]:
    width, depth, height, board = rng.uniform((1, 0.6, 0.5, 0.05), (2, 1.2, 1.1, 0.12))
    return [
        box(width, board, depth).moved(0, board / 2, 0),
        *legs(width, depth, height, rng.uniform(0.06, 0.16)),
    ]


def chair(rng: Rng) -> list[Part]:
    width, depth, height, back = rng.uniform((0.7, 0.7, 0.5, 0.6), (1.1, 1.1, 1, 1.3))
    thick = rng.uniform(0.06, 0.14)
    rest = box(width, back, thick).moved(0, thick + back / 2, (thick - depth) / 2)
    return [box(width, thick, depth).moved(0, thick / 2, 0), rest, *legs(width, depth, height, thick)]


def lamp(rng: Rng) -> list[Part]:
    foot, pole, shade, rim = rng.uniform((0.25, 0.8, 0.4, 0.3), (0.5, 1.6, 0.7, 0.6))
    top = frustum(rim, rng.uniform(0.3, 0.9) * rim, shade).moved(0, pole / 2, 0)
    return [
        *(part.moved(0, -pole / 2, 0) for part in closed(foot, foot, 0.08)), frustum(0.04, 0.04, pole), top,
    ]  # fmt: skip


def capsule(rng: Rng) -> list[Part]:
    radius, height = rng.uniform((0.3, 0.5), (0.6, 2))
    ends = [half_ball(radius, side).moved(0, side * height / 2, 0) for side in (-1, 1)]
    return [frustum(radius, radius, height), *ends]


def cone(rng: Rng) -> list[Part]:
    radius, height = rng.uniform((0.4, 0.8), (0.9, 2))
    return [frustum(radius, 0, height), disc(radius, -1).moved(0, -height / 2, 0)]


def cylinder(rng: Rng) -> list[Part]:
    radius, height = rng.uniform((0.3, 0.5), (0.8, 2))
    return closed(radius, radius, height)


KINDS: dict[str, Callable[[Rng], list[Part]]] = {
    "box": lambda rng: [box(*rng.uniform(0.5, 1.5, 3))],
    "capsule": capsule,
    "chair": chair,
    "cone": cone,
    "cylinder": cylinder,
    "ellipsoid": lambda rng: [ellipsoid(*rng.uniform(0.6, 1.2, 3))],
    "lamp": lamp,
    "pyramid": lambda rng: [pyramid(*rng.uniform((0.8, 0.6), (1.6, 1.8)))],
    "table": table,
    "torus": lambda rng: [torus(1.0, rng.uniform(0.15, 0.5))],
}


def solid(kind: str, rng: Rng, count: int = DENSE) -> Cloud:
    """A solid of this kind with random proportions."""
    parts = KINDS[kind](rng)
    areas = np.array([part.area for part in parts])
    numbers = rng.multinomial(count, areas / areas.sum())
    drawn = [part.draw(int(n), rng) for part, n in zip(parts, numbers, strict=True)]
    points, normals = (np.concatenate(columns) for columns in zip(*drawn, strict=True))
    return Cloud(points, np.empty((count, 0), np.float32), normals)


class Solids:
    """All of them, each made when it is read."""

    def __init__(self, seed: int):
        self.seed = seed
        self.names = [f"{kind} {number}" for kind in KINDS for number in range(EACH)]

    def read(self, row: int) -> Cloud:
        return solid(self.names[row].split()[0], np.random.default_rng([self.seed, row]))


def solids(seed: int = 0) -> Source:
    """Ten kinds of solids, a hundred of each; no two have the same proportions."""
    number = torch.arange(len(KINDS) * EACH)
    return Source(
        "solids", Solids(seed), ((number % EACH) >= EACH - TESTED).long(), ("train", "test"), number // EACH,
        list(KINDS),
    )  # fmt: skip
