"""Claims: intervals that cover, verdicts by their rule, resuming, staleness; every declared claim runs."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pretask.errors import PretaskError, UsageError
from pretask.studies import evidence, experiment, sources
from pretask.studies.bench import Bench, Trial, find_data
from pretask.studies.claim import Arm, Claim, Comparison, Trained, find_claim, list_claims
from pretask.studies.effect import Effect, effect, judge, overall
from pretask.studies.experiment import run_claim
from pretask.task import PretextTask


class Fake(PretextTask):
    """A task that is measured, never trained; `skill` is the share of items it gets right."""

    def __init__(self, encoder: nn.Module, skill: float):
        super().__init__(encoder)
        self.skill = skill


CALLS: list[float] = []


def right(trained: Trained, bench: Bench) -> dict[str, torch.Tensor | float]:
    CALLS.append(trained.task.skill)
    items = torch.arange(len(bench.test)) < trained.task.skill * len(bench.test)
    weight = float(next(trained.encoder.parameters()).double().sum())
    return {"right": items, "weight": weight, "constant": 2.0}


def fake(skill: float) -> Arm:
    return Arm(lambda encoder: Fake(encoder, skill), steps=0)


def fake_claim(**changes) -> Claim:
    settings = {
        "statement": "Skill is better than none.",
        "arms": {"skilled": fake(0.9), "unskilled": fake(0.2)},
        "comparisons": (Comparison("right", "skilled", "unskilled"),),
        "metrics": (right,),
        "data": "digits",
        "encoder": "resnet10t:stem_width=8,channels=[8,8,8,8]",
        "train": 100,
        "labelled": 50,
        "test": 40,
        "seeds": 2,
    }
    return Claim(**(settings | changes))


@pytest.fixture
def declared(monkeypatch, tmp_path):
    """Puts a claim in the place of the declared one, and keeps its files in a folder of its own."""
    CALLS.clear()

    def run(claim: Claim, **kwargs):
        monkeypatch.setattr(experiment, "find_claim", lambda slug: claim)
        return run_claim("rotation", out=tmp_path / "evidence", work=tmp_path / "work", **kwargs)

    return run


class TestEffect:
    def test_one_seed_is_a_paired_bootstrap(self):
        items = (torch.arange(400) % 4 == 0).double()[None]
        found = effect(items.mean(1), items)
        half = 1.96 * float(items.std()) / math.sqrt(400)
        assert found.value == 0.25
        assert found.low == pytest.approx(0.25 - half, abs=0.004)
        assert found.high == pytest.approx(0.25 + half, abs=0.004)

    def test_items_that_never_differ_leave_student_t_over_seeds(self):
        items = torch.tensor([0.1, 0.2, 0.3])[:, None].expand(3, 500)
        found = effect(items.mean(1), items)
        half = 4.302653 * 0.1 / math.sqrt(3)
        assert found.low == pytest.approx(0.2 - half, rel=0.02)
        assert found.high == pytest.approx(0.2 + half, rel=0.02)
        bare = effect([0.1, 0.2, 0.3])
        assert (bare.low, bare.high) == pytest.approx((0.2 - half, 0.2 + half), rel=1e-4)

    def test_pairing_matters(self):
        generator = torch.Generator().manual_seed(0)
        easy = (torch.rand(1000, generator=generator) < 0.5).double()
        better = easy.clone()
        better[(easy == 0).nonzero()[:20]] = 1  # the same items but for 20 more
        paired = effect([0.02], (better - easy)[None])
        assert 0 < paired.low < paired.high < 0.035

    def test_it_covers_the_truth(self):
        """Items and seeds both vary: about 95 % of the intervals hold the true difference."""
        generator = torch.Generator().manual_seed(1)
        inside = 0
        for _ in range(200):
            per_item = 0.3 * torch.randn(1, 200, generator=generator)
            per_seed = 0.03 * torch.randn(3, 1, generator=generator)
            items = 0.1 + per_item + per_seed
            found = effect(items.mean(1), items)
            inside += found.low < 0.1 < found.high
        assert inside >= 184

    def test_nothing_to_judge_by_leaves_no_interval(self):
        assert effect([0.5]) == Effect(0.5, None, None)


@pytest.mark.parametrize(
    ("low", "high", "claimed", "margin", "verdict"),
    [
        (0.1, 0.3, "higher", 0.0, "holds"),
        (-0.3, -0.1, "higher", 0.0, "does not hold at this scale"),
        (-0.1, 0.3, "higher", 0.0, "inconclusive"),
        (-0.1, 0.3, "higher", -0.2, "holds"),
        (0.1, 0.3, "higher", 0.2, "inconclusive"),
        (0.1, 0.3, "higher", 0.4, "does not hold at this scale"),
        (-0.3, -0.1, "lower", 0.0, "holds"),
        (0.1, 0.3, "lower", 0.0, "does not hold at this scale"),
        (0.0, 0.3, "higher", 0.0, "inconclusive"),
        (None, None, "higher", 0.0, "inconclusive"),
    ],
)
def test_verdict(low, high, claimed, margin, verdict):
    assert judge(Effect(0.2, low, high), claimed, margin) == verdict


def test_a_claim_holds_only_if_all_of_it_holds():
    fails = "does not hold at this scale"
    assert overall(["holds", "holds"]) == "holds"
    assert overall(["holds", "inconclusive"]) == "inconclusive"
    assert overall(["inconclusive", fails]) == fails
    assert overall(["holds", fails]) == fails


class TestRun:
    def test_result(self, declared, tmp_path):
        result = declared(fake_claim())
        assert result == json.loads((tmp_path / "evidence" / "rotation.json").read_text())
        assert set(result) == {
            "slug", "statement", "data", "arms", "effect", "interval", "verdict", "comparisons", "rule",
            "seconds", "command", "revision", "versions", "machine", "source",
        }  # fmt: skip
        assert result["arms"]["skilled"]["right"] == [0.9, 0.9]
        assert result["arms"]["unskilled"]["right"] == [0.2, 0.2]
        assert result["effect"] == pytest.approx(0.7)
        assert result["interval"][0] < 0.7 < result["interval"][1]
        assert result["verdict"] == "holds"
        assert result["command"] == "pretask claim rotation"
        assert (result["data"]["train"], result["data"]["labelled"], result["data"]["test"]) == (100, 50, 40)
        assert str(Path.home()) not in json.dumps(result) and str(tmp_path) not in json.dumps(result)

    def test_arms_of_a_seed_start_alike_and_seeds_differ(self, declared):
        arms = declared(fake_claim())["arms"]
        assert arms["skilled"]["weight"] == arms["unskilled"]["weight"]
        assert len(set(arms["skilled"]["weight"])) == 2

    def test_against_the_margin_alone(self, declared):
        result = declared(fake_claim(comparisons=(Comparison("right", "unskilled", margin=0.5),)))
        assert result["effect"] == pytest.approx(0.2)
        assert result["verdict"] == "does not hold at this scale"

    def test_a_single_number_is_judged_over_seeds(self, declared):
        result = declared(fake_claim(comparisons=(Comparison("constant", "skilled", margin=1.0),), seeds=3))
        assert result["interval"] == [2.0, 2.0]
        result = declared(fake_claim(comparisons=(Comparison("constant", "skilled"),), seeds=1))
        assert result["verdict"] == "inconclusive"

    def test_finished_arms_are_kept(self, declared):
        first = declared(fake_claim())
        assert len(CALLS) == 4
        assert declared(fake_claim()) == first
        assert len(CALLS) == 4, "nothing is measured twice"
        declared(fake_claim(), seeds=3)
        assert len(CALLS) == 6, "only the third seed is new"
        declared(fake_claim(batch_size=64))
        assert len(CALLS) == 10, "another budget is another experiment"

    def test_an_interrupted_run_goes_on(self, declared, monkeypatch):
        whole, calls = experiment.run_trial, []

        def breaks(*args):
            calls.append(args)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return whole(*args)

        monkeypatch.setattr(experiment, "run_trial", breaks)
        with pytest.raises(KeyboardInterrupt):
            declared(fake_claim())
        monkeypatch.setattr(experiment, "run_trial", whole)
        CALLS.clear()
        result = declared(fake_claim())
        assert len(CALLS) == 2 and len(result["arms"]["skilled"]["right"]) == 2

    def test_a_metric_that_is_no_number_stops_the_run(self, declared):
        with pytest.raises(PretaskError, match="not finite"):
            declared(fake_claim(metrics=(lambda trained, bench: {"right": float("nan")},)))

    def test_missing_data_are_replaced_and_it_is_said(self, declared, monkeypatch, tmp_path):
        monkeypatch.setenv("PRETASK_DATA", str(tmp_path))
        result = declared(fake_claim(data="not_there", fallback="digits"))
        assert result["data"]["name"] == "digits" and result["data"]["instead of"] == "not_there"

    def test_trials_survive_a_file(self, tmp_path):
        trial = Trial({"a": torch.rand(5).double(), "b": torch.tensor(2.0).double()}, 1.25)
        trial.save(tmp_path / "x.safetensors")
        read = Trial.load(tmp_path / "x.safetensors")
        assert read.seconds == 1.25 and read.value("b") == 2.0
        assert torch.equal(read.metrics["a"], trial.metrics["a"])


def test_data_are_found_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("PRETASK_DATA", str(tmp_path))
    assert find_data("birds") is None
    (tmp_path / "birds").mkdir()
    assert find_data("birds") == str(tmp_path / "birds")
    (tmp_path / "birds" / "birds.zip").touch()
    assert find_data("birds") == str(tmp_path / "birds" / "birds.zip")


def test_an_arm_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="no arm 'typo'"):
        fake_claim(comparisons=(Comparison("right", "skilled", "typo"),))


def test_an_unknown_claim_names_the_nearest():
    with pytest.raises(UsageError, match="rotation"):
        find_claim("rotatoin")


def test_claims_are_listed_without_torch():
    code = "import sys, pretask.studies.claim as c; assert c.list_claims() and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


class TestSources:
    def write(self, path: Path, text: str) -> str:
        path.write_text(text)
        return sources.digest(path)

    def test_comments_docstrings_and_layout_do_not_count(self, tmp_path):
        path = tmp_path / "a.py"
        plain = self.write(path, "def f(x):\n    return x + 1\n")
        same = '"""Doc."""\n\n# why\ndef f(x):\n    """What."""\n    return (x\n      + 1)\n'
        assert plain == self.write(path, same)
        assert plain != self.write(path, "def f(x):\n    return x + 2\n")
        assert plain != self.write(path, "def f(x, y=0):\n    return x + 1\n")

    def test_a_changed_string_counts(self, tmp_path):
        path = tmp_path / "a.py"
        one, other = (f"def f():\n    return '{letter}'\n" for letter in "ab")
        assert self.write(path, one) != self.write(path, other)

    def test_every_version_of_python_gives_the_same(self, tmp_path):
        """Of what versions parse, or would write down, differently; the digest is one that 3.11 to 3.14 agree on."""
        code = (
            'def at(x, *rest, step=0.5, **more) -> "str":\n'
            "    if (y := x) is None or not rest:\n"
            """        raise ValueError(f"{x!r} is 'none' of {len(rest):>3} {f'{y}'}" " at all")\n"""
            '    return [f"{k}={v:.{step}f}" for k, v in more.items() if v]\n'
        )
        assert self.write(tmp_path / "a.py", code) == "15ebac19c4d0df3b"

    def test_sources_reach_the_blocks_and_no_further(self):
        found = sources.method_sources("rotation")
        assert {"claims/rotation.py", "methods/image/rotation.py", "pretexts/rotation.py"} <= set(found)
        assert not any(name.startswith(("training/", "studies/", "data/")) for name in found)

    def test_the_library_hash_follows_whatever_a_result_depends_on(self, monkeypatch):
        whole = sources.library_hash("rotation")
        assert whole != sources.library_hash("simclr")
        digest = sources.digest
        for name in ("evaluation/knn.py", "data/dataset.py", "methods/image/rotation.py"):
            changed = lambda path, name=name: "other" if sources.name_of(path) == name else digest(path)  # noqa: E731
            monkeypatch.setattr(sources, "digest", changed)
            assert sources.library_hash("rotation") != whole

    def test_revision_is_a_commit_or_a_version(self):
        found = sources.revision()
        assert len(found.removesuffix("-dirty")) == 40 or found.startswith("pretask ")


class TestPage:
    @pytest.fixture
    def result(self, declared):
        return declared(fake_claim())

    def test_current_until_the_method_changes(self, result, monkeypatch):
        assert evidence.freshness(result) == "current"
        block = next(name for name in result["source"] if name.startswith("pretexts/"))
        now = result["source"] | {block: "other"}
        monkeypatch.setattr(evidence, "method_sources", lambda slug: now)
        assert evidence.freshness(result) == f"current; blocks changed since: 1 of {len(now)}"
        assert f"Blocks changed since: `{block}`." in evidence.section(result)
        now = result["source"] | {"methods/image/rotation.py": "other"}
        monkeypatch.setattr(evidence, "method_sources", lambda slug: now)
        assert evidence.freshness(result).startswith("**stale**")
        now = result["source"] | {"claims/rotation.py": "other"}
        monkeypatch.setattr(evidence, "method_sources", lambda slug: now)
        assert evidence.freshness(result).startswith("**stale**")

    def test_page(self, result, tmp_path):
        page = evidence.write_table(tmp_path / "evidence", tmp_path / "docs").read_text()
        row = next(row for row in page.splitlines() if row.startswith("| [Rotation"))
        assert "+0.700 [" in row and "holds" in row and "(evidence/rotation.svg)" in row and "current" in row
        assert "0.9000 / 0.9000" in page
        mae = next(row for row in page.splitlines() if row.startswith("| Masked autoencoder"))
        assert "not run yet" in mae
        assert (tmp_path / "docs" / "evidence" / "rotation.svg").is_file()

    def test_a_withdrawn_result_leaves_no_plot(self, result, tmp_path):
        evidence.write_table(tmp_path / "evidence", tmp_path / "docs")
        (tmp_path / "evidence" / "rotation.json").unlink()
        evidence.write_table(tmp_path / "evidence", tmp_path / "docs")
        assert not (tmp_path / "docs" / "evidence" / "rotation.svg").exists()

    def test_a_broken_file_is_named(self, tmp_path):
        (tmp_path / "x.json").write_text("{}")
        with pytest.raises(PretaskError, match="x.json"):
            evidence.read(tmp_path)

    def test_plot_puts_the_claimed_side_right(self):
        part = {"metric": "m", "arm": "a<b", "against": None, "margin": 1.0, "verdict": "holds"}
        for claimed, ends, point in (("higher", [1.5, 3.0], 2.0), ("lower", [-1.0, 0.5], 0.0)):
            svg = evidence.forest([part | {"claimed": claimed, "interval": ends, "effect": point}])
            centre = float(svg.partition('cx="')[2].partition('"')[0])
            assert centre == pytest.approx(evidence.WIDTH / 2 + evidence.HALF / 2, abs=0.1)
            assert "a&lt;b" in svg


def results() -> list[Path]:
    return sorted((Path(__file__).parents[1] / "evidence").glob("*.json"))


@pytest.mark.parametrize("path", results(), ids=lambda path: path.stem)
def test_kept_evidence_agrees_with_itself(path):
    """The numbers of a committed result follow from one another."""
    result = json.loads(path.read_text())
    assert result["slug"] == path.stem
    for part in result["comparisons"]:
        ours = result["arms"][part["arm"]][part["metric"]]
        theirs = result["arms"][part["against"]][part["metric"]] if part["against"] else [0.0] * len(ours)
        mean = sum(a - b for a, b in zip(ours, theirs, strict=True)) / len(ours)
        assert part["effect"] == pytest.approx(mean, abs=1e-9)
        found = Effect(part["effect"], *part["interval"])
        assert part["verdict"] == judge(found, part["claimed"], part["margin"])
    assert result["verdict"] == overall([part["verdict"] for part in result["comparisons"]])


@pytest.mark.parametrize("slug", list_claims())
def test_every_claim_runs(slug, tmp_path, monkeypatch):
    """Quickly: each arm is trained and measured; every comparison finds its metric; nothing is written."""
    monkeypatch.chdir(tmp_path)
    result = run_claim(slug, quick=True)
    claim = find_claim(slug)
    assert "verdict" not in result and "effect" not in result
    assert not list(tmp_path.iterdir())
    assert set(result["arms"]) == set(claim.arms)
    for comparison in claim.comparisons:
        for arm in (comparison.arm, comparison.against):
            assert arm is None or len(result["arms"][arm][comparison.metric]) == 1
