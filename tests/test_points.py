"""Poses and masks of point clouds."""

import math

import numpy as np
import pytest
import torch

from pretask.data.geometry import local_pca
from pretask.pretexts.points import (
    POINT_MASKS,
    PoseSpec,
    around,
    draw_pose,
    face,
    painted,
    place,
    some_points,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(batch: int = 4, points: int = 30, chans: int = 3) -> torch.Tensor:
    return torch.randn(batch, points, chans, generator=generator(1), dtype=torch.float64)


def test_a_pose_turns_then_scales_then_moves():
    spec = PoseSpec("y", (2 / 3, 3 / 2), isotropic=False, shift=0.2)
    pose, points = draw_pose(spec, 4, generator()), cloud(chans=5)
    found = place(pose, points)
    for i in range(4):
        for j in (0, 29):
            turned = points[i, j, :3] @ pose.turn[i].double()
            expected = [turned[a] * pose.scale[i, 0, a] + pose.shift[i, 0, a] for a in range(3)]
            torch.testing.assert_close(found[i, j, :3], torch.stack(expected))
    assert torch.equal(found[..., 3:], points[..., 3:])


def test_what_is_drawn_is_spread_as_told():
    pose = draw_pose(PoseSpec("y", (2 / 3, 3 / 2), isotropic=False, shift=0.2), 4000, generator())
    scale, shift = pose.scale[:, 0], pose.shift[:, 0]
    assert scale.min() + 1e-2 > 0.667 and scale.max() < 1.5 and scale.mean(0).sub(13 / 12).abs().max() < 0.02
    assert scale.T.corrcoef().fill_diagonal_(0).abs().max() < 0.06, "one factor each"
    assert shift.abs().max() <= 0.2 and shift.mean(0).abs().max() < 0.01
    angle = torch.atan2(pose.turn[:, 0, 2], pose.turn[:, 0, 0])
    counts = torch.histc(angle, 8, -math.pi, math.pi)
    assert counts.sub(500).abs().max() < 5 * 500**0.5
    one = draw_pose(PoseSpec("y", (2 / 3, 3 / 2)), 50, generator())
    assert torch.equal(one.scale, one.scale[..., :1].expand(-1, -1, 3)) and not one.shift.any()


def test_no_axis_no_turn():
    points = cloud()
    assert torch.equal(place(draw_pose(PoseSpec(), 4, generator()), points), points)


@pytest.mark.parametrize("isotropic", [True, False])
def test_normals_stay_normal_to_the_surface(isotropic):
    """Of a plane's points in a pose, the fitted normal is the plane's normal in that pose."""
    points = cloud() * torch.tensor([1.0, 1.0, 0.0])
    tilt = torch.linalg.qr(cloud(1, 3)[0]).Q
    points, normals = points @ tilt, (torch.tensor([0.0, 0.0, 1.0]).double() @ tilt).expand(4, 30, 3)
    pose = draw_pose(PoseSpec("y", (0.5, 2), isotropic, 0.3), 4, generator(2))
    fitted = local_pca(place(pose, points)).normal
    found = face(pose, normals)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(4, 30).double())
    torch.testing.assert_close(
        (found * fitted.unsqueeze(1)).sum(-1).abs(), torch.ones(4, 30).double(), atol=1e-6, rtol=0
    )


def test_autocast_does_not_round_coordinates():
    pose, points = draw_pose(PoseSpec("y", (0.5, 2)), 4, generator()), cloud().float()
    with torch.autocast("cpu", torch.bfloat16):
        found = place(pose, points)
    assert torch.equal(found, place(pose, points))


def test_some_points_are_distinct_and_others_for_each_cloud():
    chosen = some_points(5, 40, 12, generator())
    assert chosen.shape == (5, 12) and all(len(set(row)) == 12 for row in chosen.tolist())
    assert len({tuple(sorted(row)) for row in chosen.tolist()}) == 5


def naive_block(centres: np.ndarray, start: int, num_hidden: int) -> list[bool]:
    order = sorted(range(len(centres)), key=lambda i: math.dist(centres[i], centres[start]))
    return [i in order[:num_hidden] for i in range(len(centres))]


def test_a_block_is_the_nearest_to_its_start():
    centres, start = cloud(4, 20), torch.tensor([0, 3, 19, 7])
    mask = around(centres, start, 12)
    for i in range(4):
        assert mask[i].tolist() == naive_block(centres[i].numpy(), int(start[i]), 12)
    assert mask[torch.arange(4), start].all()


@pytest.mark.parametrize("name", sorted(POINT_MASKS))
def test_masks_hide_exactly_what_they_are_told(name):
    centres = cloud(300, 20)
    mask = POINT_MASKS[name](centres, 12, generator())
    assert mask.dtype == torch.bool and (mask.sum(1) == 12).all()
    assert torch.equal(mask, POINT_MASKS[name](centres, 12, generator()))
    assert mask.float().mean(0).sub(0.6).abs().max() < 0.2, "every patch is hidden about as often"
    assert len({tuple(row) for row in mask.tolist()}) > 200


def test_painted_points_carry_colours_in_range():
    points = cloud(1, 5)[0]
    found = painted(points, torch.full((5, 3), 1.4))
    assert torch.equal(found[:, :3], points) and (found[:, 3:] == 1).all()
    assert painted(points, (0.1, 0.2, 0.3)).shape == (5, 6)
