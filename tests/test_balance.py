"""The min-norm point against its definition and against a search."""

import itertools

import pytest
import torch

from pretask.objectives.balance import balance, best_pair, line_solution, min_norm_weights, normalised_gram


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


@pytest.mark.parametrize("seed", range(4))
def test_frank_wolfe_step_by_step(seed):
    """The rounds written out with plain numbers; the point before a step that hardly moves is the answer."""
    _, gram = gram_of(5, 8, seed)
    g, n = gram.tolist(), 5
    found = best_pair(gram).tolist()
    for _ in range(250):
        along = [sum(g[i][j] * found[j] for j in range(n)) for i in range(n)]
        t = along.index(min(along))
        share, _ = line_solution(sum(a * b for a, b in zip(found, along, strict=True)), along[t], g[t][t])
        moved = [share * value + (1 - share) * (i == t) for i, value in enumerate(found)]
        if sum(abs(a - b) for a, b in zip(moved, found, strict=True)) < 1e-5:
            break
        found = moved
    assert min_norm_weights(gram).tolist() == pytest.approx(found, abs=1e-12)


def test_balance_lets_the_weighted_gradients_through():
    """On shared parameters and on those of one loss alone; the values stay the losses'."""
    torch.manual_seed(0)
    shared, head, unused = torch.nn.Linear(4, 3), torch.nn.Linear(3, 1), torch.nn.Linear(2, 2)
    x = torch.randn(6, 4)

    def terms():
        yield "size", shared(x).square().mean()
        yield "head", head(shared(x)).sin().mean()
        yield "sum", -shared(x).sum()

    others = [*head.parameters(), *unused.parameters()]
    losses, weights = balance(terms(), shared.parameters(), others)
    gradients = [torch.autograd.grad(value, list(shared.parameters())) for _, value in terms()]
    flat = torch.stack([torch.cat([g.flatten() for g in found]) for found in gradients])
    gram = normalised_gram(flat, torch.ones(3))
    assert list(weights.values()) == pytest.approx(min_norm_weights(gram).tolist(), abs=1e-6)
    plain = dict(terms())
    assert {name: float(v) for name, v in losses.items()} == {n: float(v) for n, v in plain.items()}
    torch.stack(list(losses.values())).sum().backward()
    found = [p.grad.clone() for p in (*shared.parameters(), *head.parameters())]
    assert unused.weight.grad is None
    for p in (*shared.parameters(), *head.parameters()):
        p.grad = None
    sum(weights[name] * value for name, value in plain.items()).backward()
    for gradient, p in zip(found, (*shared.parameters(), *head.parameters()), strict=True):
        torch.testing.assert_close(gradient, p.grad)
