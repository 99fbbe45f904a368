"""Surveys: tables of many methods under one budget, their findings, resuming; the checks that need no training."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pretask import catalog
from pretask.cli import main
from pretask.data import open_data
from pretask.data.captioned import OPENINGS
from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.evaluation.layers import taps
from pretask.evaluation.patches import NinePatches
from pretask.evaluation.protocols import evaluate
from pretask.methods.image.patch_puzzle import standardised
from pretask.registry import build_task
from pretask.studies import experiment, table
from pretask.studies.baselines import Told
from pretask.studies.bench import Bench, Trial
from pretask.studies.claim import Arm, Claim, Comparison, Trained
from pretask.studies.cost import Cost, cost, steps_for
from pretask.studies.study import find_study, run_study, tables, write_into
from pretask.studies.survey import Finding, Settings, Survey, missing
from pretask.studies.surveys import revisiting
from pretask.studies.surveys.measures import agreement, behind, spearman, transfer
from pretask.studies.theory import spectral
from pretask.task import Step

SLUGS = ("contrastive-survey", "know-your-ssl", "ssl-cookbook", "revisiting-ssl")
TINY = "resnet10t:stem_width=8,channels=[8,8,8,8]"


def survey(**changes) -> Survey:
    claim = Claim(
        "Something is better than nothing.",
        arms={
            "rotation": Arm("rotation"), "simclr": Arm("simclr"), "gone": Arm("no-such-method"),
            "random": Arm("rotation", steps=0),
        },
        comparisons=(Comparison("knn", "rotation", "random"), Comparison("knn", "gone", "random")),
        metrics=("knn",), data="digits", encoder=TINY, train=60, labelled=40, test=40, seeds=2, steps=2,
        batch_size=16,
    )  # fmt: skip
    families = {"puzzles": ("rotation",), "views": ("simclr", "gone"), "baselines": ("random",)}
    findings = (
        Finding(
            "simclr - rotation",
            lambda v: v["simclr"]["knn"] - v["rotation"]["knn"] if "simclr" in v else None,
        ),
        Finding("nobody knows", lambda v: None),
    )
    return replace(Survey(claim, families, findings), **changes)


class TestSurvey:
    def test_members(self):
        one = survey()
        assert list(one.chosen()) == ["rotation", "simclr", "random"] and one.absent() == ["no-such-method"]
        assert list(one.chosen(["baselines", "rotation"])) == ["rotation", "random"]
        assert one.family("gone") == "views"
        with pytest.raises(UsageError, match="no family or member 'rotatoin'; it has: rotation"):
            one.chosen(["rotatoin"])
        with pytest.raises(UsageError, match="families and arms differ"):
            survey(families={"puzzles": ("rotation",)})

    def test_a_part_of_it(self):
        part = survey().of(survey().chosen(["baselines"]))
        assert list(part.claim.arms) == ["random"] and part.claim.comparisons == ()

    def test_rows(self, tmp_path):
        rows = table.tabulate("rotation", survey(), Settings(work=tmp_path))
        members, findings = rows[:3], rows[3:]
        assert [row["member"] for row in members] == ["rotation", "simclr", "random"]
        assert [row["steps"] for row in members] == [1, 2, 0] and [row["seen"] for row in members] == [
            4.0,
            2.0,
            None,
        ]
        assert all(
            set(row["knn"]) == {"value", "low", "high"} and row["knn"]["low"] is not None for row in members
        )
        assert [row["finding"] for row in findings] == ["knn: rotation - random > 0", "simclr - rotation > 0"]
        gap = members[1]["knn"]["value"] - members[0]["knn"]["value"]
        assert findings[1]["effect"]["value"] == pytest.approx(gap)

    def test_resuming(self, tmp_path, monkeypatch):
        run, calls = experiment.run_trial, []
        monkeypatch.setattr(experiment, "run_trial", lambda *a: calls.append(a[1]) or run(*a))
        few = Settings(work=tmp_path, only=("rotation", "random"), seeds=1)
        first = table.tabulate("rotation", survey(), few)
        assert len(calls) == 2
        again = table.tabulate("rotation", survey(), few)
        assert len(calls) == 2 and first == again
        table.tabulate("rotation", survey(), replace(few, only=()))  # a member joins, the others stay valid
        assert len(calls) == 3 and calls[-1].method == "simclr"

    def test_who_cannot_learn_is_left_out(self, tmp_path):
        arms = {"mae": Arm("mae"), "simclr": Arm("simclr")}  # a ResNet has no patches
        claim = replace(survey().claim, arms=arms, comparisons=())
        one = Survey(claim, {"all": tuple(arms)})
        rows = table.tabulate("rotation", one, Settings(work=tmp_path, quick=True))
        assert [row["member"] for row in rows] == ["simclr"]
        with pytest.raises(UsageError, match="none of the survey's methods can"):
            table.tabulate("rotation", one, Settings(work=tmp_path, quick=True, only=("mae",)))

    def test_own_data(self, tmp_path, photo_folder):
        folder = photo_folder(8, ("cat", "dog"))
        settings = Settings(data=str(folder), quick=True, only=("random",))
        (row,) = table.tabulate("rotation", survey(), settings)
        assert 0 <= row["knn"]["value"] <= 1
        with pytest.raises(UsageError, match="there are no data at"):
            table.tabulate("rotation", survey(), replace(settings, data=str(tmp_path / "nothing")))

    def test_intervals_are_the_claims_rule(self):
        trials = [
            Trial({"a": torch.rand(50, generator=torch.Generator().manual_seed(n)).double()}, 1.0)
            for n in (0, 1)
        ]
        found = table.over_seeds(trials, "a")
        assert found.low < found.value < found.high
        one = table.over_seeds([Trial({"b": torch.tensor(2.0)}, 1.0)], "b")
        assert (one.value, one.low, one.high) == (2.0, None, None)


class TestCost:
    @pytest.mark.parametrize(
        ("slug", "encoder", "seen"),
        [("simclr", TINY, 2), ("rotation", TINY, 4), ("exemplar", TINY, 8), ("moco", TINY, 1), ("byol", TINY, 2),
         ("swav", TINY, 2 + 2 / 4), ("mae", "vit_tiny_patch16_224:depth=1,embed_dim=24,num_heads=2", 1)],
    )  # fmt: skip
    def test_pictures_that_the_encoder_sees(self, slug, encoder, seen):
        claim = replace(survey().claim, reading={"image_size": 32})
        found = cost(Bench.of(claim, print), Arm(slug, encoder=encoder))
        assert found.seen == seen and found.kept > 0

    def test_budget(self):
        assert steps_for(2 * 300 * 128, 2, 128) == 300 and steps_for(2 * 300 * 128, 4, 64) == 300
        assert steps_for(1, 9, 128) == 1

    def test_reversible_networks_keep_less(self):
        bench = Bench.of(replace(survey().claim, reading={"image_size": 32}), print)
        name = "revnet50:width=1,layers=[3,3]"
        found = [
            cost(bench, Arm("rotation", encoder=f"{name},save_memory={save}")) for save in ("true", "false")
        ]
        assert found[0].kept < found[1].kept and found[0].seen == found[1].seen
        assert isinstance(found[0], Cost)


class TestTold:
    def test_captions_say_the_class(self):
        bench = Bench.of(replace(survey().claim, data="digits-on-textures"), print)
        task = bench.task(Arm(lambda encoder: Told(encoder)), 0)
        words = task.encoder.tower("text").tokenizer
        told = words.decode(task.numbers[7 * len(OPENINGS) + 1][task.attention[7 * len(OPENINGS) + 1]])
        assert told.split()[-1] == "7" and told.startswith("a photo of")
        batch = bench.train.batch(range(8))
        loss = task.loss(batch, Step.at())["clip"]
        loss.backward()
        assert task.learned is task.encoder.tower("image") and loss.isfinite()
        assert all(p.grad is not None for p in task.learned.parameters())
        with pytest.raises(UsageError, match="captions are made of labels"):
            task.loss({"image": batch["image"]}, Step.at())

    def test_cost(self):
        bench = Bench.of(replace(survey().claim, data="digits-on-textures"), print)
        assert cost(bench, Arm(lambda encoder: Told(encoder))).seen == 1


class TestStudies:
    @pytest.mark.parametrize("slug", SLUGS)
    def test_declared(self, slug):
        one = find_study(slug)
        assert isinstance(one, Survey) and catalog.find(slug, "study").kind == "study"
        named = {
            s for arm in one.claim.arms.values() if isinstance(arm.method, str) for s in arm.method.split("+")
        }
        assert named <= set(catalog.BY_SLUG), "a method that nobody knows"

    def test_command(self, capsys, tmp_path):
        (tmp_path / "page.md").write_text("a\n<!-- results -->\n<!-- /results -->\n")
        with pytest.raises(SystemExit) as ended:
            main(["study", "revisiting-ssl", "--quick", "--only", "relative-location, revnet, k=1",
                  "--page", str(tmp_path / "page.md"), "--json"])  # fmt: skip
        assert not ended.value.code
        rows = json.loads(capsys.readouterr().out)
        assert [row["family"] for row in rows] == ["relative-location"]
        assert {"block 1", "block 3", "last - best", "linear, narrow", "mlp", "pretext"} <= set(rows[0])
        assert "| relative-location | relative-location, revnet, k=1 |" in (tmp_path / "page.md").read_text()

    def test_theory_takes_no_data(self):
        with pytest.raises(UsageError, match="takes no --data"):
            run_study("power-of-foundation-models", Settings(data="digits"))

    def test_wide_tables_are_printed_in_parts(self, tmp_path):
        row = {"family": "f", "member": "m", **{f"c{n}": n for n in range(7)}}
        parts = tables([row, row, {"finding": "x", "verdict": "holds"}])
        assert [list(part[0]) for part in parts] == [
            ["family", "member", "c0", "c1", "c2", "c3", "c4"], ["family", "member", "c5", "c6"],
            ["finding", "verdict"],
        ]  # fmt: skip
        assert [len(part) for part in parts] == [2, 2, 1]
        (tmp_path / "p.md").write_text("<!-- results -->\n<!-- /results -->")
        write_into(tmp_path / "p.md", [{"a": {"value": 0.12345, "low": 0.1, "high": None}, "b": None}])
        assert "| 0.123 |  |" in (tmp_path / "p.md").read_text()

    def test_missing(self):
        assert missing(Arm("simclr+nothing")) == ["nothing"] and missing(Arm(lambda e: e)) == []


class TestMeasures:
    def test_rank_correlation(self):
        x, y = [0.1, 0.4, 0.2, 0.9], [1.0, 3.0, 4.0, 2.0]
        ranks = [[sorted(z).index(v) for v in z] for z in (x, y)]
        n = len(x)
        by_hand = 1 - 6 * sum((a - b) ** 2 for a, b in zip(*ranks, strict=True)) / (n * (n * n - 1))
        assert spearman(x, y) == pytest.approx(by_hand)
        assert spearman(x[:2], y[:2]) is None and spearman(x, [1.0] * 4) is None
        values = {str(i): {"a": a, "b": b} for i, (a, b) in enumerate(zip(x, y, strict=True))}
        assert agreement(
            {**values, "other": {"a": 1.0}}, "a", "b", [*values, "other", "gone"]
        ) == pytest.approx(by_hand)

    def test_transfer_and_projector(self):
        claim = replace(survey().claim, data="digits", reading={"image_size": 32})
        bench = Bench.of(claim, print)
        task = build_task("simclr", bench.encoder(Arm(None), 0))
        assert len(transfer(Trained(task.encoder, task), bench)["transfer"]) == 40
        assert bench.test.channels == 1  # no colours to ask for
        assert set(behind(Trained(task.encoder, task), bench)) == {
            "accuracy, projector", "rank, projector", "std, projector", "accuracy, layer 0", "accuracy, layer 1",
            "accuracy, layer 2",
        }  # fmt: skip
        found = behind(Trained(task.encoder, task), bench)
        (score,) = evaluate(task.encoder, bench.labelled, bench.test, ["linear"])
        assert torch.equal(found["accuracy, layer 0"], score.items)
        assert torch.equal(found["accuracy, layer 2"], found["accuracy, projector"])
        assert behind(Trained(task.encoder), bench) == {}


class TestRevisiting:
    def grid(self, value) -> dict:
        found = {}
        for task, net, k in itertools.product(
            (*revisiting.TASKS, "supervised", "random"), revisiting.NETS, revisiting.WIDTHS
        ):
            found[revisiting.named(task, net, k)] = value(task, net, k)
        return found

    def test_findings_by_construction(self):
        nets = list(revisiting.NETS)

        def value(task, net, k):
            place = nets.index(net) if task != "jigsaw" else -nets.index(net)
            linear = 0.4 + 0.01 * place + 0.02 * k * (1 if task == "supervised" else 2)
            return {
                "linear": linear, "linear, narrow": linear - 0.03, "pretext": 0.5 - 0.1 * place + 0.1 * k,
                "mlp": linear + 0.1,
                "last - best": -0.2 if net == "vgg" else -0.01, "linear, 70 epochs": linear,
                "linear, 5 epochs": linear - 0.05 - 0.001 * place,
            }  # fmt: skip

        found = {
            str(f).partition(":")[0].partition(" >")[0]: f.of(self.grid(value))
            for f in revisiting.SURVEY.findings
        }
        by_number = [f.of(self.grid(value)) for f in revisiting.SURVEY.findings]
        ranking, labels, predicted, kept_up, width, representation, relative, longer, order, layers_agree = (
            by_number
        )
        # of six pairs of pretexts three are of jigsaw, whose order is reversed; so is one of four with labels
        assert ranking == pytest.approx(1 - 0) and labels == pytest.approx(1 - 0.5)
        assert kept_up == pytest.approx(0.19) and len(found) >= 6
        assert predicted == pytest.approx(1 - -1)  # between backbones it means worse features here
        assert representation == pytest.approx(0.03) and width == pytest.approx(0.12 - 0.03)
        assert relative > 0 and longer == pytest.approx(
            0.05 + 0.001 * np.mean([0, 1, 2, 3, 4, 5]) * (3 - 1) / 4
        )
        assert order <= 1 and layers_agree == pytest.approx(1, rel=1e-3)

    def test_nothing_to_say_of_a_part(self):
        some = {revisiting.named("rotation", "vgg", 1): {"linear": 0.5}}
        assert [f.of(some) for f in revisiting.SURVEY.findings] == [None] * 10

    def test_orders_that_differ_by_noise_alone_are_no_finding(self):
        """One order for all tasks, under noise as large as the steps between backbones."""
        nets, rng, found = list(revisiting.NETS), np.random.default_rng(0), []
        for _ in range(300):
            values = self.grid(lambda task, net, k: {"linear": nets.index(net) + 2 * rng.normal()})
            found.append([revisiting.ranking(values), revisiting.against_labels(values)])
        middle, error = np.mean(found, 0), np.std(found, 0) / 300**0.5
        assert (abs(middle) < 3 * error).all()

    @pytest.mark.parametrize("net", revisiting.NETS)
    def test_widths(self, net):
        dims = [
            build_encoder(revisiting.arm("rotation", net, k).encoder, image_size=48, seed=0).dim
            for k in (1, 2)
        ]
        assert dims[1] == 2 * dims[0]

    def test_patches_by_loops(self):
        encoder = build_encoder(revisiting.NETS["revnet"].format(k=1), image_size=48, seed=0).eval()
        nine, found = NinePatches(encoder), []
        image = torch.rand(2, 3, 42, 42, generator=torch.Generator().manual_seed(0))
        for row, column in itertools.product(range(3), repeat=2):  # of the middle 36 pixels
            patch = image[:, :, 12 * row + 3 : 12 * row + 15, 12 * column + 3 : 12 * column + 15]
            patch = standardised(patch, 255)
            if nine.shown != 12:
                patch = torch.nn.functional.interpolate(patch, (nine.shown,) * 2, mode="bilinear")
            found.append(encoder(patch * encoder.std + encoder.mean).pooled)
        assert torch.allclose(nine(image).pooled, torch.stack(found).mean(0), atol=1e-4)

    def test_patches_of_the_papers_size(self):
        """A short side of 224, its middle 192 in patches of 64."""
        encoder = build_encoder("resnet10t", image_size=224, seed=0).eval()
        nine, seen = NinePatches(encoder), []
        encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        nine.encode({"image": image})
        last = standardised(image[:, :, 144:208, 144:208], 255) * encoder.std + encoder.mean
        assert seen[0].shape == (9, 3, 64, 64) and torch.allclose(seen[0][8:], last, atol=1e-5)

    def test_patches_at_every_block(self):
        data = open_data("digits-on-textures", limit=60, image_size=48)
        encoder = build_encoder(revisiting.NETS["vgg"].format(twice=2), image_size=48, seed=0)
        found = taps(NinePatches(encoder), data.subset(range(10)), 300, "plain", None)
        assert len(found) == 6 and all(len(x) == 10 for x in found)


class TestSpectral:
    joint = spectral.graph(0, 6, 8)

    def test_a_graph_is_a_distribution_over_pairs(self):
        assert self.joint.sum() == pytest.approx(1) and np.allclose(self.joint, self.joint.T)

    def test_the_loss_by_loops_is_a_factorisation(self):
        f, joint = np.random.default_rng(0).normal(size=(8, 3)), self.joint
        w, loops = joint.sum(1), 0.0
        for x, y in itertools.product(range(8), repeat=2):
            loops += -2 * joint[x, y] * float(f[x] @ f[y]) + w[x] * w[y] * float(f[x] @ f[y]) ** 2
        assert spectral.spectral_loss(f, joint) == pytest.approx(loops)
        embedded, n = np.sqrt(w)[:, None] * f, spectral.normalised(joint)
        assert loops == pytest.approx(((n - embedded @ embedded.T) ** 2).sum() - (n**2).sum())

    @pytest.mark.parametrize("loss", [spectral.contrastive, spectral.uncorrelated])
    def test_gradients(self, loss):
        f = np.random.default_rng(1).normal(size=(8, 3))
        _, gradient = loss(f, self.joint)
        for place in ((0, 0), (3, 2), (7, 1)):
            step = np.zeros_like(f)
            step[place] = 1e-6
            numeric = (loss(f + step, self.joint)[0] - loss(f - step, self.joint)[0]) / 2e-6
            assert gradient[place] == pytest.approx(numeric, rel=1e-4, abs=1e-7)

    def test_checks_hold(self):
        rows = spectral.checks(1)
        assert len(rows) == 2 and all(row["holds"] for row in rows)

    def test_other_features_do_not_pass(self):
        rows = spectral.compare(
            "x", "y", lambda f, a: (float((f**2).sum() - f.sum()), 2 * f - 1), 0, lambda v: v
        )
        assert not rows["holds"]
