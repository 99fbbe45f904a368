"""Predicting what you already know: worlds against their definitions, the statements, and that they can fail."""

from itertools import product

import pytest
import torch

from pretask.studies import bench
from pretask.studies.theory import curves, real, topics, what_you_know
from pretask.studies.theory.gaussians import ClassWorld, GaussianWorld
from pretask.studies.theory.worlds import (
    DOUBLE,
    DiscreteWorld,
    LatentWorld,
    balanced,
    dirichlet,
    left_over,
    normal,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def few_worlds(monkeypatch):
    monkeypatch.setattr(what_you_know, "WORLDS", 12)
    what_you_know.broken.cache_clear()
    yield
    what_you_know.broken.cache_clear()


class TestDiscreteWorld:
    world = DiscreteWorld.draw(seeded(), 0.2, ones=4, twos=3, classes=2, dim=2)

    def test_expectations_by_loops(self):
        k, ones, twos = self.world.joint.shape
        assert float(self.world.joint.sum()) == pytest.approx(1)
        for x1 in range(ones):
            p = [[float(self.world.joint[y, x1, x2]) for x2 in range(twos)] for y in range(k)]
            total = sum(map(sum, p))
            for y in range(k):
                assert float(self.world.target[x1, y]) == pytest.approx(sum(p[y]) / total)
            psi = sum(p[y][x2] * self.world.values[x2] for y, x2 in product(range(k), range(twos))) / total
            torch.testing.assert_close(self.world.psi[x1], psi)
        for y in range(k):
            mass = self.world.joint[y].sum()
            mean = sum(self.world.joint[y, :, x2].sum() * self.world.values[x2] for x2 in range(twos)) / mass
            torch.testing.assert_close(self.world.means[y], mean)

    def test_dependence_by_loops(self):
        total = 0.0
        for x1 in range(4):
            inner = sum(self.world.target[x1, y] * self.world.means[y] for y in range(2))
            total += float(self.world.p1[x1] * (self.world.psi[x1] - inner).square().sum())
        assert self.world.dependence == pytest.approx(total)

    def test_the_best_head_is_the_weighted_regression(self):
        features = normal(4, 2, generator=seeded(1))
        root = self.world.p1.sqrt()[:, None]
        head = torch.linalg.lstsq(root * features, root * self.world.target).solution
        expected = self.world.expected_square(self.world.target - features @ head)
        assert self.world.approximation(features) == pytest.approx(expected)
        twice = torch.cat([features, features], 1)  # rank deficient
        assert left_over(twice, self.world.target, self.world.p1) == pytest.approx(expected)

    def test_dependence_is_about_first_moments_alone(self):
        """X2's spread may hang on X1 as it will: only its mean counts."""
        values = torch.tensor([[-1.0], [1.0], [0.0]], dtype=DOUBLE)
        p2 = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=DOUBLE)  # by x1, both of mean 0
        world = DiscreteWorld((0.5 * p2)[None], values)
        assert world.dependence < 1e-30
        independent = world.p1[:, None] * world.p12.sum(0)
        assert not torch.allclose(world.p12, independent)

    def test_samples_follow_the_table(self):
        x1, x2, y = self.world.sample(200_000, seeded(3))
        counted = torch.zeros(2, 4, 3, dtype=DOUBLE)
        counted.index_put_((y, x1, x2), torch.tensor(1.0, dtype=DOUBLE), accumulate=True)
        torch.testing.assert_close(counted / 200_000, self.world.joint, atol=5e-3, rtol=0)

    def test_distributions(self):
        p = dirichlet(1000, 3, generator=seeded())
        torch.testing.assert_close(p.sum(1), torch.ones(1000, dtype=DOUBLE))
        torch.testing.assert_close(p.mean(0), torch.full((3,), 1 / 3, dtype=DOUBLE), atol=0.03, rtol=0)

    def test_latent_world(self):
        both = DiscreteWorld.draw(seeded(), classes=6, dim=7)
        world = LatentWorld(both, 3)
        torch.testing.assert_close(world.alone.p12, both.p12)
        torch.testing.assert_close(world.alone.joint[1], both.joint[2] + both.joint[3])
        merged = both.target.view(-1, 3, 2).sum(2)
        torch.testing.assert_close(world.alone.target, merged)
        assert LatentWorld(both, 6).beta == pytest.approx(both.beta), "no latent: the smallest singular value"


class TestStatements:
    def test_exact_statements_hold(self, few_worlds):
        checks = [
            *what_you_know.exact_independence(), *what_you_know.gaussians(), what_you_know.latent(),
            *what_you_know.approximate_independence(), *what_you_know.gaussian_bound(),
        ]  # fmt: skip
        assert [check.case for check in checks if check.holds is not True] == []

    def test_without_independence_there_is_an_error(self):
        world = what_you_know.random_world(0, 0.3)
        assert world.approximation(world.psi) > 1e-4 and world.dependence > 1e-4

    def test_beta_of_centred_means_would_not_do(self):
        """Centred, A has rank k - 1 at most and the bound no meaning."""
        world = what_you_know.random_world(0)
        centred = world.means - world.joint.sum((1, 2)) @ world.means
        assert float(torch.linalg.svdvals(centred)[-1]) < 1e-12 < world.beta

    def test_a_wrong_bound_is_noticed(self, few_worlds, monkeypatch):
        monkeypatch.setattr(DiscreteWorld, "beta", property(lambda self: 1e6))
        assert not all(check.holds for check in what_you_know.approximate_independence())

    def test_correlations(self, few_worlds, monkeypatch):
        monkeypatch.setattr(what_you_know, "alternations", lambda: [])
        assert all(check.holds for check in what_you_know.correlations())
        assert all(check.holds for check in alternations(3))

    def test_topics(self, monkeypatch):
        monkeypatch.setattr(topics, "WORLDS", 3)
        (check,) = topics.checks()
        assert check.holds and check.measured["against f*"] > 1e-6

    def test_bags_are_multinomial(self):
        counts = topics.bags(3, 2)
        assert counts.tolist() == [[2, 0, 0], [1, 1, 0], [1, 0, 1], [0, 2, 0], [0, 1, 1], [0, 0, 2]]
        p = torch.tensor([[0.5, 0.3, 0.2]], dtype=DOUBLE)
        expected = torch.tensor([[0.25, 0.3, 0.2, 0.09, 0.12, 0.04]], dtype=DOUBLE)
        torch.testing.assert_close(topics.multinomial(counts, p), expected)


alternations = what_you_know.alternations


class TestAce:
    def test_whitened_means_orthonormal(self):
        x = normal(9, 3, generator=seeded())
        torch.testing.assert_close(balanced(x, True).T @ balanced(x, True), torch.eye(3, dtype=DOUBLE))
        torch.testing.assert_close(balanced(x, False).norm(dim=0), torch.ones(3, dtype=DOUBLE))

    def test_the_first_function_is_constant(self):
        world = what_you_know.random_world(1, 0.1)
        functions, values = world.cca(3)
        assert float(values[0]) == pytest.approx(1) and float(functions[:, 0].std()) < 1e-9
        moments = functions.T @ (world.p1[:, None] * functions)
        torch.testing.assert_close(moments, torch.eye(3, dtype=DOUBLE))


class TestGaussianWorld:
    world = GaussianWorld.draw(seeded(), d1=5, d2=4, k=2, shared=2, r=0.7)

    def test_moments_are_those_of_samples(self):
        x1, x2, y = self.world.sample(400_000, seeded(1))
        torch.testing.assert_close(x1.T @ x1 / len(y), self.world.s11, atol=0.03, rtol=0)
        torch.testing.assert_close(x1.T @ x2 / len(y), self.world.s12, atol=0.03, rtol=0)
        torch.testing.assert_close(curves.fit(x1, x2), self.world.psi, atol=0.02, rtol=0)
        torch.testing.assert_close(curves.fit(x1, y), self.world.target, atol=0.02, rtol=0)
        noise = (y - x1 @ self.world.target.T).square().sum(1).mean()
        assert self.world.noise == pytest.approx(float(noise), rel=0.02)

    def test_dependence_is_the_definition(self):
        """E|E[X2 | X1] - E[E[X2 | Y] | X1]|^2, from the matrices of both."""
        inner = self.world.two @ self.world.target
        assert self.world.dependence == pytest.approx(self.world.square(self.world.psi - inner))

    def test_risk_of_the_best_head(self):
        features = normal(3, 5, generator=seeded(2))
        x1, _, _ = self.world.sample(100_000, seeded(3))
        wanted = x1 @ self.world.target.T
        head = curves.fit(x1 @ features.T, wanted)
        error = float((wanted - x1 @ features.T @ head.T).square().sum(1).mean())
        assert self.world.approximation(features) == pytest.approx(error, rel=0.03)

    def test_components_come_first(self):
        psi = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=DOUBLE))
        found = curves.truncated(psi, torch.eye(3, dtype=DOUBLE), 1)
        torch.testing.assert_close(found.abs(), torch.tensor([[3.0, 0.0, 0.0]], dtype=DOUBLE))

    def test_classes_and_their_covariances(self):
        world = ClassWorld.draw(seeded(), 1.0, d1=4, d2=6, k=3, r=2)
        x1, x2, y = world.sample(300_000, seeded(1))
        for c in range(3):
            one, two = x1[y == c], x2[y == c]
            torch.testing.assert_close(one.mean(0), world.means_one[c], atol=0.03, rtol=0)
            found = (one - one.mean(0)).T @ (two - two.mean(0)) / len(one)
            torch.testing.assert_close(found, world.covariances[c], atol=0.04, rtol=0)
        assert float((world.means_two @ world.two[0]).abs().max()) < 1e-12
        assert set(world.sample(50, seeded(), torch.tensor([0, 2])).y.tolist()) == {0, 2}


class TestCurves:
    def test_order_rate_and_bound(self):
        found = curves.learning_curves((100,), repeats=3, pretext=None)
        assert found["rank k, 100"] < 0.5 * found["supervised, 100"]
        assert found["rank k, 100"] == pytest.approx(curves.expected(found["noise"], 3, 100), rel=0.8)
        assert found["eps_pre^2"] == 0 and found["eps_CI^2"] < 1e-20
        log = -torch.tensor(curves.DELTA).log().item()
        assert curves.bound(found, 3, 100) == pytest.approx(found["noise"] * (3 + log) / 100, rel=1e-9)

    def test_a_latent_takes_the_first_components(self):
        found = curves.learning_curves((100,), repeats=2, pretext=None, shared=3, r=2.0)
        assert found["rank k, 100"] > found["all of psi, 100"]

    def test_pretext_error_falls_with_samples(self):
        world = GaussianWorld.draw(seeded(), d1=10, d2=5)
        few, many = (world.square(curves.fit_pretext(world, n, seeded(1)) - world.psi) for n in (100, 40_000))
        assert many < few / 50

    def test_slope(self):
        assert what_you_know.slope((1, 2, 4, 8), [8.0, 4.0, 2.0, 1.0]) == pytest.approx(-1)


class TestReal:
    def test_missing_data_are_said(self, monkeypatch, tmp_path):
        monkeypatch.setenv(bench.FOLDER, str(tmp_path))
        assert real.pictures.__wrapped__("fashion_mnist_900") is None
        monkeypatch.setattr(real, "pictures", lambda name: None)
        found = [*real.halves(), *real.splits(), *real.refined()]
        assert len(found) == 9 and {check.holds for check in found} == {"skipped"}
        assert all("is not among the data" in check.measured["reason"] for check in found)
        assert real.halves_sweeps() == []

    def test_digits(self, monkeypatch):
        monkeypatch.setattr(real, "KEPT", ())
        monkeypatch.setattr(real, "DRAWS", 1)
        monkeypatch.setattr(real, "LABELS", (50,))
        real.accuracies.cache_clear()
        found = real.accuracies("digits", labels=(50,))[50]
        assert found["linear on psi"] > 0.4 and set(found) == {
            "linear on psi", "linear on pixels", "kernel on pixels",
        }  # fmt: skip
        real.accuracies.cache_clear()

    def test_colour_is_hidden(self):
        data = real.Pictures(
            *(
                part
                for _ in range(2)
                for part in (torch.rand(4, 3, 16, 16, generator=seeded()).double(), torch.arange(4))
            )
        )
        part = real.split(data, "colour")
        assert part.x1.shape == (4, 256) and part.x2.shape == (4, 512) and part.test.shape == (4, 256)
        part = real.split(data, "right")
        assert part.x1.shape == (4, 384) and torch.equal(part.x1[0, :8], data.train[0, 0, 0, :8])
