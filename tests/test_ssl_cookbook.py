"""The cookbook's losses against loops in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from pretask.objectives.contrastive import nt_xent
from pretask.objectives.cookbook import decoupled_contrastive, koleo, msn, ressl, spectral_contrastive, tico


def two(count: int = 5, dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(count, dim, generator=generator, dtype=torch.float64) for _ in range(2))
    return a.requires_grad_(), b.requires_grad_()


def unit(rows: torch.Tensor) -> list[list[float]]:
    return [[value / math.hypot(*row) for value in row] for row in rows.tolist()]


def dot(x: list[float], y: list[float]) -> float:
    return sum(p * q for p, q in zip(x, y, strict=True))


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(logit) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def test_spectral_contrast_is_of_features_as_they_are():
    a, b = two()
    x, y = a.tolist(), b.tolist()
    alike = sum(dot(x[i], y[i]) for i in range(5)) / 5
    strange = sum(dot(x[i], y[j]) ** 2 for i in range(5) for j in range(5) if i != j) / 20
    assert spectral_contrastive(a, b).item() == pytest.approx(strange - 2 * alike, rel=1e-9)
    assert torch.autograd.gradcheck(spectral_contrastive, (a, b))


def test_ressl_compares_likeness_to_a_queue():
    (a, b), (rows, _) = two(), two(7)
    q, k, bank, total = unit(a), unit(b), unit(rows), 0.0
    for query, key in zip(q, k, strict=True):
        target = softmax([dot(key, row) / 0.04 for row in bank])
        said = softmax([dot(query, row) / 0.1 for row in bank])
        total -= sum(t * math.log(s) for t, s in zip(target, said, strict=True)) / 5
    loss = ressl(a, b, F.normalize(rows, dim=1))
    assert loss.item() == pytest.approx(total, rel=1e-9)
    assert torch.autograd.grad(loss, [a, b, rows], allow_unused=True)[1:] == (None, None)


@pytest.mark.parametrize("rounds", [0, 3])
def test_msn_sharpens_its_targets_and_uses_all_prototypes(rounds: int):
    (anchors, _), (targets, prototypes) = two(10), two(5)
    prototypes = prototypes[:4].detach().requires_grad_()
    z, t, c = unit(anchors), unit(targets), unit(prototypes)
    said = [softmax([dot(row, one) / 0.1 for one in c]) for row in z]
    truth = []
    for row in t:
        sharp = [p**4 for p in softmax([dot(row, one) / 0.1 for one in c])]
        truth.append([p / sum(sharp) for p in sharp])
    for _ in range(rounds):
        sums = [sum(row[k] for row in truth) for k in range(4)]
        truth = [[row[k] / sums[k] for k in range(4)] for row in truth]
        truth = [[p / sum(row) for p in row] for row in truth]
    agree = -sum(truth[n % 5][k] * math.log(said[n][k]) for n in range(10) for k in range(4)) / 10
    answered = [sum(row[k] for row in said) / 10 for k in range(4)]
    even = math.log(4) + sum(p * math.log(p) for p in answered)
    loss = msn(anchors, targets, prototypes, rounds=rounds, weight=0.7)
    assert loss.item() == pytest.approx(agree + 0.7 * even, rel=1e-6)
    found = torch.autograd.grad(loss, [anchors, targets, prototypes], allow_unused=True)
    assert found[0].norm() > 0 and found[1] is None and found[2].norm() > 0


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
