"""The cookbook's losses against loops in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretask.encoders.heads import mlp
from pretask.objectives.contrastive import nt_xent
from pretask.objectives.cookbook import (
    cmc,
    corinfomax,
    counting,
    decoupled_contrastive,
    emp_ssl,
    koleo,
    msn,
    power_law,
    ressl,
    spectral_contrastive,
    tico,
)
from pretask.objectives.cookbook_clusters import bag_of_words, concentrations, obow, prototype_nce, sela
from pretask.objectives.memory import MemoryBank, Partition


def two(count: int = 5, dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(count, dim, generator=generator, dtype=torch.float64) for _ in range(2))
    return a.requires_grad_(), b.requires_grad_()


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


def test_pmsn_asks_for_the_priors_shares():
    (anchors, _), (targets, prototypes) = two(10), two(5)
    shares = [k**-0.25 for k in range(1, 6)]
    prior = power_law(5)
    assert prior.tolist() == pytest.approx([share / sum(shares) for share in shares])
    z, c = unit(anchors), unit(prototypes)
    said = [softmax([dot(row, one) / 0.1 for one in c]) for row in z]
    answered = [sum(row[k] for row in said) / 10 for k in range(5)]
    apart = sum(p * math.log(p / q) for p, q in zip(answered, prior.tolist(), strict=True))
    without, with_prior = (msn(anchors, targets, prototypes, weight=w, prior=prior) for w in (0.0, 0.7))
    assert (with_prior - without).item() == pytest.approx(0.7 * apart, rel=1e-6)
    even = msn(anchors, targets, prototypes, prior=power_law(5, 0.0))
    torch.testing.assert_close(even, msn(anchors, targets, prototypes))


def test_cmc_looks_for_each_view_in_the_memory_of_the_other():
    a, b = two()
    banks = MemoryBank(9, 6, seed=1).double(), MemoryBank(9, 6, seed=2).double()
    places = torch.tensor([[n, (3 * n + 1) % 9, 8, 2] for n in range(5)])
    total, k = 0.0, 3 / 9
    for view, bank in ((a, banks[1]), (b, banks[0])):
        z, rows = unit(view), bank.rows.tolist()
        likely = [[math.exp(dot(z[n], rows[m]) / 0.07) for m in places[n].tolist()] for n in range(5)]
        constant = 9 * sum(sum(row) for row in likely) / 20
        for row in likely:
            p = [one / constant for one in row]
            total -= (math.log(p[0] / (p[0] + k)) + sum(math.log(k / (one + k)) for one in p[1:])) / 5
    loss = cmc((a, b), places, banks, (Partition(9).double(), Partition(9).double()))
    assert loss.item() == pytest.approx(total, rel=1e-5)
    swapped = cmc((b, a), places, banks[::-1], (Partition(9).double(), Partition(9).double()))
    torch.testing.assert_close(swapped, loss)
    assert all(gradient.norm() > 0 for gradient in torch.autograd.grad(loss, (a, b)))


def test_corinfomax_keeps_volume_by_statistics_that_go_on():
    a, b = two()
    means = torch.tensor([[0.2] * 6, [-0.1] * 6], dtype=torch.float64)
    before = torch.eye(6, dtype=torch.float64).repeat(2, 1, 1)
    expected, m, r = 0.0, [], []
    for view, old in ((a.tolist(), 0.2), (b.tolist(), -0.1)):
        m.append([0.01 * old + 0.99 * sum(row[d] for row in view) / 5 for d in range(6)])
        c = [[row[d] - m[-1][d] for d in range(6)] for row in view]
        r.append([
            [0.01 * (p == q) + 0.99 * sum(row[p] * row[q] for row in c) / 5 for q in range(6)] for p in range(6)
        ])  # fmt: skip
        expected -= math.log(np.linalg.det(np.array(r[-1]) + 1e-6 * np.eye(6))) / 6
    x, y = a.tolist(), b.tolist()
    expected += 500 * sum((x[n][d] - y[n][d]) ** 2 for n in range(5) for d in range(6)) / 30
    loss, now, spread = corinfomax(a, b, means, before)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(now, torch.tensor(m, dtype=torch.float64))
    torch.testing.assert_close(spread, torch.tensor(r, dtype=torch.float64))
    assert not now.requires_grad and not spread.requires_grad
    assert torch.autograd.gradcheck(lambda p, q: corinfomax(p, q, means, before)[0], (a, b))
    flat, _, _ = corinfomax(a[:, :1].expand(-1, 6), a[:, :1].expand(-1, 6), means, before)
    assert flat > corinfomax(a, a, means, before)[0]  # one direction has no volume


def test_emp_spreads_pictures_and_brings_their_patches_together():
    patches = torch.stack([*two(), *two(5)]).detach()[:3] + 0.5
    z, rate, alike = [unit(view) for view in patches], 0.0, 0.0
    middle = [[sum(view[n][d] for view in z) / 3 for d in range(6)] for n in range(5)]
    for view in z:
        gram = np.array(view).T @ np.array(view)
        rate += math.log(np.linalg.det(np.eye(6) + 6 / (5 * 0.2) * gram)) / 2 / 3
        alike += sum(dot(view[n], unit(torch.tensor([middle[n]]))[0]) for n in range(5)) / 15
    assert emp_ssl(patches).item() == pytest.approx(-rate - 200 * alike, rel=1e-6)
    assert torch.autograd.gradcheck(emp_ssl, (patches.requires_grad_(),))
    same = patches[:1].expand(4, -1, -1)
    assert emp_ssl(same) < emp_ssl(same, weight=100.0)


def test_parts_count_as_much_as_the_whole_and_less_like_another():
    whole, other = two()
    tiles = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    total = 0.0
    for c, parts, strange in zip(whole.tolist(), tiles.tolist(), other.tolist(), strict=True):
        s = [sum(part[d] for part in parts) for d in range(6)]
        total += (math.dist(c, s) ** 2 + max(0.0, 30 - math.dist(strange, s) ** 2)) / 5
    assert counting(whole, tiles, other, 30.0).item() == pytest.approx(total, rel=1e-9)
    nothing = torch.zeros_like(tiles)
    assert counting(nothing[:, 0], nothing, nothing[:, 0]) == 10
    assert counting(tiles.sum(1), tiles, tiles.sum(1) + 2) == 0


def test_sela_scales_rows_and_columns_of_p_to_the_25th():
    said = (numbers(12, 4) * 0.3).log_softmax(1)
    power, u, v = (25 * said).exp().tolist(), [1 / 12] * 12, [1.0] * 4
    for _ in range(2000):
        v = [1 / 4 / sum(u[n] * power[n][k] for n in range(12)) for k in range(4)]
        u = [1 / 12 / sum(v[k] * power[n][k] for k in range(4)) for n in range(12)]
    code = sela(said, tolerance=1e-12, rounds=20_000)
    expected = [[12 * u[n] * power[n][k] * v[k] for k in range(4)] for n in range(12)]
    torch.testing.assert_close(code, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(code.sum(0), torch.full((4,), 3.0, dtype=torch.float64))


def test_sela_with_few_items_is_the_best_assignment():
    said = numbers(5, 5, seed=2).log_softmax(1)
    best = max(itertools.permutations(range(5)), key=lambda p: sum(said[n, k] for n, k in enumerate(p)))
    assert sela(said, 100.0, 1e-6, 10_000).argmax(1).tolist() == list(best)


def test_sela_stops_when_rows_hardly_change_and_survives_a_label_nobody_wants():
    said = (numbers(40, 6) * 0.1).log_softmax(1)
    assert (sela(said).sum(0) - 40 / 6).abs().sum() < 0.1
    said = F.log_softmax(torch.cat([numbers(20, 3), torch.full((20, 1), -200.0)], dim=1).float(), dim=1)
    code = sela(said)
    assert code.isfinite().all() and code.sum(0).max() < 2 * 20 / 4
    assert said.argmax(1).max() < 3 and 3 in code.argmax(1)


def test_concentration_is_the_spread_of_a_cluster_by_its_size():
    v = F.normalize(numbers(30, 4), dim=1)
    own = torch.tensor([0] * 9 + [1] * 6 + [2] * 2 + [3] + [4] * 12)  # and none in 5
    c = torch.stack([v[own == k].mean(0) if (own == k).any() else v[0] for k in range(6)])
    wide = []
    for k in range(6):
        apart = [math.dist(x, c[k].tolist()) for x in v[own == k].tolist()]
        wide.append(sum(apart) / (len(apart) * math.log(len(apart) + 10)) if len(apart) > 1 else 0.0)
    wide = np.array([w or max(wide) for w in wide])
    wide = wide.clip(*np.percentile(wide, [10, 90]))
    found = concentrations(v, c, own, 0.2)
    assert found.tolist() == pytest.approx(0.2 * wide / wide.mean(), rel=1e-12)
    assert found[3] == found[5] == found.max() and found.mean().item() == pytest.approx(0.2)


def test_prototypes_are_compared_each_by_its_own_concentration():
    q, c = numbers(5, 6).requires_grad_(), numbers(8, 6, seed=1).requires_grad_()
    phi = torch.linspace(0.1, 0.4, 8, dtype=torch.float64)
    own, others = torch.tensor([0, 3, 3, 1, 0]), torch.tensor([7, 2, 5])
    z, p, total = unit(q), unit(c), 0.0
    for n in range(5):
        among = [int(own[n]), *others.tolist()]
        total -= math.log(softmax([dot(z[n], p[k]) / phi[k].item() for k in among])[0]) / 5
    loss = prototype_nce(q, own, c, phi, others)
    assert loss.item() == pytest.approx(total, rel=1e-9)
    assert torch.autograd.grad(loss, [q, c], allow_unused=True)[1] is None
    assert torch.autograd.gradcheck(lambda x: prototype_nce(x, own, c, phi, others), (q,))
    same = torch.ones_like(c)
    assert prototype_nce(q, own, same, phi * 0 + 0.2, others).item() == pytest.approx(math.log(4))


def bags(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return numbers(3, 4, 5, seed=seed), numbers(6, 5, seed=seed + 1)


def test_a_bag_holds_the_best_place_of_each_word():
    features, words = bags()
    apart = [[[math.dist(x, w) ** 2 for w in words.tolist()] for x in one] for one in features.tolist()]
    d = 0.99 * 0.5 + 0.01 * sum(min(place) for one in apart for place in one) / 12
    bag, distance = bag_of_words(features, words, torch.tensor(0.5))
    assert distance.item() == pytest.approx(d, rel=1e-6)
    for n, one in enumerate(apart):
        codes = [softmax([-15 * square / distance.item() for square in place]) for place in one]
        most = [max(code[k] for code in codes) for k in range(6)]
        assert bag[n].tolist() == pytest.approx([m / sum(most) for m in most], rel=1e-9, abs=1e-12)
    order = torch.tensor([2, 0, 3, 1])  # a bag has no order
    torch.testing.assert_close(bag_of_words(features[:, order], words, torch.tensor(0.5))[0], bag)
    hard, _ = bag_of_words(words[None, [4, 1, 4]], words, torch.tensor(0.5))
    torch.testing.assert_close(hard[0], torch.tensor([0, 0.5, 0, 0, 0.5, 0], dtype=torch.float64))


def test_obow_predicts_bags_by_weights_made_from_words():
    (features, words), student = bags(), numbers(6, 3, seed=5).requires_grad_()
    torch.manual_seed(0)
    generator = mlp(5, 6, 3, batch_norm=True).double()
    bag, _ = bag_of_words(features, words, torch.tensor(0.5))
    made = unit(generator(torch.tensor(unit(words), dtype=torch.float64)))
    total = 0.0
    for n, f in enumerate(student.tolist()):
        said = softmax([8 * dot(f, w) for w in made])
        total -= sum(t * math.log(s) for t, s in zip(bag[n % 3].tolist(), said, strict=True)) / 6
    words.requires_grad_()
    loss = obow(student, bag, words, generator)
    assert loss.item() == pytest.approx(total, rel=1e-9)
    first = generator[0].weight
    found = torch.autograd.grad(loss, [student, first, words], allow_unused=True)
    assert found[0].norm() > 0 and found[1].norm() > 0 and found[2] is None
    entropy = -torch.xlogy(bag, bag).sum(1).mean()
    assert loss > entropy  # what the best student would reach
