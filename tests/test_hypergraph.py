"""Hypergraphs, their Laplacian and labels spread by it: against loops from the formulas, and by properties."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pretask.errors import UsageError
from pretask.pretexts import propagation
from pretask.pretexts.homotopy import combination
from pretask.pretexts.hypergraph import (
    attention,
    clusters,
    degrees,
    incidence,
    leading,
    nearest,
    pair_weights,
    similarity,
)
from pretask.pretexts.propagation import (
    diffused,
    laplacian,
    p_eigenvectors,
    propagate,
    propagate_by_eigenvectors,
    soften,
    unevenness,
)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    rows = torch.from_numpy(data.data[:90])
    return rows / rows.norm(dim=1, keepdim=True), torch.from_numpy(data.target[:90])


@pytest.fixture(scope="module")
def graph(digits):
    return incidence(attention(digits[0], digits[0], own=torch.arange(90)))


@pytest.fixture(scope="module")
def given(digits):
    """Two labels a class."""
    labels = torch.zeros(90, 10, dtype=torch.float64)
    for label in range(10):
        rows = (digits[1] == label).nonzero()[:2, 0]
        labels[rows, label] = 1
    return labels


class TestHypergraph:
    def test_attention_is_the_largest_coefficients(self, digits):
        samples = digits[0][:40]
        coefficients = combination(samples, samples, 0.1, torch.arange(40)).abs().numpy()
        found = attention(samples, samples, 0.1, 4, torch.arange(40)).numpy()
        for i in range(40):
            kept = sorted(range(40), key=lambda j: -coefficients[i, j])[:4]
            for j in range(40):
                expected = coefficients[i, j] / coefficients[i].max() if j in kept else 0
                assert found[i, j] == pytest.approx(expected, abs=1e-9)
            assert found[i, i] == 0

    def test_chunks_change_nothing(self, digits, monkeypatch):
        samples = digits[0][:40]
        whole = attention(samples, samples, own=torch.arange(40))
        monkeypatch.setattr("pretask.pretexts.hypergraph.CHUNK", 7)
        torch.testing.assert_close(attention(samples, samples, own=torch.arange(40)), whole)

    def test_nearest(self, digits):
        samples = digits[0][:30].numpy()
        found = nearest(digits[0][:30], digits[0][:30], 3, torch.arange(30)).numpy()
        for i in range(30):
            distance = np.linalg.norm(samples - samples[i], axis=1)
            distance[i] = np.inf
            assert set(np.flatnonzero(found[i])) == set(np.argsort(distance)[:3])
        assert nearest(digits[0][:3], digits[0][:3], 10, torch.arange(3)).sum() == 6, "fewer than asked for"

    def test_every_sample_is_the_centre_of_a_hyperedge(self, graph):
        assert (graph.diagonal() == 1).all() and graph.min() == 0 and graph.max() <= 1
        assert ((graph > 0).sum(0) <= 11).all(), "ten and the centre"
        without = graph.clone().fill_diagonal_(0)
        assert torch.allclose(without.amax(0), torch.ones(90, dtype=torch.float64))

    def test_rows_are_vertices(self):
        """Sample 0 looks at 1: vertex 1 is in hyperedge 0, not the other way round."""
        weights = torch.tensor([[0.0, 0.5], [0.0, 0.0]])
        assert torch.equal(incidence(weights), torch.tensor([[1.0, 0.0], [0.5, 1.0]]))

    def test_against_loops(self, graph):
        h = graph.numpy()
        vertex, edge = h.sum(1), h.sum(0)
        for i, j in [(0, 0), (3, 5), (17, 2), (88, 89)]:
            pair = sum(h[i, e] * h[j, e] / edge[e] for e in range(90))
            assert float(pair_weights(graph)[i, j]) == pytest.approx(pair)
            assert float(similarity(graph)[i, j]) == pytest.approx(pair / np.sqrt(vertex[i] * vertex[j]))
        np.testing.assert_allclose(degrees(graph).numpy(), vertex)

    def test_the_laplacian_knows_the_roots_of_degrees(self, graph):
        root = degrees(graph).sqrt()
        assert (root - similarity(graph) @ root).abs().max() < 1e-12
        operator = laplacian(pair_weights(graph), degrees(graph))
        torch.testing.assert_close(operator, torch.eye(90, dtype=torch.float64) - similarity(graph))
        assert torch.linalg.eigvalsh(operator)[0] > -1e-12

    def test_two_islands_are_two_clusters(self):
        weights = torch.zeros(6, 6, dtype=torch.float64)
        for a, b in [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]:
            weights[a, b] = 1
        found = clusters(leading(incidence(weights), 2), 2)
        assert len(set(found[:3].tolist())) == len(set(found[3:].tolist())) == 1 and found[0] != found[3]
        with pytest.raises(UsageError, match="2 samples"):
            clusters(torch.ones(2, 3), 4)

    def test_clustering_leaves_global_seeds_alone(self, digits):
        np.random.seed(0)
        expected = clusters(digits[0], 5)
        assert np.random.rand() == np.random.RandomState(0).rand()
        assert torch.equal(clusters(digits[0], 5), expected)


class TestPropagation:
    def test_unevenness_against_loops(self, graph, given):
        labels = given[:, :3] + 0.1
        a, d, f = pair_weights(graph).numpy(), degrees(graph).numpy(), labels.numpy()
        for p in (1.3, 2.0):
            expected = 0.5 * sum(
                a[i, j] * abs(f[i, c] / d[i] ** 0.5 - f[j, c] / d[j] ** 0.5) ** p
                for i in range(90) for j in range(90) for c in range(3)
            )  # fmt: skip
            found = unevenness(labels, pair_weights(graph), degrees(graph), p, smooth=0)
            assert float(found) == pytest.approx(expected)
        rows = 0.5 * sum(
            a[i, j] * np.linalg.norm(f[i] / d[i] ** 0.5 - f[j] / d[j] ** 0.5) ** 1.3
            for i in range(90) for j in range(90)
        )  # fmt: skip
        shared = unevenness(labels, pair_weights(graph), degrees(graph), 1.3, shared=True, smooth=0)
        assert float(shared) == pytest.approx(rows)

    def test_for_p_2_it_is_a_quadratic_form(self, graph, given):
        operator = laplacian(pair_weights(graph), degrees(graph))
        found = unevenness(given, pair_weights(graph), degrees(graph), 2.0, smooth=0)
        assert float(found) == pytest.approx(float((given * (operator @ given)).sum()))

    def test_for_p_2_it_is_one_linear_system(self, graph, given):
        mu = 0.3
        system = torch.eye(90, dtype=torch.float64) * (1 + mu) - similarity(graph)
        closed = mu * torch.linalg.solve(system, given)
        assert (propagate(graph, given, 2.0, mu) - closed).abs().max() < 1e-8
        again = propagate(graph, given, 2 - 1e-12, mu, smooth=0.0 + 1e-8)  # the same by reweighting
        assert (again - closed).abs().max() < 1e-8

    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("p", [1.2, 1.6])
    def test_the_objective_never_rises(self, graph, given, p, shared):
        pairs, degree = pair_weights(graph), degrees(graph)

        def objective(labels):
            uneven = unevenness(labels, pairs, degree, p, shared)
            return float(uneven + 0.5 * (labels - given).square().sum())

        costs = [
            objective(propagate(graph, given, p, 0.5, shared, tolerance=0, most=most)) for most in range(12)
        ]
        assert all(later <= earlier + 1e-10 for earlier, later in zip(costs, costs[1:], strict=False))
        assert costs[-1] < 0.995 * costs[0]

    def test_its_end_has_no_gradient(self, graph, given):
        labels = propagate(graph, given, 1.6, 0.5, tolerance=1e-10, most=500).requires_grad_()
        uneven = unevenness(labels, pair_weights(graph), degrees(graph), 1.6)
        (uneven + 0.5 * (labels - given).square().sum()).backward()
        assert labels.grad.abs().max() < 1e-5

    def test_too_much_smoothing_is_p_2(self, graph, given):
        """A large epsilon makes all pairs weigh alike: p = 2 with another mu."""
        found = propagate(graph, given, 1.2, 0.5, smooth=1e4)
        scale = 0.6 * 1e4**-0.4
        expected = propagate(graph, given, 2.0, 0.5 / scale)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
        apart = propagate(graph, given, 1.2, 0.5)
        assert (apart - expected).abs().max() > 0.05

    def test_eigenvectors_put_together_are_the_same_for_p_2(self, graph, given):
        found = propagate_by_eigenvectors(graph, given, 2.0, 0.3)
        torch.testing.assert_close(found, propagate(graph, given, 2.0, 0.3), atol=1e-8, rtol=0)

    def test_eigenvectors_descend_and_stay_orthonormal(self, graph):
        pairs, degree = pair_weights(graph), degrees(graph)
        sums = []
        for steps in (0, 3, 10):
            u, value = p_eigenvectors(pairs, degree, 1.5, steps)
            torch.testing.assert_close(u.T @ u, torch.eye(90, dtype=torch.float64), atol=1e-9, rtol=0)
            sums.append(float(value.sum()))
            k = 40
            uneven = unevenness(u[:, k : k + 1], pairs, degree, 1.5, smooth=0)
            assert float(value[k]) == pytest.approx(float(uneven / u[:, k].abs().pow(1.5).sum()))
        assert sums[0] > sums[1] > sums[2]

    def test_eigenvectors_gradient(self, graph):
        """One step follows the projected gradient that differentiation gives."""
        pairs, degree = pair_weights(graph)[:20, :20], degrees(graph)[:20]
        u = torch.linalg.eigh(laplacian(pairs, degree)).eigenvectors.requires_grad_()
        scaled = u / degree.sqrt()[:, None]
        uneven = (0.5 * pairs[:, :, None] * (scaled[:, None] - scaled[None] + 1e-300).abs() ** 1.5).sum(
            (0, 1)
        )
        total = (uneven / u.abs().pow(1.5).sum(0)).sum()
        (gradient,) = torch.autograd.grad(total, u)
        u = u.detach()
        along = gradient - u @ (gradient.T @ u)
        moved = p_eigenvectors(pairs, degree, 1.5, 1)[0]
        first = moved - u
        cosine = -(first * along).sum() / first.norm() / along.norm()
        assert float(cosine) > 0.9

    def test_unreached_samples_stay_unknown(self):
        hypergraph = torch.eye(4, dtype=torch.float64)
        hypergraph[0, 1] = hypergraph[1, 0] = 0.5  # 2 and 3 look at nobody
        given = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
        known = given.any(1)
        soft = soften(propagate(hypergraph, given, 1.6, 0.5), given, known)
        assert soft[1, 0] == 1 and soft[2, 1] == 1 and not soft[3].any()

    def test_soften(self):
        labels = torch.tensor([[0.2, -0.1, 0.2], [0.3, 0.1, 0.0], [0.0, -0.2, 0.0]], dtype=torch.float64)
        given = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.float64)
        soft = soften(labels, given, torch.tensor([False, True, False]))
        expected = torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [0, 0, 0]], dtype=torch.float64)
        torch.testing.assert_close(soft, expected)

    def test_it_names_digits(self, graph, given, digits):
        """From 20 labels most of the other 70 are right."""
        soft = soften(propagate(graph, given, 1.6, 1.0), given, given.any(1))
        unknown = ~given.any(1)
        assert (soft.argmax(1) == digits[1])[unknown].double().mean() > 0.7
        assert soft[unknown].amax(1).mean() < 0.9, "soft, not hard"

    def test_one_system_by_cholesky(self, graph, given):
        operator = laplacian(pair_weights(graph), degrees(graph))
        direct = 0.2 * torch.linalg.inv(operator + 0.2 * torch.eye(90, dtype=torch.float64)) @ given
        torch.testing.assert_close(diffused(operator, given, 0.2), direct)
        assert propagation.SMOOTH < 1e-6
