"""The min-norm point against its definition and against a search."""

import itertools

import pytest
import torch

from pretask.objectives.balance import best_pair, line_solution, min_norm_weights, normalised_gram


def gram_of(tasks, dim, seed):
    gradients = torch.randn(tasks, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return gradients, gradients @ gradients.T


@pytest.mark.parametrize("seed", range(5))
def test_line_solution_is_the_shortest_point(seed):
    gradients, gram = gram_of(2, 3, seed)
    share, cost = line_solution(*(float(v) for v in (gram[0, 0], gram[0, 1], gram[1, 1])))
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)
    norms = (grid[:, None] * gradients[0] + (1 - grid)[:, None] * gradients[1]).square().sum(1)
    assert abs(float(grid[norms.argmin()]) - share) < 2e-3
    assert abs(float(norms.min()) - cost) < 5e-3


def test_line_solution_never_gives_up_a_task():
    assert line_solution(1.0, 2.0, 5.0) == (0.999, 1.0)
    assert line_solution(5.0, 2.0, 1.0) == (0.001, 1.0)


def test_best_pair_is_the_best_of_all_pairs():
    gradients, gram = gram_of(4, 6, 0)
    weights = best_pair(gram)
    costs = {}
    for i, j in itertools.combinations(range(4), 2):
        costs[i, j] = line_solution(float(gram[i, i]), float(gram[i, j]), float(gram[j, j]))[1]
    assert set(weights.nonzero().flatten().tolist()) == set(min(costs, key=costs.get))


@pytest.mark.parametrize("seed", range(4))
def test_min_norm_point(seed):
    """d satisfies <d, g_t> >= |d|^2 for every task, which only the shortest point does."""
    gradients, gram = gram_of(5, 40, seed)
    weights = min_norm_weights(gram)
    assert abs(float(weights.sum()) - 1) < 1e-9 and bool((weights >= 0).all())
    direction = weights @ gradients
    assert bool((gradients @ direction >= direction.square().sum() - 2e-2 * gram.diagonal().max()).all())


def test_identical_tasks_and_single_task():
    assert min_norm_weights(torch.tensor([[4.0]])).tolist() == [1.0]
    weights = min_norm_weights(torch.ones(3, 3))
    assert abs(float(weights.sum()) - 1) < 1e-9


@pytest.mark.parametrize("normaliser", ["l2", "loss", "loss+", "none"])
def test_normalisers_against_loops(normaliser):
    gradients, _ = gram_of(3, 7, 1)
    losses = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    gram = normalised_gram(gradients, losses, normaliser)
    for i, j in itertools.product(range(3), repeat=2):
        parts = []
        for t in (i, j):
            norm = sum(float(v) ** 2 for v in gradients[t]) ** 0.5
            by = {"l2": norm, "loss": float(losses[t]), "loss+": float(losses[t]) * norm, "none": 1.0}[
                normaliser
            ]
            parts.append([float(v) / by for v in gradients[t]])
        assert abs(sum(a * b for a, b in zip(*parts, strict=True)) - float(gram[i, j])) < 1e-9
