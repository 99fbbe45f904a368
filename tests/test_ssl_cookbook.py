"""The cookbook's losses against loops in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from pretask.objectives.contrastive import nt_xent
from pretask.objectives.cookbook import decoupled_contrastive, koleo, tico


def two(count: int = 5, dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(count, dim, generator=generator, dtype=torch.float64) for _ in range(2))
    return a.requires_grad_(), b.requires_grad_()


def unit(rows: torch.Tensor) -> list[list[float]]:
    return [[value / math.hypot(*row) for value in row] for row in rows.tolist()]


def dot(x: list[float], y: list[float]) -> float:
    return sum(p * q for p, q in zip(x, y, strict=True))


def test_the_partner_is_not_in_the_denominator():
    a, b = two()
    z, total = [*unit(a), *unit(b)], 0.0
    for i in range(10):
        partner = (i + 5) % 10
        others = sum(math.exp(dot(z[i], z[j]) / 0.3) for j in range(10) if j not in (i, partner))
        total += math.log(others) - dot(z[i], z[partner]) / 0.3
    found = decoupled_contrastive(a, b, 0.3)
    assert found.item() == pytest.approx(total / 10, rel=1e-9)
    assert found < nt_xent(a, b, 0.3)
    assert torch.autograd.gradcheck(lambda x, y: decoupled_contrastive(x, y, 0.3), (a, b))


def test_koleo_is_the_mean_log_distance_to_the_nearest():
    a, _ = two(7)
    z, total = unit(a), 0.0
    for i in range(7):
        total -= math.log(min(math.dist(z[i], z[j]) for j in range(7) if j != i)) / 7
    assert koleo(a).item() == pytest.approx(total, rel=1e-6)
    twice = torch.cat([a, a[:1]])
    assert koleo(twice).isfinite() and koleo(twice) > koleo(a)


def test_tico_remembers_the_covariance_and_sends_its_gradient_through_the_newest():
    a, b = two()
    x, y = unit(a), unit(b)
    before = [[0.3 if row == column else 0.1 for column in range(6)] for row in range(6)]
    now = [[0.9 * before[r][c] + 0.1 * sum(z[r] * z[c] for z in x) / 5 for c in range(6)] for r in range(6)]
    alike = sum(dot(p, q) for p, q in zip(x, y, strict=True)) / 5
    apart = sum(p[r] * now[r][c] * p[c] for p in x for r in range(6) for c in range(6)) / 5
    loss, covariance = tico(a, b, torch.tensor(before, dtype=torch.float64))
    assert loss.item() == pytest.approx(1 - alike + 20 * apart, rel=1e-9)
    torch.testing.assert_close(covariance, torch.tensor(now, dtype=torch.float64))
    assert not covariance.requires_grad
    assert torch.autograd.gradcheck(lambda p, q: tico(p, q, covariance)[0], (a, b))
    fixed = F.normalize(a, dim=1)  # with C held still the gradient would be another one
    still = (
        1 - (fixed * F.normalize(b, dim=1)).sum(1).mean() + 20 * (fixed @ covariance * fixed).sum(1).mean()
    )
    gradients = [torch.autograd.grad(value, a)[0] for value in (loss, still)]
    assert not torch.allclose(*gradients)
