"""Exemplar and its triplets against the loops of TensorFlow's definition."""

import colorsys
import itertools

import pytest
import torch

import tiny
from pretask.methods.image.exemplar import Exemplar, saturated
from pretask.objectives.triplets import semi_hard_triplets
from pretask.task import Step


def naive(z, group, margin):
    total, pairs = 0.0, 0
    for a in range(len(z)):
        apart = [float((z[a] - z[j]).square().sum()) for j in range(len(z))]
        negatives = [apart[j] for j in range(len(z)) if group[j] != group[a]]
        for p in range(len(z)):
            if p != a and group[p] == group[a]:
                farther = [d for d in negatives if d > apart[p]]
                negative = min(farther) if farther else max(negatives)
                total += max(0.0, apart[p] - negative + margin)
                pairs += 1
    return total / pairs


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
def test_negatives_are_semi_hard(scale):
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(4).repeat(3)
    z = torch.randn(4, 5, dtype=torch.float64, generator=generator).repeat(3, 1)
    z = z + scale * torch.randn(12, 5, dtype=torch.float64, generator=generator)
    assert semi_hard_triplets(z, group, 0.5).item() == pytest.approx(naive(z, group, 0.5))


def test_gradients_are_those_of_the_chosen_triplets():
    group = torch.arange(3).repeat(2)
    z = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: semi_hard_triplets(x, group, 0.5), (z,))


def test_all_copies_of_a_picture_are_grey_or_none():
    torch.manual_seed(0)
    task = Exemplar(tiny.encoder("grid"))
    batch = {"image": torch.rand(200, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    views = task.shown(batch, Step.at()).unflatten(0, (8, 200))
    grey = (views[:, :, 0] - views[:, :, 1]).abs().amax((2, 3)) < 1e-6
    assert torch.equal(grey.all(0), grey.any(0)) and 0.55 < grey[0].float().mean() < 0.77


@pytest.mark.parametrize(("normalise", "axis"), [("features", 1), ("batch", 0)])
def test_embeddings_are_normalised_along_the_axis_asked_for(normalise, axis):
    torch.manual_seed(0)
    task = Exemplar(tiny.encoder("grid"), normalise=normalise, embedding_dim=7)
    z = task.embedded(task.shown(tiny.images(4), Step.at()))
    assert torch.allclose(z.norm(dim=axis), torch.ones(z.shape[1 - axis]), atol=1e-5)


def test_saturation_is_that_of_hsv():
    image = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    image[0, :, 0, 0] = 0.3  # grey
    image[0, :, 0, 1] = 0.0
    factor = torch.tensor([0.5, 0.9, 1.0, 1.3, 1.5]).double()
    found = saturated(image, factor.view(-1, 1, 1, 1))
    for n, row, column in itertools.product(range(5), range(4), range(4)):
        h, s, v = colorsys.rgb_to_hsv(*image[n, :, row, column].tolist())
        expected = colorsys.hsv_to_rgb(h, min(1.0, s * float(factor[n])), v)
        assert found[n, :, row, column].tolist() == pytest.approx(expected, abs=1e-9)


def test_copies_change_in_brightness_and_then_saturation():
    """Inception's fast mode: up to 32/255 is added, the largest value stays, and neither contrast nor hue changes."""
    torch.manual_seed(0)
    task = Exemplar(tiny.encoder("grid"), grey=0.0)
    colour = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1).expand(40, 3, 32, 32)
    views = task.shown({"image": colour}, Step.at())
    assert views.std((2, 3)).max() < 1e-5
    red, green, blue = views.mean((2, 3)).unbind(1)
    assert torch.allclose(blue - green, green - red, atol=1e-5) and (blue > red).all(), "hues stay"
    assert 0.049 < (green - red).min() < 0.052 and 0.148 < (green - red).max() < 0.151
    light = blue - 0.6
    assert light.abs().max() < 32 / 255 + 1e-4 and light.min() < -0.12 and light.max() > 0.12
    assert light.view(8, 40).std(0).min() > 0.01, "of each copy another"
    assert abs(float(torch.corrcoef(torch.stack([light, green - red]))[0, 1])) < 0.2, (
        "by numbers of their own"
    )
