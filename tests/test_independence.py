"""Conditional independence: the blocks against loops, the estimate against worlds whose truth is known."""

import json

import pytest
import torch
from torch import nn

from pretask.cli import main
from pretask.data import open_data
from pretask.errors import UsageError
from pretask.evaluation.independence import (
    Fold,
    KernelRidge,
    Pairs,
    answers,
    both,
    by_source,
    halves,
    independence,
    judge,
    small,
    smallest_mean,
    task_independence,
)
from pretask.objectives.independence import (
    class_means,
    conditional_covariance,
    least_dependent,
    refine_linear,
    refinement_loss,
    violations,
    within_class,
)
from pretask.pretexts.parts import PARTS, only, part_mask, without
from pretask.studies.theory.gaussians import ClassWorld
from pretask.studies.theory.worlds import DOUBLE, normal
from pretask.task import PretextTask, Question


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def items(count=20, classes=3):
    g = seeded()
    return normal(count, 4, generator=g), normal(count, 5, generator=g), torch.arange(count) % classes


class TestBlocks:
    def test_conditional_covariance_by_loops(self):
        x1, x2, y = items()
        expected = torch.zeros(4, 5, dtype=DOUBLE)
        for c in range(3):
            for row in (y == c).nonzero().flatten():
                one = x1[row] - x1[y == c].mean(0)
                expected += torch.outer(one, x2[row] - x2[y == c].mean(0)) / len(y)
        torch.testing.assert_close(conditional_covariance(x1, x2, y), expected)

    def test_violations_by_loops(self):
        x1, x2, y = items()
        for c, found in enumerate(violations(x1, x2, y)):
            one, two = (x[y == c] - x[y == c].mean(0) for x in (x1, x2))
            torch.testing.assert_close(found, (one.T @ two / int((y == c).sum())).norm())

    def test_missing_and_single_classes(self):
        x1, x2, _ = items(5)
        y = torch.tensor([0, 0, 2, 2, 3])  # no 1, a single 3
        assert not class_means(x1, y, 5)[[1, 4]].any()
        assert not within_class(x1, y)[4].any()
        assert violations(x1, x2, y)[1] == 0 and violations(x1, x2, y)[3] == 0

    def test_least_dependent_directions(self):
        c = normal(6, 5, generator=seeded())
        found = least_dependent(c, 2)
        torch.testing.assert_close(found @ found.T, torch.eye(2, dtype=DOUBLE))
        left = float((c @ found.T).norm())
        for seed in range(20):
            other = torch.linalg.qr(normal(5, 2, generator=seeded(seed))).Q
            assert left <= float((c @ other).norm()) + 1e-12
        for keep in (0, 6):
            with pytest.raises(UsageError, match="between 1 and all"):
                least_dependent(c, keep)

    def test_refinement_loss_by_hand(self):
        x1, x2, y = items()
        truth = torch.nn.functional.one_hot(y).double()
        about = sum(torch.outer(x2[i] - x2.mean(0), truth[i] - truth.mean(0)) for i in range(len(y))) / len(y)
        expected = conditional_covariance(x1, x2, y).square().sum() - 3 * about.square().sum()
        torch.testing.assert_close(refinement_loss(x1, x2, y, 3.0), expected)

    def test_a_constant_violates_nothing_and_is_no_minimum(self):
        x1, x2, y = items(200)
        assert refinement_loss(x1, torch.ones_like(x2), y) == 0
        refined = x2 @ refine_linear(x1, x2, y, 2).T
        assert refinement_loss(x1, refined, y, 1000.0) < 0


class TestParts:
    @pytest.mark.parametrize("part", PARTS)
    def test_a_picture_falls_into_two_parts(self, part):
        image = torch.rand(2, 3, 8, 12, generator=seeded()) + 0.1
        mask = part_mask(part, 8, 12)
        hidden, shown = only(image, mask), only(image, ~mask)
        assert hidden.shape[1] + shown.shape[1] == 3 * 8 * 12
        assert float(hidden.sum() + shown.sum()) == pytest.approx(float(image.sum()), rel=1e-5)
        assert float(without(image, mask).sum()) == pytest.approx(float(shown.sum()), rel=1e-5)

    def test_names(self):
        assert part_mask("left", 4, 4)[:, :2].all() and not part_mask("left", 4, 4)[:, 2:].any()
        assert torch.equal(part_mask("right", 4, 5), ~part_mask("left", 4, 5))
        assert part_mask("top", 4, 4)[:2].all() and part_mask("bottom", 4, 4)[2:].all()
        assert int(part_mask("centre", 8, 8).sum()) == 16 and part_mask("centre", 8, 8)[2:6, 2:6].all()
        with pytest.raises(UsageError, match="no part 'nose'"):
            part_mask("nose", 4, 4)
        with pytest.raises(UsageError, match="too small"):
            part_mask("left", 4, 1)


class TestKernelRidge:
    @pytest.mark.parametrize("kernel", ["rbf", "linear"])
    def test_leave_one_out_is_what_refitting_gives(self, kernel, monkeypatch):
        """The penalty chosen is the one that does best when every item is left out and all is fitted anew."""
        from pretask.evaluation import independence as module

        x, y = normal(24, 3, generator=seeded()), normal(24, 2, generator=seeded(1))
        y[:, 0] += 2 * x[:, 0] + 5
        model = KernelRidge.of(x, kernel)
        k, size = model.between(x), float(model.values.mean())
        errors = []
        for penalty in module.PENALTIES:
            # the mean is taken off before: leave-one-out of the linear smoother is exact for its hat matrix
            hat = k @ torch.linalg.inv(k + penalty * size * torch.eye(24, dtype=DOUBLE))
            ones = torch.full((24, 24), 1 / 24, dtype=DOUBLE)
            hat = ones + hat @ (torch.eye(24, dtype=DOUBLE) - ones)
            errors.append(float((((y - hat @ y) / (1 - hat.diagonal())[:, None]) ** 2).sum()))
        best = module.PENALTIES[errors.index(min(errors))]
        dual = torch.linalg.solve(k + best * size * torch.eye(24, dtype=DOUBLE), y - y.mean(0))
        z = normal(7, 3, generator=seeded(2))
        torch.testing.assert_close(model.fit(y)(z), model.between(z) @ dual + y.mean(0), rtol=1e-6, atol=1e-8)

    def test_more_dimensions_than_items_do_not_fool_it(self):
        """Where every item can be fitted exactly the penalty must not be the least: answers are noise here."""
        x, y = normal(30, 200, generator=seeded()), normal(30, 1, generator=seeded(1))
        answer = KernelRidge.of(x, "linear").fit(y)(normal(500, 200, generator=seeded(2)))
        assert float(answer.std()) < 0.5 * float(y.std())

    def test_it_learns(self):
        x = normal(300, 2, generator=seeded())
        y = torch.stack([x[:, 0] ** 2, x[:, 1]], 1)
        z = normal(100, 2, generator=seeded(1))
        truth = torch.stack([z[:, 0] ** 2, z[:, 1]], 1)
        curved, straight = (KernelRidge.of(x, kernel).fit(y)(z) for kernel in ("rbf", "linear"))
        assert float((curved - truth).square().mean()) < 0.1
        assert float((straight - truth)[:, 1].abs().max()) < 0.2
        assert float((straight - truth)[:, 0].square().mean()) > 1


def sampled(b, count=400, seed=0):
    world = ClassWorld.draw(seeded(seed), b, d1=12, d2=8, k=3, r=3, scale=1.0)
    x1, x2, y = world.sample(count, seeded(seed + 1))
    return world, Pairs(x1, x2, y, torch.arange(count))


def in_truth(world, pairs):
    """eps_CI^2 in units of X2's variance where the class is known from X1 almost surely: the share of X2 less its
    class's mean that X1 less its class's mean tells."""
    inside = world.one @ world.one.T + torch.eye(12, dtype=DOUBLE)
    told = (world.covariance * torch.linalg.solve(inside, world.covariance)).sum()
    return float(told / (pairs.x2 - pairs.x2.mean(0)).square().sum(1).mean())


class TestEstimate:
    @pytest.mark.parametrize("kernel", ["rbf", "linear"])
    @pytest.mark.parametrize("b", [0.0, 1.5])
    def test_known_worlds(self, b, kernel):
        world, pairs = sampled(b)
        found = independence(pairs.at(torch.arange(200)), pairs.at(torch.arange(200, 400)), kernel)
        truth = in_truth(world, pairs)
        assert found.dependence == pytest.approx(truth, abs=0.06)
        assert found.dependence <= truth + 0.03, "it is not biased upwards"
        assert found.explained > found.dependence
        assert found.beta > 3 * found.beta_chance
        if b == 0:
            assert found.low <= 0.005 and found.verdict.startswith("fits")

    def test_without_splitting_it_would_be_biased_upwards(self, monkeypatch):
        """Nothing is shared given the label, and the penalty is too small for so few items."""
        monkeypatch.setattr("pretask.evaluation.independence.PENALTIES", (1e-2,))
        naive, split = [], []
        for seed in range(10):
            _, pairs = sampled(0.0, 80, seed)
            fitted, held = pairs.at(torch.arange(40)), pairs.at(torch.arange(40, 80))
            model = KernelRidge.of(fitted.x1, "linear").fit(within_class(fitted.x2, fitted.y))
            naive.append(float(model(held.x1).square().sum(1).mean()))
            split.append(float(Fold.of(fitted, held, "linear").dependence.mean()))
        assert min(naive) > 0.1 and sum(split) < 0

    @pytest.mark.parametrize("intercept", [True, False])
    def test_beta_is_that_of_uncentred_means(self, intercept):
        _, pairs = sampled(0.0, 200)
        pairs = pairs._replace(x2=7 * pairs.x2 + 3)
        spread = (pairs.x2 - pairs.x2.mean(0)).square().sum(1).mean().sqrt()
        means = torch.stack([pairs.x2[pairs.y == c].mean(0) for c in range(3)]) / spread
        if intercept:  # beside it what a head's intercept reads
            means = torch.cat([means, torch.ones(3, 1, dtype=DOUBLE)], 1)
        halves = (pairs.at(torch.arange(start, start + 100)) for start in (0, 100))
        found = independence(*halves, intercept=intercept)
        assert found.beta == pytest.approx(float(torch.linalg.svdvals(means)[2]), rel=1e-9)
        share = (torch.bincount(pairs.y) / 200).square().sum()
        expected = max(0.0, found.dependence) / found.beta**2 / (1 - float(share))
        assert found.bound == pytest.approx(expected, rel=1e-5)

    def test_the_bound_holds_for_heads_with_intercept(self):
        """Centred means lack rank, and still a head with intercept reads the classes: beta is not 0."""
        x2 = torch.eye(3, dtype=DOUBLE)[:, :2] - 1 / 3
        assert smallest_mean(x2, torch.arange(3), 3) > 0.5
        assert smallest_mean(x2[:, :1], torch.arange(3), 3) == 0
        assert smallest_mean(x2, torch.arange(3), 3, intercept=False) == 0, "of two dimensions no third"

    def test_words(self):
        assert "nothing to judge" in judge(0.0, 0.0, 0.0, 1.0, 0.1, 0.0)
        assert "no promise" in judge(0.5, 0.1, 0.05, 0.1, 0.1, 10.0)
        assert judge(0.5, 0.0, -0.1, 1.0, 0.1, 0.0).startswith("fits: given the label")
        assert judge(0.5, 0.1, 0.05, 1.0, 0.1, 0.25).startswith("fits: the bound is 25%")
        assert judge(0.5, 0.1, 0.05, 0.5, 0.1, 2.0).startswith("in part: 20%")

    def test_what_never_varies_is_refused(self):
        _, pairs = sampled(0.0, 40)
        still = pairs._replace(x2=torch.ones(40, 2, dtype=DOUBLE))
        with pytest.raises(UsageError, match="never varies"):
            independence(still.at(torch.arange(20)), still.at(torch.arange(20, 40)))


class TestQuestions:
    def test_items_of_one_sample_count_once(self):
        source = torch.tensor([4, 4, 9, 9, 9])
        values = torch.tensor([1.0, 3.0, 0.0, 3.0, 6.0])
        assert torch.equal(by_source(values, source), torch.tensor([2.0, 3.0]))

    def test_halves_share_no_sample_and_every_class(self):
        source = torch.arange(50).repeat_interleave(3)
        pairs = Pairs(torch.rand(150, 2), torch.rand(150, 2), (source % 5), source)
        one, other = halves(pairs, 0)
        assert not set(one.source.tolist()) & set(other.source.tolist())
        assert len(one.y) == len(other.y) == 75 and set(one.y.tolist()) == set(other.y.tolist()) == set(
            range(5)
        )

    def test_tokens_become_counts(self):
        tokens = torch.tensor([[5, 5, 9, -1], [9, 2, -1, -1]])
        assert small(tokens).tolist() == [[0, 2, 1], [1, 0, 1]]

    def test_classes_become_one_hot(self):
        assert answers(torch.tensor([3, 7, 3])).tolist() == [[1, 0], [0, 1], [1, 0]]
        assert answers(torch.tensor([0.5, 1.0])).tolist() == [[0.5], [1.0]]

    def test_of_two_views_one_is_shown_and_one_hidden(self):
        shown = torch.arange(6.0)[:, None]
        x1, x2, source = both(Question(shown, torch.tensor([0, 1, 2, 0, 1, 2])))
        assert x1.flatten().tolist() == [0, 1, 2] and x2.flatten().tolist() == [3, 4, 5]
        assert source.tolist() == [0, 1, 2]
        x1, _, source = both(Question(shown, torch.tensor([0, 1, 1, 1, 2, 0])))
        assert source.tolist() == [0, 1], "one alone has no pair"

    def test_no_labels_no_question(self):
        data = open_data("digits", image_size=16)
        with pytest.raises(UsageError, match="states no question"):
            task_independence(PretextTask(nn.Identity()), data)


def test_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["independence", "mae", "rotation", "--data", "digits", "--read", "limit=120", "--json"])
    printed = capsys.readouterr()
    assert not ended.value.code, printed.err
    mae, rotation = json.loads(printed.out)
    assert (mae["pretext"], rotation["pretext"]) == ("mae", "rotation")
    assert 0 < mae["n"] <= 120 and mae["low"] <= mae["dependence"] <= mae["high"]
    assert "theory gives no promise" in rotation["verdict"] or "nothing to judge" in rotation["verdict"]


def test_data_without_labels_are_refused(capsys, tmp_path):
    from PIL import Image

    for number in range(30):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
    with pytest.raises(SystemExit) as ended:
        main(["independence", "mae", "--data", str(tmp_path)])
    assert ended.value.code == 2 and "no labels" in capsys.readouterr().err
