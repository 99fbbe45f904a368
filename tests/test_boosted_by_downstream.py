"""Boosted by downstream data: what refining gains and costs, its null space, and the studies' table and plot."""

import json

import pytest
import torch

from pretask.cli import main
from pretask.errors import UsageError
from pretask.objectives.independence import conditional_covariance, refine_linear
from pretask.reports.sweeps import draw
from pretask.studies.study import cell, sweeps_of
from pretask.studies.theory import boosted, refinement
from pretask.studies.theory.check import Check, Sweep, averaged
from pretask.studies.theory.gaussians import ClassWorld
from pretask.studies.theory.worlds import DOUBLE, normal


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class TestPropositions:
    def test_both_worlds_show_the_same_of_the_classes_seen(self):
        one, other = (boosted.class_dependent(0, opposite) for opposite in (False, True))
        assert torch.equal(one.two[:-1], other.two[:-1]) and torch.equal(one.means_two, other.means_two)
        both = torch.cat([one.two[-1], other.two[-1]], 1)
        torch.testing.assert_close(both @ both.T, torch.eye(boosted.TWOS, dtype=DOUBLE))

    def test_no_refinement_is_below_the_bound(self):
        worlds = [boosted.class_dependent(0, opposite) for opposite in (False, True)]
        bound = boosted.least_violation(worlds[0], 8)
        for seed in range(50):
            f = torch.linalg.qr(normal(boosted.TWOS, 8, generator=seeded(seed))).Q.T
            assert max(float(world.violations(f)[-1]) for world in worlds) >= bound

    def test_checks_hold(self):
        checks = [*boosted.missing_class(), boosted.cancelling(), boosted.constant(), *boosted.null_space()]
        assert [check.case for check in checks if check.holds is not True] == []
        seen = [check.measured["largest on seen classes"] for check in checks[:5]]
        assert seen == sorted(seen, reverse=True), "on classes that are seen it falls with n0"

    @pytest.mark.parametrize("n0", [8, 20, 33])
    def test_the_null_space_is_exact(self, n0):
        world = ClassWorld.draw(seeded(), 1.5)
        seen = world.sample(n0, seeded(n0))
        classes = len(seen.y.unique())
        c = conditional_covariance(*seen)
        zeros = int((torch.linalg.svdvals(c) < 1e-10).sum())
        assert zeros == 30 - min(30, n0 - classes)
        refinement_ = refine_linear(*seen, zeros) if zeros else None
        if refinement_ is not None:
            assert float((c @ refinement_.T).norm()) < 1e-10 < world.violation(refinement_)

    def test_the_oracle_violates_nothing(self):
        world = ClassWorld.draw(seeded(), 1.5)
        f = refinement.least_dependent(world.covariance, 22)
        assert world.violation(f) < 1e-10
        sampled = world.sample(10_000, seeded(1))
        found = conditional_covariance(sampled.x1, sampled.x2 @ f.T, sampled.y)
        assert float(found.norm()) / world.violation(torch.eye(30, dtype=DOUBLE)) < 0.03


class TestGain:
    @pytest.fixture(scope="class")
    def runs(self):
        far, near = (refinement.Bench.of(0, b) for b in (1.5, 0.3))
        return {
            (name, n0): refinement.one_run(world, keep, n0, 40)
            for name, world, keep in (("far", far, 22), ("near", near, 8))
            for n0 in (8, 4096)
        }

    def test_far_from_independence(self, runs):
        assert runs["far", 8]["refined"] < runs["far", 8]["raw"] + 0.1
        assert runs["far", 4096]["refined"] > 0.8 > 0.4 > runs["far", 4096]["raw"]
        assert runs["far", 8]["violation, as seen"] < 1e-10 and runs["far", 8]["violation"] > 0.5

    def test_near_independence(self, runs):
        assert runs["near", 8]["refined"] < runs["near", 8]["raw"]
        assert runs["near", 4096]["refined"] > runs["near", 4096]["raw"] - 0.02

    def test_the_oracle_is_the_limit(self, runs):
        for found in runs.values():
            assert found["refined"] < found["oracle"] + 0.03

    def test_least_squares_with_intercept(self):
        x = normal(50, 3, generator=seeded())
        model = refinement.least_squares(x, x @ torch.ones(3, 2, dtype=DOUBLE) + 4)
        torch.testing.assert_close(model.weight, torch.ones(2, 3, dtype=DOUBLE))
        torch.testing.assert_close(model.bias, torch.full((2,), 4.0, dtype=DOUBLE))

    def test_crossing(self):
        found = {n: {"raw": 0.5, "refined": r} for n, r in ((8, 0.6), (16, 0.4), (32, 0.7), (64, 0.8))}
        assert boosted.crossing(found) == 32
        assert boosted.crossing({8: {"raw": 0.5, "refined": 0.4}}) is None

    def test_a_net_deceives_itself(self):
        world = ClassWorld.draw(seeded(), 1.5)
        seen, fresh = world.sample(16, seeded(1)), world.sample(2000, seeded(2))
        f = refinement.refine_mlp(seen, 4, 1.0, 0, steps=150)
        told = f(seen.x2)
        torch.testing.assert_close(told.var(0, correction=0), torch.ones(4, dtype=DOUBLE), atol=1e-4, rtol=0)
        shown = float(conditional_covariance(seen.x1, told, seen.y).norm())
        assert shown < 0.3 * float(conditional_covariance(fresh.x1, f(fresh.x2), fresh.y).norm())
        again = refinement.refine_mlp(seen, 4, 1.0, 0, steps=150)(seen.x2)
        assert torch.equal(told, again)


class TestTableAndPlot:
    sweeps = [
        Sweep(
            "a", "n", "error", (10, 100), {"measured": [0.1, 0.01], "bound": [0.5, 0.05]}, {"d": 20.0}, True
        ),
        Sweep("b", "n", "gain", (10, 100), {"gain": [-0.1, 0.2]}),
    ]
    rows = [Check("S", "case", "says", {"x": 0.123456, "n": 1234, "why": "so"}, True).row()]

    @pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
    def test_plot(self, tmp_path, suffix):
        path = draw(self.sweeps, tmp_path / "new" / f"plot.{suffix}")
        assert path.stat().st_size > 2000

    def test_command(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(boosted, "study", lambda: self.rows)
        monkeypatch.setattr(boosted, "sweeps", lambda: self.sweeps)
        with pytest.raises(SystemExit) as ended:
            main(["study", "boosted-by-downstream", "--plot", str(tmp_path / "x.svg"), "--json"])
        printed = capsys.readouterr()
        assert not ended.value.code, printed.err
        assert json.loads(printed.out)[0]["measured"]["x"] == 0.123456 and (tmp_path / "x.svg").is_file()

    def test_other_files_are_refused_before_anything_is_computed(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(boosted, "study", lambda: 1 / 0)
        with pytest.raises(SystemExit) as ended:
            main(["study", "boosted-by-downstream", "--plot", str(tmp_path / "x.txt")])
        assert ended.value.code == 2 and "must end in" in capsys.readouterr().err

    def test_a_study_without_curves(self):
        with pytest.raises(UsageError, match="no curves"):
            sweeps_of("power-of-foundation-models")

    def test_numbers_are_brief(self):
        assert cell(self.rows[0]["measured"]) == "x: 0.123, n: 1,234, why: so"

    def test_words_do_not_fail_a_study(self, monkeypatch, capsys):
        said = [Check("S", "c", "s", {"reason": "r"}, "skipped").row()]
        monkeypatch.setattr(boosted, "study", lambda: said)
        with pytest.raises(SystemExit) as ended:
            main(["study", "boosted-by-downstream"])
        assert not ended.value.code and "skipped" in capsys.readouterr().out

    def test_averaged(self):
        assert averaged([{"a": 1.0, "b": 4.0}, {"a": 3.0, "b": 0.0}]) == {"a": 2.0, "b": 2.0}
