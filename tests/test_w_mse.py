"""W-MSE: whitening against numpy, parts of a batch against loops, and that it cannot collapse."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretask.encoders import build_encoder
from pretask.objectives.whitening import SHRUNK, w_mse, whiten
from pretask.registry import build_task
from pretask.task import Step
from tiny import encoder, images


def features(items: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return torch.randn(items, dim, generator=generator, dtype=torch.float64) @ mix + 3


def test_whitened_features_have_the_identity_as_covariance():
    z = whiten(features(40, 6))
    assert np.allclose(np.cov(z.numpy().T), np.eye(6), atol=1e-10) and np.allclose(z.mean(0), 0, atol=1e-10)


def test_against_numpy():
    for items, eps in ((40, 0.0), (40, 0.3), (5, None)):
        x = features(items, 6)
        share = SHRUNK if eps is None else eps
        cov = (1 - share) * np.cov(x.numpy().T) + share * np.eye(6)
        expected = (x.numpy() - x.numpy().mean(0)) @ np.linalg.inv(np.linalg.cholesky(cov)).T
        assert np.allclose(whiten(x, eps).numpy(), expected, atol=1e-8)


def test_parts_by_loops():
    a, b = features(24, 3), features(24, 3, seed=1)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    total = 0.0
    for start in range(0, 24, 8):
        rows = order[start : start + 8].tolist()
        z = [whiten(torch.stack([x[row] for row in rows])) for x in (a, b)]
        total += sum(2 - 2 * float(F.cosine_similarity(z[0][i], z[1][i], dim=0)) for i in range(8))
    assert w_mse(a, b, order, 8).item() == pytest.approx(total / 24)
    whole = w_mse(a, b, torch.arange(24), 24).item()
    assert w_mse(a, b, order, 100).item() == pytest.approx(whole)  # one part for all
    assert w_mse(a[:20], b[:20], torch.arange(20), 9).isfinite()  # two parts of ten


def test_scaling_a_direction_changes_nothing():
    a, b = features(30, 4), features(30, 4, seed=1)
    stretched = [x * torch.tensor([1.0, 10, 0.1, 3]).double() for x in (a, b)]
    order = torch.arange(30)
    assert w_mse(a, a, order, 30).item() == pytest.approx(0, abs=1e-9)
    assert w_mse(*stretched, order, 30).item() == pytest.approx(w_mse(a, b, order, 30).item())


def test_gradients():
    a, b = (features(12, 3, seed=seed).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda x, y: w_mse(x, y, torch.arange(12), 6), (a, b))


def test_the_task():
    """To batch normalisation each view is a batch of its own in the encoder, both are one in the projector."""
    task = build_task("w-mse", encoder("grid"), {"projection_dim": 3, "whitened": 4, "iterations": 2})
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in task.encoder.modules()) and task.training
    batch, step = images(8), Step.at(1)
    views = task.views(batch, step)
    orders = [torch.rand(8, generator=step.generator).argsort() for _ in range(2)]

    def loss(features):
        linear, norm, _, last = task.projector
        h = F.linear(features, linear.weight)
        h = (h - h.mean(0)) / (h.var(0, correction=0) + norm.eps).sqrt() * norm.weight + norm.bias
        first, second = F.linear(h.relu(), last.weight, last.bias).chunk(2)
        return sum(w_mse(first, second, order, 4).item() for order in orders) / 2

    apart = loss(torch.cat([task.encoder(views[:8]).pooled, task.encoder(views[8:]).pooled]))
    assert task.loss(batch, Step.at(1))["w_mse"].item() == pytest.approx(apart, rel=1e-3)
    assert loss(task.encoder(views).pooled) != pytest.approx(apart, rel=1e-2), "batches are told apart"


@pytest.mark.parametrize("side", [32, 224])
def test_views_are_bicubic_crops_that_are_never_blurred(side):
    view = build_task("w-mse", build_encoder("resnet10t", image_size=side, seed=0)).first
    assert (view.interpolation, view.blur, view.grey, view.scale) == ("bicubic", 0.0, 0.1, (0.2, 1.0))
