"""Hard negatives against loops; without any emphasis they are SimCLR's."""

import math

import pytest
import torch
import torch.nn.functional as F

from pretask.objectives.contrastive import nt_xent
from pretask.objectives.hard_negatives import hard_nt_xent

A, B = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_by_loops(beta):
    views, total = F.normalize(torch.cat([A, B]), dim=1), 0.0
    for i in range(10):
        partner = (i + 5) % 10
        s = {j: float(views[i] @ views[j]) / 0.3 for j in range(10) if j != i}
        negatives = [s[j] for j in s if j != partner]
        weights = [math.exp(beta * x) for x in negatives]
        mean = sum(weights) / len(weights)
        hard = sum(w / mean * math.exp(x) for w, x in zip(weights, negatives, strict=True))
        total -= math.log(math.exp(s[partner]) / (math.exp(s[partner]) + hard))
    assert hard_nt_xent(A, B, 0.3, beta).item() == pytest.approx(total / 10)


def test_without_emphasis_it_is_nt_xent():
    assert hard_nt_xent(A, B, 0.3, 0.0).item() == pytest.approx(nt_xent(A, B, 0.3).item())


def test_gradients_and_large_similarities():
    a, b = (x.clone().requires_grad_() for x in (A, B))
    assert torch.autograd.gradcheck(lambda x, y: hard_nt_xent(x, y, 0.3, 1.0), (a, b))
    loss = hard_nt_xent(a, b, 0.005, 2.0)
    loss.backward()
    assert loss.isfinite() and a.grad.isfinite().all()


def test_hard_ones_count_more():
    assert hard_nt_xent(A, B, 0.3, 1.0) > hard_nt_xent(A, B, 0.3, 0.1) > nt_xent(A, B, 0.3)
