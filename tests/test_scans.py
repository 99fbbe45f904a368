"""Samples of point clouds: scans of them, their turns, and the surface that is measured on them."""

import numpy as np
import pytest

from pretask.data.clouds import Cloud
from pretask.data.scans import Reading, surface
from pretask.data.solids import KINDS, solid


def test_a_sample_depends_on_its_number_alone():
    cloud = solid("torus", np.random.default_rng(0), 500)
    reading = Reading(64, scans=3, turn="y", noise=0.01)
    together = reading.columns(cloud, 5, [0, 1, 2])
    for scan in range(3):
        alone = reading.columns(cloud, 5, [scan])
        for key, column in alone.items():
            np.testing.assert_allclose(column[0], together[key][scan], rtol=1e-6, err_msg=key)
    assert not np.array_equal(together["points"], reading.columns(cloud, 6, [0, 1, 2])["points"])


def test_scans_have_other_points_while_they_last():
    places = np.random.default_rng(0).normal(size=(100, 3))
    found = Reading(30, scale="none", scans=4).columns(Cloud(places, np.empty((100, 0))), 0, [0, 1, 2, 3])
    rows = [set(map(tuple, scan)) for scan in found["points"]]
    assert len(rows[0] | rows[1] | rows[2]) == 90 and len(rows[3]) == 30
    few = Reading(250, scale="none").columns(Cloud(places, np.empty((100, 0))), 0, [0])["points"][0]
    assert len(set(map(tuple, few))) == 100, "all of a small cloud, then some again"


def test_the_unit_sphere_and_turns_carry_normals():
    cloud = solid("cone", np.random.default_rng(0), 500)
    plain, turned = (
        {k: v[0] for k, v in Reading(200, turn=turn).columns(cloud, 0, [0]).items()} for turn in ("none", "y")
    )
    np.testing.assert_allclose(plain["points"].mean(0), 0, atol=1e-6)
    assert np.linalg.norm(plain["points"], axis=1).max() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(plain["points"][:, 1], turned["points"][:, 1], atol=1e-6)
    dot = [(each["points"] * each["normals"]).sum(1) for each in (plain, turned)]
    np.testing.assert_allclose(*dot, atol=1e-6)
    assert not np.allclose(plain["normals"], turned["normals"])


def test_the_surface_is_measured_on_the_dense_cloud():
    """k nearest of all points, the point itself included, by the rule of proportion."""
    places = np.random.default_rng(0).normal(size=(9000, 3))
    normal, variation = surface(places, np.array([4, 17]))
    k = round(128 / 50_000 * 9000)
    for row, point in enumerate((4, 17)):
        near = places[np.argsort(((places - places[point]) ** 2).sum(1))[:k]]
        centred = near - near.mean(0)
        values, vectors = np.linalg.eigh(centred.T @ centred)
        assert variation[row] == pytest.approx(values[0] / values.sum())
        assert abs(normal[row] @ vectors[:, 0]) == pytest.approx(1)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_solids_are_sampled_on_their_surface_with_their_normals(kind):
    """The normals fitted to neighbours are the analytic ones, but at edges, and points are spread evenly."""
    cloud = solid(kind, np.random.default_rng(3), 6000)
    np.testing.assert_allclose(np.linalg.norm(cloud.normals, axis=1), 1, rtol=1e-9)
    fitted, variation = surface(cloud.places, np.arange(0, 6000, 3))
    smooth = variation < 0.005
    assert smooth.mean() > 0.4
    agreement = np.abs((fitted * cloud.normals[::3]).sum(1))[smooth]
    assert np.median(agreement) > 0.99
    outward = ((cloud.places - cloud.places.mean(0)) * cloud.normals).sum(1)
    assert outward.mean() > 0, "normals look outwards"


def test_areas_are_what_points_say():
    """Of a torus against Pappus, of a ball against Archimedes."""
    from pretask.data.solids import ellipsoid, torus

    part = torus(1.0, 0.4)
    points, _ = part.draw(20_000, np.random.default_rng(0))
    outer = np.hypot(points[:, 0], points[:, 2]) > 1
    assert outer.mean() == pytest.approx(0.5 + 0.4 / np.pi, abs=0.015)
    assert part.area == pytest.approx(4 * np.pi**2 * 0.4)
    ball = ellipsoid(0.7, 0.7, 0.7)
    points, _ = ball.draw(20_000, np.random.default_rng(0))
    assert np.histogram(points[:, 1], 4, (-0.7, 0.7))[0] / 20_000 == pytest.approx(
        0.25, abs=0.015
    )  # Archimedes
    assert ball.area == pytest.approx(4 * np.pi * 0.49)
