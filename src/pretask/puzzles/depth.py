"""Points of a scene in the order of their depth."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.errors import DataError

NEAREST, FARTHEST = 0.1, 10.0  # metres
APART, GAP = 40.0, 0.2  # pixels in the picture and metres in depth between any two points
CANDIDATES, TRIES = 4096, 8


def depth_points(
    depth: Float[Tensor, "height width"],
    count: int,
    generator: torch.Generator,
    apart: float = APART,
    gap: float = GAP,
) -> Int[Tensor, "count 2"]:
    """Random points (row, column) of a depth map in metres, from the nearest to the farthest.

    Depths lie between 0.1 and 10 m; anything else, as the 0 of a sensor that saw nothing, is not chosen.
    Pixels are looked at in random order and taken where they are far enough from all that were taken before,
    in the picture and in depth.

    Args:
        depth: metres.
        count: points.
        generator: the randomness.
        apart: pixels between any two points, at least.
        gap: metres between the depths of any two points, at least.

    Raises:
        DataError: so many points were not found.
    """
    places = ((depth >= NEAREST) & (depth <= FARTHEST)).nonzero()
    for _ in range(TRIES):
        order = torch.randperm(len(places), generator=generator)[:CANDIDATES]
        points = far_apart(places[order], depth, count, apart, gap)
        if len(points) == count:
            return points[depth[points[:, 0], points[:, 1]].argsort()]
    raise DataError(
        f"no {count} points {apart:g} pixels and {gap:g} m of depth apart were found in a depth map of "
        f"{depth.shape[0]} x {depth.shape[1]} pixels: ask for fewer points, or for nearer ones"
    )


def far_apart(
    places: Int[Tensor, "places 2"],
    depth: Float[Tensor, "height width"],
    count: int,
    apart: float,
    gap: float,
) -> Int[Tensor, "some 2"]:
    """Up to `count` of the places, the first that are far enough from all taken before."""
    metres = depth[places[:, 0], places[:, 1]]
    taken: list[Tensor] = []
    while len(places) and len(taken) < count:
        taken.append(places[0])
        pixels = (places - places[0]).double().norm(dim=1)
        far = (pixels >= apart) & ((metres - metres[0]).abs() >= gap)
        places, metres = places[far], metres[far]
    return torch.stack(taken) if taken else places[:0]
