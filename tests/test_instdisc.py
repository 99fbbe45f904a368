"""Instance discrimination against the paper's formulas written as loops, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.instdisc import InstDisc
from pretask.task import Step

B, N, K, D = 4, 30, 6, 16
INDEX = torch.tensor([3, 17, 0, 29])


def make(num_samples: int = N, **options) -> InstDisc:
    torch.manual_seed(0)
    encoder = build_encoder("vit_tiny_patch16_224:depth=1,embed_dim=24,num_heads=2", image_size=32, seed=0)
    task = InstDisc(encoder, **{"num_negatives": K, "projection_dim": D} | options)
    task.prepare([], num_samples)
    return task.double()


def batch():
    generator = torch.Generator().manual_seed(5)
    return {"image": torch.rand(B, 3, 40, 40, generator=generator, dtype=torch.float64), "index": INDEX}


def given(task, monkeypatch):
    """Vectors in place of what the network says."""
    raw = torch.randn(B, D, dtype=torch.float64, requires_grad=True)
    v = F.normalize(raw, dim=1)
    monkeypatch.setattr(task, "compared", lambda views: v)
    return raw, v


def same(ours, naive, raw):
    torch.testing.assert_close(ours, naive, rtol=1e-9, atol=1e-9)
    found = torch.autograd.grad(ours, raw, retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(naive, raw, retain_graph=True))


def test_softmax_is_over_the_whole_memory(monkeypatch):
    task = make(loss="softmax", temperature=0.2)
    raw, v = given(task, monkeypatch)
    naive = 0
    for b, i in enumerate(INDEX):
        h = [torch.exp(row @ v[b] / 0.2) for row in task.bank.rows]
        naive = naive - torch.log(h[i] / sum(h)) / B
    same(task(batch(), Step.at())["instance"], naive, raw)


def test_nce_is_equation_7_with_a_constant_of_the_first_batch(monkeypatch):
    task = make(loss="nce", temperature=0.3)
    raw, v = given(task, monkeypatch)
    drawn, draw = [], task.bank.draw
    monkeypatch.setattr(task.bank, "draw", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    partition = None
    for number in range(2):
        ours = task(batch(), Step.at(number))["instance"]
        kept = [[torch.exp(v[b] @ task.bank.rows[j] / 0.3) for j in drawn[number][b]] for b in range(B)]
        if partition is None:
            partition = N * sum(map(sum, kept)).item() / (B * (K + 1))
        naive = 0
        for b in range(B):
            assert drawn[number][b, 0] == INDEX[b]
            p, noise = [x / partition for x in kept[b]], K / N  # m P_n
            naive = naive - torch.log(p[0] / (p[0] + noise)) / B
            naive = naive - sum(torch.log(1 - x / (x + noise)) for x in p[1:]) / B
        torch.testing.assert_close(ours, naive, rtol=1e-5, atol=1e-5)  # the code adds an epsilon
    assert not torch.equal(*drawn)


def test_the_proximal_term_is_the_distance_from_the_row(monkeypatch):
    task = make(proximal_weight=30.0)
    raw, v = given(task, monkeypatch)
    losses = task(batch(), Step.at())
    naive = sum(((v[b] - task.bank.rows[i]) ** 2).sum() for b, i in enumerate(INDEX)) / B
    same(losses["proximal"], naive, raw)
    torch.testing.assert_close(task.total(losses), losses["instance"] + 30 * naive)


def test_rows_change_after_the_step(monkeypatch):
    task = make()
    _, v = given(task, monkeypatch)
    before = task.bank.rows.clone()
    task(batch(), Step.at())
    assert torch.equal(task.bank.rows, before)
    task.after_step(Step.at())
    moved = F.normalize(0.5 * before[INDEX] + 0.5 * v.detach(), dim=1)
    torch.testing.assert_close(task.bank.rows[INDEX], moved)
    others = [i for i in range(N) if i not in INDEX]
    assert torch.equal(task.bank.rows[others], before[others])


def test_what_is_left_open_follows_the_number_of_pictures():
    small, large, told = make(), make(100_000), make(loss="nce")
    assert (small.form, small.temperature) == ("softmax", 0.1)
    assert (large.form, large.temperature) == ("nce", 0.07)
    assert (told.form, told.temperature) == ("nce", 0.07)
    assert small.chance(4) == {"instance": math.log(N)}
    assert told.chance(4)["instance"] == pytest.approx(math.log(7) + 6 * math.log(7 / 6))


def test_it_wants_to_know_all_pictures():
    with pytest.raises(UsageError, match="known number"):
        make(0)
    task = make()
    del task.bank
    with pytest.raises(UsageError, match="prepare"):
        task(batch(), Step.at())
