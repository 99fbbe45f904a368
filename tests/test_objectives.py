"""Losses, memories and schedules against loops written from their formulas, in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretask.objectives import chunks
from pretask.objectives.contrastive import (
    bank_cross_entropy,
    bank_nce,
    bank_probability,
    info_nce,
    log_sum_exp,
    multi_positive,
    nt_xent,
    unit,
)
from pretask.objectives.distillation import (
    Centre,
    cosine,
    entropy,
    linear_warmup,
    sharpen,
    soft_cross_entropy,
    view_loss,
)
from pretask.objectives.gradients import clip_each
from pretask.objectives.memory import MemoryBank, Partition, Queue


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CACHED", 100)  # else every test matrix would fit into one


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def same_gradients(ours, naive, *inputs, tolerance=1e-12):
    torch.testing.assert_close(ours, naive, rtol=tolerance, atol=tolerance)
    mine = torch.autograd.grad(ours, inputs, retain_graph=True)
    for a, b in zip(mine, torch.autograd.grad(naive, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_nt_xent_is_the_sum_of_equation_1():
    a, b, temperature = rows(7, 5), rows(7, 5, seed=1), 0.3
    z = [v / v.norm() for v in torch.cat([a, b])]
    total = 0
    for i in range(14):
        partner = (i + 7) % 14
        others = sum(torch.exp(z[i] @ z[k] / temperature) for k in range(14) if k != i)
        total = total - torch.log(torch.exp(z[i] @ z[partner] / temperature) / others)
    same_gradients(nt_xent(a, b, temperature), total / 14, a, b)


def test_nt_xent_of_equal_rows_is_at_chance():
    a = torch.ones(6, 4)
    assert nt_xent(a, a, 0.5).item() == pytest.approx(math.log(11), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.001, 0.07, 10.0])
def test_nt_xent_stays_finite_in_single_and_half_precision(temperature):
    a, b = rows(9, 5).detach().float().requires_grad_(), rows(9, 5, seed=1).detach().float()
    loss = nt_xent(a, b, temperature)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite() and a.grad.isfinite().all()
    assert nt_xent(a.bfloat16(), b.bfloat16(), temperature).dtype == torch.float32


def test_the_gradient_can_be_asked_for_twice_and_scaled():
    a, b = rows(5, 3), rows(5, 3, seed=1)
    loss = nt_xent(a, b, 0.2)
    once = torch.autograd.grad(loss, a, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(3 * loss, a)[0], 3 * once)


def test_log_sum_exp_with_weights_skips_and_an_extra_logit():
    q, k, extra = rows(6, 4), rows(50, 4, seed=1), rows(6, seed=2)
    weight, skip = torch.rand(6, dtype=torch.float64), torch.randint(50, (6,))
    naive = 0
    for i in range(6):
        terms = [torch.exp(q[i] @ k[j]) for j in range(50) if j != skip[i]] + [torch.exp(extra[i])]
        naive = naive + weight[i] * torch.log(sum(terms))
    same_gradients(log_sum_exp(q, k, weight, skip, extra), naive, q, k, extra)


def test_info_nce_is_mocos_cross_entropy_and_teaches_only_the_query():
    query, key, queue = rows(6, 4), rows(6, 4, seed=1), F.normalize(rows(40, 4, seed=2), dim=1)
    q, k = F.normalize(query, dim=1), F.normalize(key, dim=1).detach()
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.detach().T], dim=1) / 0.07
    naive = F.cross_entropy(logits, torch.zeros(6, dtype=torch.long))
    loss = info_nce(query, key, queue, 0.07)
    same_gradients(loss, naive, query)
    loss.backward()
    assert key.grad is None


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_multi_positive_in_both_forms(where):
    x, group = rows(8, 4), torch.tensor([0, 1, 0, 2, 1, 0, 3, 2])  # 3 stands alone
    z, naive = F.normalize(x, dim=1), 0
    for i in range(8):
        p = {k: torch.exp(z[i] @ z[k] / 0.3) for k in range(8) if k != i}
        positives = [p[k] / sum(p.values()) for k in p if group[k] == group[i]]
        if where == "outside":
            term = -sum(map(torch.log, positives)) / max(len(positives), 1)
        else:
            term = -torch.log(sum(positives)) if positives else 0
        naive = naive + term / 8
    same_gradients(multi_positive(x, group, 0.3, where), naive, x)


def test_multi_positive_with_pairs_is_nt_xent():
    a, b = rows(6, 4), rows(6, 4, seed=1)
    group = torch.arange(6).repeat(2)
    for where in ("outside", "inside"):
        loss = multi_positive(torch.cat([a, b]), group, 0.2, where)
        torch.testing.assert_close(loss, nt_xent(a, b, 0.2))


def test_bank_nce_sums_over_negatives_and_means_over_the_batch():
    p, n = torch.rand(4, 6, dtype=torch.float64) / 30, 30
    noise, eps, naive = 5 / n, float(np.finfo(np.float32).eps), 0.0
    for row in p.tolist():
        naive -= math.log(row[0] / (row[0] + noise + eps))
        naive -= sum(math.log(noise / (x + noise + eps)) for x in row[1:])
    assert bank_nce(p, n).item() == pytest.approx(naive / 4, abs=1e-12)


def test_bank_probability_is_equation_5():
    s, naive = rows(4, 6), 0
    for row in s:
        h = torch.exp(row) / torch.exp(row).sum()
        naive = naive - torch.log(h[0]) - sum(torch.log(1 - x) for x in h[1:])
    same_gradients(bank_probability(s), naive / 4, s)
    assert bank_probability(torch.tensor([[0.0, 100.0]])).isfinite()


def test_bank_cross_entropy_asks_for_the_first_column():
    s = rows(4, 6)
    naive = sum(torch.log(torch.exp(row).sum()) - row[0] for row in s) / 4
    same_gradients(bank_cross_entropy(s), naive, s)


def test_a_bank_starts_on_the_sphere_and_alike_everywhere():
    bank = MemoryBank(200, 16)
    torch.testing.assert_close(bank.rows.norm(dim=1), torch.ones(200))
    assert bank.rows.mean().abs() < 0.02
    assert torch.equal(bank.rows, MemoryBank(200, 16).rows)
    assert not torch.equal(bank.rows, MemoryBank(200, 16, seed=1).rows)


def test_negatives_come_from_the_whole_bank_with_the_own_row_first():
    bank, index = MemoryBank(12, 4), torch.tensor([3, 7])
    places = bank.draw(index, 3000, torch.Generator().manual_seed(0))
    assert places[:, 0].tolist() == [3, 7]
    counts = places[:, 1:].flatten().bincount(minlength=12)
    assert len(counts) == 12 and (counts - 500).abs().max() < 100  # the own row and doubles are among them


@pytest.mark.parametrize("columns", [3, 30])
def test_scores_are_inner_products_and_leave_the_bank_alone(columns):
    bank, query = MemoryBank(100, 4), rows(5, 4)
    places = torch.randint(100, (5, columns))
    bank.double()
    naive = torch.stack([torch.stack([query[b] @ bank.rows[j] for j in places[b]]) for b in range(5)])
    same_gradients(bank.scores(query, places).sum(), naive.sum(), query)
    torch.testing.assert_close(bank.scores(query, places), naive)
    assert not bank.rows.requires_grad


def test_a_bank_row_moves_half_way_and_back_to_the_sphere():
    bank, new = MemoryBank(10, 4, momentum=0.5), F.normalize(rows(2, 4).float(), dim=1)
    before = bank.rows.clone()
    bank.update(torch.tensor([7, 2]), new)
    for place, vector in zip((7, 2), new, strict=True):
        moved = 0.5 * before[place] + 0.5 * vector
        torch.testing.assert_close(bank.rows[place], moved / moved.norm())
    others = [i for i in range(10) if i not in (7, 2)]
    assert torch.equal(bank.rows[others], before[others])


def test_z_is_set_once_from_all_scores_and_survives_a_checkpoint():
    first, second = torch.rand(4, 6), torch.rand(4, 6)
    partition = Partition(50)
    torch.testing.assert_close(partition(first), first / (50 * first.mean()))
    torch.testing.assert_close(partition(second), second / (50 * first.mean()))
    resumed = Partition(50)
    resumed.load_state_dict(partition.state_dict())
    torch.testing.assert_close(resumed(second), second / (50 * first.mean()))


def test_a_queue_keeps_the_newest_whatever_the_batch():
    queue, kept = Queue(7, 3), []
    for length in (3, 3, 3, 2, 20, 1):
        keys = F.normalize(rows(length, 3, seed=length).float(), dim=1).detach()
        queue.enqueue(keys)
        kept = (kept + list(keys))[-7:]
        newest = torch.roll(queue.rows, -int(queue.position), 0)[-len(kept) :]
        torch.testing.assert_close(newest, torch.stack(kept))


def test_soft_cross_entropy_is_its_sum():
    z, t, w = rows(9, 30), rows(9, 30, seed=1).softmax(1).detach(), torch.rand(9, dtype=torch.float64)
    logs = [torch.log_softmax(row / 0.1, 0) for row in z]
    naive = sum(-w[i] * sum(t[i, k] * logs[i][k] for k in range(30)) for i in range(9))
    same_gradients(soft_cross_entropy(z, t, w, 0.1), naive, z)


@pytest.mark.parametrize("num_views", [2, 5])
def test_view_loss_pairs_every_view_with_every_other_global(num_views):
    batch, classes = 4, 6
    student, teacher = rows(num_views * batch, classes), rows(2 * batch, classes, seed=1).softmax(1).detach()
    s, t = student.chunk(num_views), teacher.chunk(2)
    terms = [
        torch.sum(-t[q] * F.log_softmax(s[v] / 0.1, dim=-1), dim=-1).mean()
        for q in range(2)
        for v in range(num_views)
        if v != q
    ]
    assert len(terms) == 2 * num_views - 2
    same_gradients(view_loss(student, teacher, batch, 0.1), sum(terms) / len(terms), student)


def test_a_loss_uses_the_centre_of_the_steps_before():
    centre = Centre(5, momentum=0.9)
    logits = rows(8, 5).detach().float()
    before = sharpen(logits, centre.value, 0.04)
    centre.observe(logits[:4].mean(0))
    centre.observe(logits[4:].mean(0))
    assert torch.equal(sharpen(logits, centre.value, 0.04), before)
    centre.update()
    torch.testing.assert_close(centre.value, 0.1 * logits.mean(0))
    centre.update()  # nothing was seen in between
    torch.testing.assert_close(centre.value, 0.1 * logits.mean(0))
    torch.testing.assert_close(
        sharpen(logits, centre.value, 0.04), torch.softmax((logits - 0.1 * logits.mean(0)) / 0.04, -1)
    )
    assert not sharpen(logits.requires_grad_(), centre.value, 0.04).requires_grad


def reference_cosine(base, final, total, warmup):
    climb = np.linspace(0, base, warmup)
    i = np.arange(total - warmup)
    return np.concatenate([climb, final + 0.5 * (base - final) * (1 + np.cos(np.pi * i / len(i)))])


@pytest.mark.parametrize(("total", "warmup"), [(30, 0), (30, 10), (7, 1), (5, 2)])
def test_cosine_is_the_official_schedule(total, warmup):
    ours = [cosine(i, total, 0.996, 1.0, warmup) for i in range(total)]
    np.testing.assert_allclose(ours, reference_cosine(0.996, 1.0, total, warmup), atol=1e-12)


@pytest.mark.parametrize("epochs", [0, 1, 2, 30])
def test_linear_warmup_is_the_official_schedule(epochs):
    reference = np.concatenate([np.linspace(0.04, 0.07, epochs), np.ones(40 - epochs) * 0.07])
    ours = [linear_warmup(epoch, 0.04, 0.07, epochs) for epoch in range(40)]
    np.testing.assert_allclose(ours, reference, atol=1e-12)


def test_entropy_of_nothing_and_of_everything():
    assert entropy(torch.tensor([0.0, 1.0, 0.0])).item() == 0
    assert entropy(torch.ones(4) / 4).item() == pytest.approx(math.log(4))


def test_clip_each_clips_each():
    large, small, without = (torch.nn.Parameter(torch.zeros(4)) for _ in range(3))
    large.grad, small.grad = torch.full((4,), 5.0), torch.full((4,), 0.5)
    clip_each([large, small, without], 3.0)
    torch.testing.assert_close(large.grad, torch.full((4,), 5.0) * 3 / (10 + 1e-6))
    assert torch.equal(small.grad, torch.full((4,), 0.5)) and without.grad is None


def test_unit_makes_half_precision_single():
    assert unit(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.float32
    assert unit(torch.ones(2, 3, dtype=torch.float64)).dtype == torch.float64


def test_nothing_of_the_size_of_the_similarities_is_kept(monkeypatch):
    monkeypatch.setattr(chunks, "CACHED", 2**12)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.untyped_storage().nbytes() // out.element_size())
            return out

    a, b = torch.randn(512, 8, requires_grad=True), torch.randn(512, 8)
    with Watch():
        nt_xent(a, b, 0.5).backward()
    assert largest <= chunks.PRODUCT * 1024 < 1024 * 1024
