"""What surveys find, by tables made up so that the answer is known; and the members that differ from their method."""

import pytest

from pretask.encoders import build_encoder
from pretask.studies.surveys import contrastive, cookbook, know_your_ssl

TINY = "resnet10t:stem_width=8,channels=[8,8,8,8]"


class TestContrastive:
    def test_the_first_moco_changes_colours_as_its_code_does(self):
        encoder = build_encoder(TINY, image_size=96, seed=0)
        task = contrastive.moco_v1(encoder)
        for spec in (task.first, task.second):
            assert (spec.jitter, spec.grey, spec.flip, spec.blur, spec.scale) == (1, 0.2, 0.5, 0, (0.2, 1.0))
            assert (spec.brightness, spec.contrast, spec.saturation, spec.hue) == (0.4, 0.4, 0.4, 0.4)
        assert task.temperature == 0.07 and len(task.projector) == 1

    def test_all_stand_against_all_on_one_network(self):
        assert not {"cpc", "moco-v3"} & set(contrastive.JOINT) and "simclr" in contrastive.JOINT
        values = {name: {"linear": 0.8, "knn": 0.8} for name in contrastive.JOINT}
        values |= {"cpc": {"linear": 0.1, "knn": 0.1}, "byol": {"linear": 0.55, "knn": 0.8}}
        low = {"rotation": 0.6, "jigsaw": 0.5, "colorization": 0.3, "random": 0.2, "supervised": 0.9}
        values |= {name: {"linear": x, "knn": x} for name, x in low.items()}
        mean, worst, puzzles, nothing, labels = (f.of(values) for f in contrastive.FINDINGS[:5])
        count = len(contrastive.JOINT)
        assert mean == pytest.approx((0.8 * (count - 1) + 0.55) / count - 0.6)
        assert worst == pytest.approx(0.55 - 0.6), "one method below rotation is seen"
        assert (puzzles, nothing, labels) == pytest.approx((0.6 - 0.5, 0.3 - 0.2, 0.9 - 0.8))
        assert contrastive.FINDINGS[0].of({"simclr": {"linear": 1.0}}) is None


class TestCookbook:
    def test_masked_pictures_are_held_against_the_same_network(self):
        arms = cookbook.SURVEY.claim.arms
        assert {arms[name].encoder for name in (*cookbook.ALIKE, "mae")} == {arms["mae"].encoder}
        values = {
            "simclr, ViT": {"linear": 0.7, "knn": 0.6, "finetune": 0.8},
            "vicreg, ViT": {"linear": 0.5, "knn": 0.6, "finetune": 0.9},
            "mae": {"linear": 0.4, "knn": 0.3, "finetune": 0.86},
            "simclr": {
                "linear": 0.1,
                "accuracy, layer 0": 0.6,
                "accuracy, layer 1": 0.5,
                "accuracy, layer 2": 0.4,
            },
            "byol": {
                "linear": 0.1,
                "accuracy, layer 0": 0.6,
                "accuracy, layer 1": 0.4,
                "accuracy, layer 2": 0.5,
            },
        }
        found = {finding.says: finding.of(values) for finding in cookbook.SURVEY.findings}
        assert found["linear: joint embedding - MAE, on one transformer"] == pytest.approx(0.2)
        assert found["knn: joint embedding - MAE, on one transformer"] == pytest.approx(0.3)
        assert found["fine-tuned: MAE - joint embedding, on one transformer"] == pytest.approx(0.01)
        curve = found["rank correlation of a layer's depth in the projector and linear"]
        assert curve == pytest.approx((-1 - 0.5) / 2)


class TestKnowYourSsl:
    def test_findings_by_construction(self):
        level = {
            "simclr, ViT": 0.5,
            "dino, ViT": 0.6,
            "mae, ViT": 0.4,
            "simmim, ViT": 0.3,
            "random, ViT": 0.2,
        }
        values = {name: {"linear": v, "knn": v, "finetune": 0.7} for name, v in level.items()}
        values |= {name: {"linear": v} for name, v in {
            "simclr": 0.6, "byol": 0.8, "rotation": 0.5, "random": 0.3, "simclr, weak": 0.3, "byol, weak": 0.6,
            "mae, none, ViT": 0.38,
        }.items()}  # fmt: skip
        linear, knn, closing, least, between, dependence = (
            f.of(values) for f in know_your_ssl.SURVEY.findings
        )
        assert linear == knn == closing == pytest.approx(0.2) and least == pytest.approx(0.1)
        assert between == pytest.approx(0.2) and dependence == pytest.approx((0.5 + 0.25) / 2 - 0.05)

    def test_weak_views(self):
        encoder = build_encoder("resnet10t:stem_width=8,channels=[8,8,8,8]", image_size=32, seed=0)
        task = know_your_ssl.weak(know_your_ssl.BYOL)(encoder)
        for spec in (task.first, task.second):
            assert (spec.jitter, spec.grey, spec.blur, spec.solarise) == (0, 0, 0, 0) and spec.flip == 0.5
