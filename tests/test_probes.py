"""The probes beside scikit-learn and loops."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pretask.evaluation.knn import knn, retrieval
from pretask.evaluation.linear import Problem, Scale, fit_chosen, fit_logistic, linear
from pretask.evaluation.splits import stratified

CLASSES = 4


@pytest.fixture
def known():
    """Features of very different widths, some of them alike, and labels that they tell with doubt."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 12, generator=generator) * torch.logspace(-2, 2, 12)
    x[:, 3] = x[:, 4] * 2 + 0.01 * x[:, 3]
    told = Scale.of(x)(x) @ torch.randn(12, CLASSES, generator=generator)
    y = (told + 2 * torch.randn(300, CLASSES, generator=generator)).argmax(1)
    return x, y


class TestLinear:
    @pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
    def test_it_is_scikit_learns_minimum(self, known, penalty):
        x, y = known[0].double(), known[1]
        ours = fit_logistic(x, y, (penalty,), tol=1e-10, max_iter=2000)
        model = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=10_000)
        theirs = model.fit(Scale.of(x)(x).numpy(), y.numpy())
        torch.testing.assert_close(
            ours(x)[0].softmax(1),
            torch.from_numpy(theirs.predict_proba(Scale.of(x)(x).numpy())),
            atol=1e-4,
            rtol=0,
        )

    def test_many_penalties_are_as_many_fits(self, known):
        x, y = known[0].double(), known[1]
        together = fit_logistic(x, y, (1.0, 1e-2), tol=1e-10, max_iter=2000)
        for row, penalty in enumerate((1.0, 1e-2)):
            alone = fit_logistic(x, y, (penalty,), tol=1e-10, max_iter=2000)
            torch.testing.assert_close(together(x)[row], alone(x)[0], atol=1e-3, rtol=0)

    def test_a_start_changes_the_way_and_not_the_end(self, known):
        x, y = known[0].double(), known[1]
        problem = Problem.of(x, y, CLASSES)
        start = problem.solve((10.0,), max_iter=100)
        cold, warm = (
            problem.solve((1e-3,), one, max_iter=2000, tol=1e-12).squeeze(0) for one in (None, start)
        )
        torch.testing.assert_close(cold, warm, atol=1e-3, rtol=0)

    def test_a_classifier_says_the_same_in_another_problems_coordinates(self, known):
        x, y = known[0].double(), known[1]
        model = fit_logistic(x[:100], y[:100], (1e-2, 1.0), classes=CLASSES)
        problem = Problem.of(x, y, CLASSES)
        torch.testing.assert_close(problem.classifier(problem.weights(model))(x), model(x))

    def test_the_penalty_is_the_best_of_those_tried_one_by_one(self, known):
        x, y = known
        penalties = (1e-3, 10.0, 1.0, 1e-1, 1e-2)
        chosen = fit_chosen((x, y), penalties=penalties, seed=3)
        kept, held = stratified(y, 0.2, 3)
        right = {
            p: float((fit_logistic(x[kept], y[kept], (p,))(x[held])[0].argmax(1) == y[held]).double().mean())
            for p in penalties
        }
        assert chosen.penalty == max(sorted(penalties, reverse=True), key=right.__getitem__)
        assert chosen.validation == {f"{p:g}": right[p] for p in sorted(penalties, reverse=True)}
        alone = fit_logistic(x, y, (chosen.penalty,))
        torch.testing.assert_close(chosen.model(x)[0].softmax(1), alone(x)[0].softmax(1), atol=5e-3, rtol=0)

    def test_it_stops_where_weaker_penalties_only_fit_the_noise(self):
        generator = torch.Generator().manual_seed(1)
        x, y = torch.randn(200, 150, generator=generator), torch.arange(200) % 2
        x[:, 0] += 1.5 * (2 * y - 1)
        tried = list(fit_chosen((x, y), penalties=(1.0, 1e-1, 1e-4, 1e-5, 1e-6, 1e-7)).validation)
        assert tried == ["1", "0.1", "0.0001", "1e-05"]

    def test_the_score_is_that_of_items_that_chose_nothing(self, known):
        x, y = known
        (score,) = linear((x[:200], y[:200]), (x[200:], y[200:]))
        model = fit_logistic(x[:200], y[:200], (score.detail["penalty"],))
        right = (model(x[200:])[0].argmax(1) == y[200:]).double().mean()
        assert score.value == pytest.approx(float(right), abs=0.02)


def cosine(a, b):
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


class TestNeighbours:
    def test_every_neighbour_votes_by_its_cosine(self, known):
        x, y = known
        (score,) = knn((x[:200], y[:200]), (x[200:], y[200:]), ks=(3, 7), k=7, memory=4 * 200 * 9)
        for size in (3, 7):
            right = 0
            for query, truth in zip(x[200:].double().numpy(), y[200:].tolist(), strict=True):
                near = sorted(range(200), key=lambda row: -cosine(query, x[row].double().numpy()))[:size]
                votes = [0.0] * CLASSES
                for row in near:
                    votes[int(y[row])] += math.exp(cosine(query, x[row].double().numpy()) / 0.07)
                right += votes.index(max(votes)) == truth
            assert score.detail["by_k"][str(size)] == right / 100
        assert score.value == score.detail["by_k"]["7"]

    def test_retrieval_is_the_share_of_queries_with_a_hit(self, known):
        x, y = known
        found = {s.metric: s.value for s in retrieval((x[:200], y[:200]), (x[200:], y[200:]), ks=(1, 5))}
        for size in (1, 5):
            hits = 0
            for query, truth in zip(x[200:].double().numpy(), y[200:].tolist(), strict=True):
                near = sorted(range(200), key=lambda row: -cosine(query, x[row].double().numpy()))[:size]
                hits += any(int(y[row]) == truth for row in near)
            assert found[f"recall@{size}"] == hits / 100
