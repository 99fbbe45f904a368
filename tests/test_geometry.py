"""The geometry of point clouds against loops in float64, and by what must hold of any cloud."""

import math

import numpy as np
import pytest
import torch

from pretask.data.geometry import (
    at,
    distances,
    farthest_points,
    group,
    interpolate,
    local_pca,
    nearest,
    rotation,
)
from pretask.objectives.points import agree, chamfer_l1, chamfer_l2, normal_loss


def clouds(batch: int = 3, points: int = 40, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(batch, points, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def naive_farthest(points: np.ndarray, count: int, start: int = 0) -> list[int]:
    taken = [start]
    while len(taken) < count:
        gaps = [min(math.dist(p, points[t]) for t in taken) for p in points]
        taken.append(max(range(len(points)), key=lambda i: gaps[i]))
    return taken


def naive_nearest(query: np.ndarray, points: np.ndarray, k: int) -> list[int]:
    return sorted(range(len(points)), key=lambda i: math.dist(query, points[i]))[:k]


def test_farthest_points_are_those_of_a_loop():
    points, start = clouds(), torch.tensor([0, 7, 39])
    for found, first in (
        (farthest_points(points, 12), [0, 0, 0]),
        (farthest_points(points, 12, start), start),
    ):
        for i in range(3):
            assert found[i].tolist() == naive_farthest(points[i].numpy(), 12, int(first[i]))


def test_farthest_points_of_all_are_all():
    assert torch.equal(farthest_points(clouds(), 40).sort(1).values, torch.arange(40).expand(3, -1))


@pytest.mark.parametrize("at_once", [2**26, 300])  # all queries at a time, and a few
def test_nearest_is_a_sort_by_distance(at_once, monkeypatch):
    monkeypatch.setattr("pretask.data.geometry.AT_ONCE", at_once)
    points, queries = clouds(), clouds(points=11, seed=1)
    index, distance = nearest(queries, points, 5)
    for i in range(3):
        for j in range(11):
            expected = naive_nearest(queries[i, j].numpy(), points[i].numpy(), 5)
            assert index[i, j].tolist() == expected
            for place, e in enumerate(expected):
                assert distance[i, j, place].item() == pytest.approx(math.dist(queries[i, j], points[i, e]))


def test_small_distances_far_from_the_origin_survive():
    """|a|^2 - 2ab + |b|^2 would round these away."""
    points = 1000 + 1e-2 * clouds(1, 50, dtype=torch.float32)
    true = torch.cdist(points.double(), points.double())
    torch.testing.assert_close(distances(points, points).double(), true, atol=1e-6, rtol=1e-4)


def test_at_takes_rows_whatever_shape_the_numbers_have():
    points, index = clouds(), torch.randint(40, (3, 4, 5), generator=torch.Generator().manual_seed(0))
    found = at(points, index)
    assert found.shape == (3, 4, 5, 3)
    assert all(
        torch.equal(found[i, j, k], points[i, index[i, j, k]])
        for i in range(3)
        for j in (0, 3)
        for k in (0, 4)
    )


def test_groups_are_neighbours_seen_from_their_centre():
    points = torch.cat([clouds(), clouds(seed=2)[..., :2]], dim=2)  # two numbers besides the place
    centres, members, patches = group(points, 6, 7)
    for i in range(3):
        places = points[i, :, :3].numpy()
        for j, first in enumerate(naive_farthest(places, 6)):
            assert torch.equal(centres[i, j], points[i, first, :3])
            expected = naive_nearest(places[first], places, 7)
            assert members[i, j].tolist() == expected and expected[0] == first
            torch.testing.assert_close(patches[i, j, :, :3], points[i, expected, :3] - points[i, first, :3])
            assert torch.equal(patches[i, j, :, 3:], points[i, expected, 3:])


def test_interpolation_is_a_mean_weighted_by_inverse_squares():
    places, values, queries = clouds(points=9), clouds(points=9, seed=3), clouds(points=5, seed=4)
    found = interpolate(queries, places, values)
    for i in range(3):
        for j in range(5):
            near = naive_nearest(queries[i, j].numpy(), places[i].numpy(), 3)
            weights = [1 / (math.dist(queries[i, j], places[i, n]) ** 2 + 1e-8) for n in near]
            expected = sum(w * values[i, n] for w, n in zip(weights, near, strict=True)) / sum(weights)
            torch.testing.assert_close(found[i, j], expected)


def test_interpolation_has_gradients():
    places, queries = clouds(2, 6), clouds(2, 4, seed=4)
    values = clouds(2, 6, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: interpolate(queries, places, v), (values,))


def test_interpolation_passes_through_its_places_and_keeps_constants():
    places, values = clouds(points=9), clouds(points=9, seed=3)
    torch.testing.assert_close(interpolate(places, places, values), values, atol=1e-6, rtol=1e-6)
    constant = torch.full((3, 9, 2), 0.7, dtype=torch.float64)
    torch.testing.assert_close(
        interpolate(clouds(seed=5), places, constant), torch.full((3, 40, 2), 0.7).double()
    )


def naive_variation(patch: np.ndarray) -> float:
    """The scatter of k points about their mean, entry by entry; eigenvalues from numpy's general solver."""
    mean = [sum(p[a] for p in patch) / len(patch) for a in range(3)]
    scatter = [[sum((p[a] - mean[a]) * (p[b] - mean[b]) for p in patch) for b in range(3)] for a in range(3)]
    low, middle, high = sorted(np.linalg.eigvals(np.array(scatter)).real)
    return low / (low + middle + high)


def test_variation_is_the_smallest_share_of_the_scatter():
    patches = torch.randn(4, 6, 20, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    found = local_pca(patches).variation
    assert found.shape == (4, 6)
    for i in range(4):
        for j in range(6):
            assert found[i, j].item() == pytest.approx(naive_variation(patches[i, j].numpy()), rel=1e-9)


def test_normals_and_variation_of_known_surfaces():
    flat = clouds(1, 60)[0] * torch.tensor([1.0, 1.0, 0.0])
    turn = rotation("x", torch.tensor(0.7, dtype=torch.float64))
    normal, variation = local_pca(flat @ turn + 3)
    expected = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64) @ turn
    assert abs(float(normal @ expected)) == pytest.approx(1) and float(variation) == pytest.approx(
        0, abs=1e-12
    )
    corners = torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]).double()
    assert float(local_pca(corners).variation) == pytest.approx(1 / 3)
    assert float(local_pca(torch.ones(5, 3)).variation) == 0, "all in one place"


def test_variation_is_the_same_in_any_pose_and_the_normal_turns():
    patch = clouds(1, 30)[0] * torch.tensor([1.0, 0.8, 0.1])
    turn = rotation("y", torch.tensor(1.1, dtype=torch.float64)) @ rotation("z", torch.tensor(0.4).double())
    before, after = local_pca(patch), local_pca(2.5 * patch @ turn)
    torch.testing.assert_close(before.variation, after.variation)
    assert abs(float(before.normal @ turn @ after.normal)) == pytest.approx(1)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_rotations(axis):
    """Row vectors: right-handed quarter turns carry each axis to another, seen from the third's tip clockwise
    (the convention of Point-MAE's data, in which p @ R turns by -angle)."""
    turn = rotation(axis, torch.tensor([0.3, math.pi / 2], dtype=torch.float64))
    torch.testing.assert_close(turn @ turn.mT, torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    torch.testing.assert_close(torch.linalg.det(turn), torch.ones(2, dtype=torch.float64))
    fixed = "xyz".index(axis)
    following, last = (fixed + 1) % 3, (fixed + 2) % 3
    unit = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(unit[fixed] @ turn[1], unit[fixed])
    torch.testing.assert_close(unit[following] @ turn[1], -unit[last], atol=1e-12, rtol=0)


def test_about_y_as_in_point_maes_data():
    a = 0.6
    expected = [[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]]
    torch.testing.assert_close(rotation("y", torch.tensor(a).double()), torch.tensor(expected).double())


# ---- distances between clouds, and between normals


def naive_chamfer(a: np.ndarray, b: np.ndarray, power: int) -> tuple[float, float]:
    """Mean of the nearest distances (to a power) in each direction, over all clouds of the batch."""
    there = [min(math.dist(p, q) ** power for q in b[i]) for i in range(len(a)) for p in a[i]]
    back = [min(math.dist(p, q) ** power for p in a[i]) for i in range(len(a)) for q in b[i]]
    return sum(there) / len(there), sum(back) / len(back)


def test_chamfer_distances_are_those_of_loops():
    a, b = clouds(points=9), clouds(points=14, seed=1)
    there, back = naive_chamfer(a.numpy(), b.numpy(), 2)
    assert chamfer_l2(a, b).item() == pytest.approx(there + back)
    there, back = naive_chamfer(a.numpy(), b.numpy(), 1)
    assert chamfer_l1(a, b).item() == pytest.approx((there + back) / 2)


@pytest.mark.parametrize("chamfer", [chamfer_l1, chamfer_l2])
def test_chamfer_gradients(chamfer):
    a, b = clouds(2, 6).requires_grad_(), clouds(2, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(chamfer, (a, b))
    same = clouds(2, 6).requires_grad_()
    chamfer(same, same.detach()).backward()
    assert same.grad.isfinite().all(), "a root has no slope at 0"


def naive_normal_loss(predicted: np.ndarray, normals: np.ndarray, kind: str) -> float:
    terms, lengths = [], []
    for p, n in zip(predicted.reshape(-1, 3), normals.reshape(-1, 3), strict=True):
        length = math.sqrt(sum(x * x for x in p))
        cosine = sum(x * y for x, y in zip(p, n, strict=True)) / (length * math.sqrt(sum(y * y for y in n)))
        terms.append(1 - (abs(cosine) if kind == "abs_cosine" else cosine))
        lengths.append((length - 1) ** 2)
    return sum(terms) / len(terms) + 0.1 * sum(lengths) / len(lengths)


@pytest.mark.parametrize("kind", ["cosine", "abs_cosine"])
def test_normal_loss_is_cosine_and_length(kind):
    predicted, normals = clouds(), torch.nn.functional.normalize(clouds(seed=1), dim=-1)
    expected = naive_normal_loss(predicted.numpy(), normals.numpy(), kind)
    assert normal_loss(predicted, normals, kind).item() == pytest.approx(expected)


def test_normal_loss_as_squares_says_nothing_more_of_the_length():
    predicted, normals = clouds(), torch.nn.functional.normalize(clouds(seed=1), dim=-1)
    expected = ((predicted - normals) ** 2).numpy().mean()
    assert normal_loss(predicted, normals, "mse").item() == pytest.approx(expected)


def test_normals_of_unknown_sign_agree_with_the_prediction():
    predicted, normals = clouds(), torch.nn.functional.normalize(clouds(seed=1), dim=-1)
    assert torch.equal(agree(normals, predicted), agree(-normals, predicted))
    assert ((agree(normals, predicted) * predicted).sum(-1) >= 0).all()
    loss = normal_loss(predicted, agree(normals, predicted))
    torch.testing.assert_close(loss, normal_loss(predicted, normals, "abs_cosine"))
