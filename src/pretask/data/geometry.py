"""What is measured in point clouds: who is near whom, which points lie far apart, which way a surface faces.

Everything is batched tensors and exact differences of coordinates: |a|^2 - 2ab + |b|^2 would lose the small
distances that matter here.
"""

from __future__ import annotations

from math import prod
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Axis = Literal["x", "y", "z"]
AT_ONCE = 2**26  # distances held at a time


class Neighbours(NamedTuple):
    """The nearest points, the nearest first.

    Args:
        index: which they are.
        distance: how far they are.
    """

    index: Int[Tensor, "batch queries k"]  # type: ignore[assignment]  # a tuple's method
    distance: Float[Tensor, "batch queries k"]


class Groups(NamedTuple):
    """A cloud cut into patches that may overlap.

    Args:
        centres: of the patches.
        members: which points belong to each, the nearest to its centre first.
        patches: those points, seen from the centre; what a point carries besides its place is left as it is.
    """

    centres: Float[Tensor, "batch groups 3"]
    members: Int[Tensor, "batch groups size"]
    patches: Float[Tensor, "batch groups size chans"]


class Surface(NamedTuple):
    """How a surface lies at a point.

    Args:
        normal: unit length, of unknown sign.
        variation: 0 where it is flat, 1/3 where neighbours scatter evenly in all directions.
    """

    normal: Float[Tensor, "*points 3"]
    variation: Float[Tensor, "*points"]


def distances(a: Float[Tensor, "batch n dim"], b: Float[Tensor, "batch m dim"]) -> Float[Tensor, "batch n m"]:
    """Euclidean distances between all points of two clouds."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def at(
    values: Float[Tensor, "batch points dim"], index: Int[Tensor, "batch *places"]
) -> Float[Tensor, "batch *places dim"]:
    """The rows with these numbers, whatever shape the numbers have."""
    flat = index.flatten(1).unsqueeze(-1).expand(-1, -1, values.shape[-1])
    return values.gather(1, flat).view(*index.shape, values.shape[-1])


@torch.no_grad()
def farthest_points(
    points: Float[Tensor, "batch points 3"], count: int, start: Int[Tensor, "batch"] | None = None
) -> Int[Tensor, "batch count"]:
    """Farthest point sampling (Eldar et al., 1997; PointNet++): each next point is the one farthest from all
    that were taken. (The kernel of pointnet2_ops never takes points within 0.03 of the origin; this does.)

    Args:
        points: of which there are at least `count`.
        count: how many to take.
        start: the first point; default number 0.
    """
    batch, total, _ = points.shape
    axes = points.transpose(1, 2).contiguous().unbind(1)  # plane by plane: sums over 3 are slow
    far = points.new_full((batch, total), torch.inf)
    square = torch.empty_like(far)
    last = (torch.zeros_like(far[:, 0], dtype=torch.long) if start is None else start).view(-1, 1)
    taken = [last]
    for _ in range(count - 1):
        square.zero_()
        for axis in axes:
            gap = axis - axis.gather(1, last)
            square.addcmul_(gap, gap)
        torch.minimum(far, square, out=far)
        last = far.argmax(1, keepdim=True)
        taken.append(last)
    return torch.cat(taken, dim=1)


@torch.no_grad()
def nearest(
    queries: Float[Tensor, "batch queries dim"], points: Float[Tensor, "batch points dim"], k: int
) -> Neighbours:
    """The k points nearest to each query; a point that is its own query comes first."""
    rows = max(1, AT_ONCE // prod(points.shape[:2]))
    found = [distances(part, points).topk(k, largest=False) for part in queries.split(rows, dim=1)]
    return Neighbours(torch.cat([f.indices for f in found], 1), torch.cat([f.values for f in found], 1))


def group(points: Float[Tensor, "batch points chans"], count: int, size: int) -> Groups:
    """Patches of the `size` points nearest to each of `count` points that lie far apart (Point-MAE).

    Args:
        points: coordinates first.
        count: patches.
        size: points of a patch.
    """
    places = points[..., :3]
    centres = at(places, farthest_points(places, count))
    members = nearest(centres, places, size).index
    patches = at(points, members)
    relative = patches[..., :3] - centres.unsqueeze(2)
    return Groups(centres, members, torch.cat([relative, patches[..., 3:]], dim=-1))


def interpolate(
    queries: Float[Tensor, "batch queries 3"],
    places: Float[Tensor, "batch places 3"],
    values: Float[Tensor, "batch places dim"],
    k: int = 3,
) -> Float[Tensor, "batch queries dim"]:
    """Means of the k nearest places' values, weighted by 1 / distance^2 (PointNet++, equation 2)."""
    index, distance = nearest(queries, places, k)
    weight = 1 / (distance.square() + 1e-8)
    weight = (weight / weight.sum(-1, keepdim=True)).to(values.dtype)
    first = places.shape[1] * torch.arange(len(places), device=places.device)
    rows = (index + first.view(-1, 1, 1)).flatten(0, 1)
    # in one pass, without (batch, queries, k, dim) numbers in between
    found = F.embedding_bag(rows, values.flatten(0, 1), per_sample_weights=weight.flatten(0, 1), mode="sum")
    return found.unflatten(0, queries.shape[:2])


def local_pca(neighbours: Float[Tensor, "*points k 3"]) -> Surface:
    """Normal and surface variation (Pauly et al., 2002) of the k points around each point.

    With l0 <= l1 <= l2 the eigenvalues of their scatter about their mean, the variation is
    l0 / (l0 + l1 + l2) and the normal belongs to l0. Computed in float64; points in one place vary by 0.
    """
    centred = neighbours.double()
    centred = centred - centred.mean(-2, keepdim=True)
    spread, axes = torch.linalg.eigh(centred.transpose(-1, -2) @ centred)
    total = spread.sum(-1)
    variation = torch.where(total > 0, spread[..., 0].clamp(min=0) / total, 0)
    return Surface(axes[..., 0].to(neighbours.dtype), variation.to(neighbours.dtype))


def rotation(axis: Axis, angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Matrices that turn row vectors, `points @ matrix`, about an axis.

    About y they are those of Point-MAE's data: [[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]].
    """
    i, j = {"x": (2, 1), "y": (0, 2), "z": (1, 0)}[axis]
    matrix = torch.eye(3, dtype=angle.dtype, device=angle.device).repeat(*angle.shape, 1, 1)
    matrix[..., i, i] = matrix[..., j, j] = angle.cos()
    matrix[..., i, j] = angle.sin()
    matrix[..., j, i] = -angle.sin()
    return matrix
