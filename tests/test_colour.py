"""Lab against scikit-image; quantisation, prior and weights against loops written from the formulas."""

import math

import numpy as np
import pytest
import torch

from pretask.pretexts import colour


def pictures(*shape, low=0.0, high=1.0, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)


def channels_last(image):
    return image.permute(0, 2, 3, 1).double().numpy()


def in_every_corner():
    """Random colours, and the corners of the RGB cube with their dark neighbours, where Lab is steepest."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1 / 255, 10 / 255, 11 / 255, 1.0])] * 3)
    return torch.cat([pictures(1, 3, 40, 5)[0], corners.T.reshape(3, -1, 5)], dim=1)[None]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_lab_is_scikit_images(dtype, tolerance):
    reference = pytest.importorskip("skimage.color")
    rgb = in_every_corner().to(dtype)
    expected = reference.rgb2lab(channels_last(rgb))
    np.testing.assert_allclose(channels_last(colour.rgb_to_lab(rgb)), expected, atol=tolerance)


@pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")
def test_rgb_is_scikit_images_also_outside_of_srgb():
    reference = pytest.importorskip("skimage.color")
    lab = pictures(2, 3, 20, 20, dtype=torch.float64) * torch.tensor([100, 220, 220]).view(3, 1, 1)
    lab[:, 1:] -= 110
    np.testing.assert_allclose(
        channels_last(colour.lab_to_rgb(lab)), reference.lab2rgb(channels_last(lab)), atol=1e-9
    )


def test_there_and_back():
    rgb = in_every_corner()
    torch.testing.assert_close(colour.lab_to_rgb(colour.rgb_to_lab(rgb)), rgb, atol=2e-4, rtol=0)


def test_gradients_are_finite_even_in_black_and_white():
    rgb = in_every_corner().requires_grad_()
    colour.lab_to_rgb(colour.rgb_to_lab(rgb)).sum().backward()
    assert rgb.grad.isfinite().all()


def test_lab_survives_autocast():
    rgb = pictures(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(colour.rgb_to_lab(rgb), colour.rgb_to_lab(rgb.clone()))
        lab = colour.rgb_to_lab(rgb)
    torch.testing.assert_close(lab, colour.rgb_to_lab(rgb))


def test_palette_is_what_all_eight_bit_colours_hit():
    """All 16.7 million colours, not only the surface of the cube that the palette is made from."""
    levels = torch.arange(256) / 255
    green, blue = torch.meshgrid(levels, levels, indexing="ij")
    hit = torch.zeros(40, 40, dtype=torch.bool)
    for red in levels:
        ab = colour.rgb_to_lab(torch.stack([torch.full_like(green, red), green, blue])[None])[0, 1:]
        a, b = (ab / 10).round().long() + 20
        hit[a, b] = True
    a, b = hit.nonzero(as_tuple=True)
    expected = (torch.stack([a, b], dim=1) - 20).float() * 10
    assert len(expected) == 261
    assert torch.equal(colour.palette(), expected)


def naive_encode(points, centres, neighbours, sigma):
    """Dense (points, colours) mixtures, one point at a time in float64."""
    mixture = np.zeros((len(points), len(centres)))
    for row, point in enumerate(points):
        distances = [math.dist(point, centre) for centre in centres]
        nearest = sorted(range(len(centres)), key=lambda q: distances[q])[:neighbours]
        weights = [math.exp(-(distances[q] ** 2) / (2 * sigma**2)) for q in nearest]
        for q, weight in zip(nearest, weights, strict=True):
            mixture[row, q] = weight / sum(weights)
    return mixture


def dense(weight, which, colours):
    batch, _, height, width = weight.shape
    return torch.zeros(batch, colours, height, width).scatter_add_(1, which, weight)


@pytest.mark.parametrize(("neighbours", "sigma"), [(10, 5.0), (5, 5.0), (1, 2.0)])
def test_soft_encoding(neighbours, sigma, monkeypatch):
    monkeypatch.setattr(colour, "CHUNK", 7)  # so that pieces are joined in the right order
    ab, centres = pictures(2, 2, 3, 5, low=-90, high=90), colour.palette()
    weight, which = colour.soft_encode(ab, centres, neighbours, sigma)
    points = ab.permute(0, 2, 3, 1).reshape(-1, 2).tolist()
    expected = naive_encode(points, centres.tolist(), neighbours, sigma)
    found = dense(weight, which, len(centres)).permute(0, 2, 3, 1).reshape(30, -1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    exact = colour.soft_encode(ab.double(), centres.double(), neighbours, sigma)
    assert torch.equal(exact[1], which) and (exact[0] - weight).abs().max() < 1e-4
    sums = np.sort(expected, axis=1)[:, ::-1][:, :neighbours]
    np.testing.assert_allclose(exact[0].permute(0, 2, 3, 1).reshape(30, -1), sums, atol=1e-12)
    assert weight.shape == which.shape == (2, neighbours, 3, 5)
    assert (weight[:, 0] >= weight[:, -1]).all(), "the nearest colour comes first"


def test_annealed_mean_lies_between_mean_and_mode():
    centres, logits = colour.palette(), pictures(2, 261, 3, 4, low=-3, high=3)
    for temperature in (1.0, 0.38):
        expected = np.zeros((2, 2, 3, 4))
        for b, y, x in np.ndindex(2, 3, 4):
            power = [math.exp(z / temperature) for z in logits[b, :, y, x].tolist()]
            for c in range(2):
                products = zip(power, centres[:, c].tolist(), strict=True)
                expected[b, c, y, x] = sum(p * v for p, v in products) / sum(power)
        np.testing.assert_allclose(colour.annealed_mean(logits, centres, temperature), expected, atol=1e-3)
        exact = colour.annealed_mean(logits.double(), centres.double(), temperature)
        np.testing.assert_allclose(exact, expected, atol=1e-10)
    mode = centres[logits.argmax(1)].permute(0, 3, 1, 2)
    torch.testing.assert_close(colour.annealed_mean(logits, centres, 1e-7), mode, atol=0.1, rtol=0)


def test_what_is_encoded_decodes_to_itself():
    """An encoding read as an answer (T = 1) gives the colour back, to the blur of its neighbours."""
    ab = pictures(1, 2, 4, 4, low=-30, high=30)
    weight, which = colour.soft_encode(ab, colour.palette())
    back = colour.annealed_mean(dense(weight, which, 261).log(), colour.palette(), 1.0)
    assert (back - ab).abs().max() < 1.5


def naive_weights(prior, gamma, alpha):
    present = [p != 0 for p in prior]
    mixed = [(1 - gamma) * p + gamma * (1 / sum(present)) for p in prior]
    weights = [m**-alpha if here else 0.0 for m, here in zip(mixed, present, strict=True)]
    norm = sum(p * w for p, w in zip(prior, weights, strict=True))
    return [w / norm for w in weights]


@pytest.mark.parametrize(("gamma", "alpha"), [(0.5, 1.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5)])
def test_rebalancing(gamma, alpha):
    prior = torch.tensor([0.6, 0.25, 0.0, 0.1, 0.05, 0.0], dtype=torch.float64)
    weight = colour.rebalance(prior, gamma, alpha)
    np.testing.assert_allclose(weight, naive_weights(prior.tolist(), gamma, alpha), rtol=1e-12)
    assert (prior * weight).sum() == pytest.approx(1)
    assert (weight[prior == 0] == 0).all() and weight.isfinite().all()
    if gamma == 1.0:
        torch.testing.assert_close(weight[prior > 0], torch.ones(4, dtype=torch.float64))


def test_smoothing_keeps_the_mass_and_reaches_only_neighbours():
    centres = colour.palette()
    prior = torch.zeros(261, dtype=torch.float64)
    grey = int((centres == 0).all(1).nonzero())
    prior[grey] = 1
    smoothed = colour.smooth(prior, centres, 10, 5.0)
    assert smoothed.sum() == pytest.approx(1)
    expected = naive_encode([(0.0, 0.0)], centres.tolist(), 10, 5.0)[0]
    # of four colours at distance 20 any one may be the tenth neighbour: compare what each distance gets
    far = centres.norm(dim=1).round().long()
    for distance in (0, 10, 14, 20):
        assert smoothed[far == distance].sum() == pytest.approx(expected[far == distance].sum(), abs=1e-6)
    assert (smoothed > 0).sum() == 10


def test_grey_is_told_per_picture_and_strictly():
    ab = torch.zeros(4, 2, 3, 3)
    ab[1, 0, 2, 2], ab[2, 1, 0, 0], ab[3, 1, 1, 1] = 5.0, 5.01, -7.0
    assert colour.is_coloured(ab).tolist() == [False, False, True, True]
