"""Kernels of point clouds beside PyG's (torch-cluster) and beside loops, on one thread or a GPU.

torch-cluster takes clouds one behind the other with a vector that says whose each point is; ours are stacked.
Both are given their own form, made beforehand. What it lacks has a loop for a peer: one cloud, patch or point
after the other, as the papers' code has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.harness import Row, against, alternate, installed
from pretask.data.geometry import at, farthest_points, interpolate, local_pca, nearest
from pretask.encoders.points import PatchTokens
from pretask.objectives.points import chamfer_l2

Runs = dict[str, Callable[[], Any]]


class Scale(NamedTuple):
    """How large everything is: Point-MAE's sizes, or a toy's to show that it runs."""

    batch: int
    points: int
    groups: int
    size: int
    patches: int
    rounds: int
    least: float


FULL = Scale(32, 1024, 64, 32, 512, 5, 0.5)
TOY = Scale(2, 64, 8, 4, 6, 1, 0.0)


class Clouds(NamedTuple):
    """The same clouds in both forms.

    Args:
        stacked: (clouds, points, 3).
        joined: (all points, 3).
        whose: which cloud each of them belongs to.
    """

    stacked: Tensor
    joined: Tensor
    whose: Tensor


def clouds(batch: int, points: int, device: torch.device, seed: int = 0) -> Clouds:
    stacked = torch.randn(batch, points, 3, generator=torch.Generator().manual_seed(seed)).to(device)
    whose = torch.arange(batch, device=device).repeat_interleave(points)
    return Clouds(stacked, stacked.flatten(0, 1), whose)


def pyg() -> Any:
    """PyG's kernels, or None where they are not installed."""
    try:
        import torch_cluster

        return torch_cluster
    except ImportError:
        return None


def one_by_one(run: Callable[..., Any], *batches: Tensor) -> Callable[[], Any]:
    """A loop over the clouds of a batch."""
    return lambda: [run(*(part[None] for part in parts)) for parts in zip(*batches, strict=True)]


def sampling(scale: Scale, device: torch.device) -> Runs:
    """Farthest point sampling."""
    given = clouds(scale.batch, scale.points, device)
    runs: Runs = {
        "ours": lambda: farthest_points(given.stacked, scale.groups),
        "a loop over clouds": one_by_one(lambda cloud: farthest_points(cloud, scale.groups), given.stacked),
    }
    if peer := pyg():
        ratio = scale.groups / scale.points
        runs["PyG"] = lambda: peer.fps(given.joined, given.whose, ratio=ratio, random_start=False)
    return runs


def neighbours(scale: Scale, device: torch.device) -> Runs:
    """The nearest points of each centre."""
    given, centres = (
        clouds(scale.batch, n, device, seed) for seed, n in enumerate((scale.points, scale.groups))
    )
    runs: Runs = {
        "ours": lambda: nearest(centres.stacked, given.stacked, scale.size),
        "a loop over clouds": one_by_one(
            lambda centre, cloud: nearest(centre, cloud, scale.size), centres.stacked, given.stacked
        ),
    }
    if peer := pyg():
        whole = (given.joined, centres.joined, scale.size, given.whose, centres.whose)
        runs["PyG"] = lambda: peer.knn(*whole)
    return runs


def interpolation(scale: Scale, device: torch.device) -> Runs:
    """Features of centres carried to all points."""
    given, centres = (
        clouds(scale.batch, n, device, seed) for seed, n in enumerate((scale.points, scale.groups))
    )
    values = torch.randn(scale.batch, scale.groups, 96, device=device)
    runs: Runs = {
        "ours": lambda: interpolate(given.stacked, centres.stacked, values),
        "a loop over clouds": one_by_one(interpolate, given.stacked, centres.stacked, values),
    }
    if peer := pyg():
        joined = values.flatten(0, 1)

        def theirs() -> Tensor:  # the steps of PyG's knn_interpolate
            row, near = peer.knn(centres.joined, given.joined, 3, centres.whose, given.whose)
            gap = (centres.joined[near] - given.joined[row]).square().sum(1, keepdim=True)
            weight = 1 / gap.clamp(min=1e-16)
            total = given.joined.new_zeros(len(given.joined), 1).index_add_(0, row, weight)
            summed = joined.new_zeros(len(given.joined), joined.shape[1])
            return summed.index_add_(0, row, joined[near] * weight) / total

        runs["PyG"] = theirs
    return runs


def chamfer(scale: Scale, device: torch.device) -> Runs:
    """Chamfer distance between patches, with its gradient."""
    a, b = (clouds(scale.patches, scale.size, device, seed).stacked for seed in (0, 1))
    a.requires_grad_()

    def loop() -> None:
        total = a.new_zeros(())
        for one, other in zip(a, b, strict=True):
            square = (one[:, None] - other[None]).square().sum(-1)
            total = total + square.amin(1).mean() + square.amin(0).mean()
        (total / len(a)).backward()

    return {"ours": lambda: chamfer_l2(a, b).backward(), "a loop over patches": loop}


def pca(scale: Scale, device: torch.device) -> Runs:
    """Normals and variation of every point of a cloud from its neighbours."""
    cloud = clouds(1, scale.points, device).stacked
    patches = at(cloud, nearest(cloud, cloud, scale.size).index)[0]
    given = patches.cpu().double().numpy()

    def loop() -> None:
        for patch in given:
            centred = patch - patch.mean(0)
            values = np.sort(np.linalg.eig(centred.T @ centred)[0].real)
            values[0] / values.sum()

    return {"ours": lambda: local_pca(patches), "a loop over points": loop}


def tokens(scale: Scale, device: torch.device) -> Runs:
    """A small PointNet on every patch, with its gradient, beside the published way through its layers."""
    net = PatchTokens(3, 384).to(device)
    patches = clouds(scale.patches, scale.size, device).stacked[None]

    def published() -> None:
        x = net.first_conv(patches[0].transpose(1, 2))
        x = torch.cat([x.amax(2, keepdim=True).expand(-1, -1, scale.size), x], dim=1)
        net.second_conv(x).amax(2).sum().backward()

    return {"ours": lambda: net(patches).sum().backward(), "Point-MAE's layers": published}


CASES: dict[str, Callable[[Scale, torch.device], Runs]] = {
    "farthest point sampling": sampling,
    "nearest neighbours": neighbours,
    "three-nearest interpolation": interpolation,
    "chamfer distance": chamfer,
    "normals and variation": pca,
    "patch tokens": tokens,
}


def measure(toy: bool = False) -> list[Row]:
    """Every kernel beside its peers."""
    scale, device = TOY if toy else FULL, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    versions = {"PyG": f"torch-cluster {installed('torch-cluster')}"}
    note = "" if pyg() else "PyG's kernels are not installed (torch-cluster)"
    rows = []
    for name, case in CASES.items():
        taken = alternate(case(scale, device), scale.rounds, scale.least, 1)
        beside = note if case in (sampling, neighbours, interpolation) else ""
        rows.append(against(name, taken, versions, note=beside))
    return rows
