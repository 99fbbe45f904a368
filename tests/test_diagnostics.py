"""Diagnostics of a run against naive references: projector, collapse, rank, sensitivity, schedule; further probes."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pretask
from pretask.cli import main
from pretask.data import Dataset, open_data
from pretask.encoders import build_encoder
from pretask.encoders.heads import PrototypeHead, mlp
from pretask.errors import UsageError
from pretask.evaluation import layers as by_layer
from pretask.evaluation import projector, robustness, schedule, sensitivity
from pretask.evaluation.finetune import lowshot
from pretask.evaluation.label_free import collapse_score, spectrum_score
from pretask.evaluation.linear import linear
from pretask.evaluation.mlp import mlp as mlp_probe
from pretask.evaluation.protocols import GROUPS, PROTOCOLS, evaluate
from pretask.objectives.spectrum import cka, directions, stable_rank
from pretask.registry import build_task
from pretask.run import Run
from pretask.task import PretextTask

RESNET = "resnet10t:stem_width=8,channels=[8,16,24,32]"


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    whole = open_data("digits-on-textures", limit=240, image_size=32)
    return whole.subset(range(160)), whole.subset(range(160, 240))


@pytest.fixture(scope="module")
def encoder():
    return build_encoder(RESNET, image_size=32, seed=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "simclr"
    pretask.train(
        "simclr",
        "digits-on-textures",
        RESNET,
        folder,
        max_steps=6,
        batch_size=16,
        reading={"limit": 240},
        evaluate=False,
    )
    return folder


def features(count: int = 60, dim: int = 12, rank: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, rank, generator=generator) @ torch.randn(rank, dim, generator=generator) + 0.3


class TestSpectrum:
    def test_against_numpy(self):
        x = features()
        s = np.linalg.svd(x.double().numpy(), compute_uv=False)
        assert stable_rank(x) == pytest.approx((s**2).sum() / s[0] ** 2)
        variance = np.linalg.eigvalsh(np.cov(x.double().numpy().T))[::-1]
        for share in (0.5, 0.9, 0.99, 1.0):
            wanted, held = 0, 0.0
            while held < share * variance.sum() - 1e-9:
                held += variance[wanted]
                wanted += 1
            assert directions(x, share) == wanted
        assert directions(torch.ones(5, 3), 0.9) == 0 and stable_rank(torch.zeros(4, 2)) == 1

    def test_cka(self):
        x, y = features(), features(dim=7, rank=3)
        centre = torch.eye(60).double() - 1 / 60
        k, m = (centre @ (p.double() @ p.double().T) @ centre for p in (x, y))
        assert cka(x, y) == pytest.approx(
            float((k * m).sum() / (k.norm() * m.norm()))
        )  # HSIC, by Gram matrices
        turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)))[0]
        assert cka(x, 3 * x @ turn + 1) == pytest.approx(1, abs=1e-5)
        assert cka(x, torch.ones(60, 2)) == 0

    def test_scores(self):
        x = features()
        by_name = {score.metric: score for score in spectrum_score((x, None), (x, None))}
        assert by_name["directions@99"].value == directions(x, 0.99) <= 5
        assert by_name["stable rank"].detail["singular values"][0] == 1
        assert max(by_name["stable rank"].detail["singular values"][5:]) < 1e-5  # the cliff

    def test_collapse_by_dimension(self):
        x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
        x[:, 2:4] = 0
        (score,) = collapse_score((x, None), (x, None))
        each = [float(np.std((x / x.norm(dim=1, keepdim=True)).numpy()[:, d], ddof=1)) for d in range(6)]
        assert score.detail["dead"] == pytest.approx(2 / 6) and score.detail["dimensions"]["least"] == 0
        assert score.value == pytest.approx(sum(each) / 6, rel=1e-4)
        assert score.detail["dimensions"]["most"] == pytest.approx(max(each), rel=1e-4)


class Blind(nn.Module):
    """Sees nothing but the mean lightness of a picture, and that it is one."""

    image_size, in_chans = 16, 3

    def forward(self, image):
        from pretask.encoders import Features

        pooled = torch.stack([image.mean((1, 2, 3)), torch.full((len(image),), 0.5)], dim=1)
        return Features(pooled, pooled[:, None], pooled[:, :0, None], (1, 1))


class TestSensitivity:
    def test_distances_by_loops(self):
        x, changed = features(20, 4), features(60, 4).view(20, 3, 4)
        items, cosine = sensitivity.moved(x, changed)
        unit = F.normalize(x.double(), dim=1)
        pairs = [
            float((a - b).square().sum()) for i, a in enumerate(unit) for j, b in enumerate(unit) if i != j
        ]
        for row in range(20):
            own = [
                float((unit[row] - F.normalize(changed[row, v].double(), dim=0)).square().sum())
                for v in range(3)
            ]
            assert float(items[row]) == pytest.approx(np.mean(own) / np.mean(pairs))
        assert cosine == pytest.approx(
            float(F.cosine_similarity(x[:, None], changed, dim=2).mean()), abs=1e-6
        )

    def test_who_sees_lightness_alone_is_blind_to_the_rest(self, data):
        found = {score.metric: score.value for score in sensitivity.sensitivity(Blind(), *data, views=2)}
        assert found["flip"] < 1e-10 and found["blur"] < 0.02 < found["brightness"]
        assert set(found) == set(sensitivity.kinds(16, 3))

    def test_grey_pictures_have_no_colours_to_change(self):
        assert set(sensitivity.kinds(16, 3)) - set(sensitivity.kinds(16, 1)) == {"saturation", "hue", "grey"}


class Fake(PretextTask):
    def __init__(self, encoder, **heads):
        super().__init__(encoder)
        for name, head in heads.items():
            setattr(self, name, head)


class TestProjector:
    @pytest.mark.parametrize(
        ("slug", "widths"),
        [
            ("simclr", [32, 128]),
            ("rotation", [4]),
            ("dino", [256, 256, 64, 1024]),
            ("barlow-twins", [1024] * 3),
        ],
    )
    def test_layers_in_a_row_are_the_projector(self, encoder, slug, widths):
        task = build_task(slug, encoder.fresh_copy()).eval()
        head, x = getattr(task, "projector", None) or task.head, torch.rand(4, 32)
        layers = projector.layers_of(task)
        assert [
            projector.passed(nn.Sequential(*layers[: n + 1]), x).shape[1] for n in range(len(layers))
        ] == widths
        assert torch.allclose(nn.Sequential(*layers)(x), head(x), atol=1e-5)
        assert isinstance(head, PrototypeHead) == (slug == "dino")

    def test_a_method_without_one(self):
        task = build_task(
            "mae", build_encoder("vit_tiny_patch16_224:depth=1,embed_dim=24,num_heads=2", image_size=32)
        )
        with pytest.raises(UsageError, match="MAE has no projector"):
            projector.layers_of(task)

    def test_colour_classes(self, data):
        first, second = projector.colour_classes(*data)
        middle = np.median(projector.mean_colours(data[0]).numpy(), axis=0)
        image = data[1].batch([7])["image"][0].float() / 255
        r, g, b = (float(image[c].mean()) for c in range(3))
        assert int(second[7]) == 4 * (r > middle[0]) + 2 * (g > middle[1]) + (b > middle[2])
        assert first.max() <= 7 and len(first) == 160

    def test_what_the_layers_lose(self, data, encoder):
        """A projector that throws everything but one direction away: rank, spread and probes say so."""
        torch.manual_seed(0)
        task = Fake(encoder.fresh_copy(), projector=mlp(32, 16, 3))
        last = task.projector[-1]
        nn.init.zeros_(last.weight[1:])
        nn.init.zeros_(last.bias)
        found = {score.metric: score.value for score in projector.probe_layers(task, *data)}
        assert found["rank@0"] > found["rank@2"] == pytest.approx(1, abs=1e-3)
        assert found["cka@0"] == pytest.approx(1) and found["cka@2"] < 0.999
        x = data[0], data[1]
        from pretask.evaluation.features import extract

        (y,), (z,) = ([extract(task.encoder, part)] for part in x)
        assert found["accuracy@0"] == linear(y, z)[0].value
        hidden = [(task.projector[:2](part[0]).detach(), part[1]) for part in (y, z)]
        assert found["accuracy@1"] == pytest.approx(linear(*hidden)[0].value)
        assert found["colour@0"] > found["colour@2"]


class TestSchedule:
    rows = [
        {"step": float(n), "lr": lr, "loss/total": 10.0 - n, **({"watch/rankme": 1.0 + n} if n % 2 else {})}
        for n, lr in enumerate([0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0])
    ]

    def test_phases(self):
        assert schedule.phases([(r["step"], r["lr"]) for r in self.rows]) == {
            "warm-up": (0, 1), "high": (1, 4), "decay": (4, 7),
        }  # fmt: skip
        assert schedule.phases([(0, 1.0), (5, 1.0)]) == {"high": (0, 5)}

    def test_changes(self):
        assert schedule.changes(self.rows, "loss/total")["high"] == (9.0, 6.0)
        assert schedule.changes(self.rows, "watch/rankme")["decay"] == (4.0, 8.0)  # written at 3, 5, 7
        assert schedule.changes(self.rows, "nothing") == {}

    def test_of_a_run(self, run, data):
        found = {score.metric: score for score in schedule.schedule(Run(run), *data)}
        rows = Run(run).metrics
        last = max((r for r in rows if "loss/total" in r), key=lambda r: r["step"])
        assert found["loss@decay"].detail["to"] == last["loss/total"]


class TestCommand:
    def test_diagnostics_of_a_run(self, run, capsys):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", str(run), "--protocol", "diagnostics", "--json"])
        assert not ended.value.code
        scores = json.loads(capsys.readouterr().out)
        assert {score["protocol"] for score in scores} == set(GROUPS["diagnostics"])
        assert (run / "report.html").is_file()
        assert "Projector, layer by layer" in (run / "report.html").read_text()

    def test_an_encoder_alone(self, encoder, data):
        told: list[str] = []
        found = evaluate(encoder, *data, ["diagnostics"], note=told.append)
        assert {s.protocol for s in found} == set(GROUPS["diagnostics"]) - {"projector", "schedule"}
        assert len(told) == 2 and "run folder" in told[0]
        with pytest.raises(UsageError, match="projector: this looks at a run folder"):
            evaluate(encoder, *data, ["projector"])
        assert set(GROUPS["diagnostics"]) <= set(PROTOCOLS)


class TestLayers:
    def test_caps(self):
        maps = torch.rand(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
        assert by_layer.capped(maps, 288).shape == (2, 288)
        kernel = math.ceil(math.sqrt(288 / 100))
        expected = F.max_pool2d(maps, kernel, kernel).flatten(1)
        assert torch.equal(by_layer.capped(maps, 100), expected) and expected.shape[1] == 72
        assert by_layer.capped(maps, 105, "adaptive").shape == (2, 4 * 4 * 8)  # 128 is nearer to 105 than 72
        assert by_layer.capped(maps, 100, "adaptive").shape == (2, 4 * 4 * 8)  # as near as 72: the larger
        assert by_layer.capped(maps, 1).shape == (2, 8)

    def test_a_border_that_does_not_fill_the_kernel_is_left_out(self):
        """Block 1 of the standard network: 56 x 56 x 256 values, kernel 10, 5 x 5 x 256 of them are left."""
        maps = torch.rand(1, 256, 56, 56, generator=torch.Generator().manual_seed(0))
        found = by_layer.capped(maps, 9000).unflatten(1, (256, 5, 5))
        for row, column in itertools.product(range(5), repeat=2):
            cell = maps[:, :, 10 * row : 10 * row + 10, 10 * column : 10 * column + 10]
            assert torch.equal(found[:, :, row, column], cell.amax((2, 3)))

    @pytest.mark.parametrize(
        ("name", "count"),
        [
            (RESNET, 4), ("resnetv2_50:width_factor=0.125,layers=[1,1,1,1]", 4),
            ("revnet50:width=1,layers=[1,1,1]", 3),
            ("vgg19_bn_wide:width=1,layers=[1,1,1,1,1],head_side=1", 5),
            ("vit_tiny_patch16_224:depth=2,embed_dim=24,num_heads=2", 2),
        ],
    )  # fmt: skip
    def test_every_block(self, data, name, count):
        encoder = build_encoder(name, image_size=32, seed=0)
        found = by_layer.taps(encoder, data[1].subset(range(6)), 200, "plain", None)
        assert len(found) == count + 1 and all(len(x) == 6 and x.shape[1] <= 1024 for x in found)

    def test_scores(self, data, encoder):
        small = [part.subset(range(40)) for part in data]
        scores = by_layer.layers(encoder, *small, limit=100)
        assert [s.metric for s in scores] == [f"accuracy@{n}" for n in (1, 2, 3, 4, "last")]
        x, z = (by_layer.taps(encoder, part, 100, "plain", None)[2] for part in small)
        assert scores[2].value == linear((x, small[0].labels), (z, small[1].labels))[0].value

    def test_the_tap_is_the_blocks_output(self, data, encoder):
        found = by_layer.taps(encoder, data[1].subset(range(8)), 10**6, "plain", None)
        model = encoder.eval().model
        with torch.no_grad():
            x = encoder.normalise(data[1].batch(range(8))["image"].float() / 255)
            x = model.layer2(model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(x))))))
        assert torch.allclose(found[1], x.flatten(1), atol=1e-4)
        with pytest.raises(UsageError, match="no stages or blocks"):
            by_layer.blocks(build_encoder("raw", image_size=8))


class TestMlp:
    def test_exclusive_or_needs_a_hidden_layer(self):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(600, 2, generator=generator)
        y = ((x[:, 0] > 0) != (x[:, 1] > 0)).long()
        train, test = (x[:400], y[:400]), (x[400:], y[400:])
        (deep,), (flat,) = mlp_probe(train, test, hidden=64), mlp_probe(train, test, hidden=0)
        assert deep.value > 0.9 and flat.value < 0.7
        assert mlp_probe(train, test, hidden=64)[0].value == deep.value

    def test_the_rate_falls_one_step_after_thirty_and_fifty_of_seventy_epochs(self, monkeypatch):
        """TensorFlow's `piecewise_constant` keeps a value up to and at its boundary."""
        rates: list[float] = []

        class Noted(torch.optim.SGD):
            def step(self, closure=None):
                rates.append(self.param_groups[0]["lr"])
                return super().step(closure)

        monkeypatch.setattr(torch.optim, "SGD", Noted)
        x, y = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2
        mlp_probe((x, y), (x, y), hidden=0, epochs=70)
        peak = 0.1 * 6 / 256
        assert rates == pytest.approx([peak] * 31 + [peak / 10] * 20 + [peak / 100] * 19)


class TestRobustness:
    def test_corruptions(self):
        image = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        for name, spoil in robustness.SPOILT.items():
            before = image.clone()
            one, two = (spoil(image, torch.Generator().manual_seed(1)) for _ in range(2))
            assert torch.equal(one, two) and torch.equal(image, before), name
            assert (
                one.shape == image.shape and one.min() >= 0 and one.max() <= 1 and not torch.equal(one, image)
            )
        covered = robustness.covered(image, torch.Generator().manual_seed(1))
        assert int((covered == 0.5).all(1).flatten(1).sum(1).min()) == 64

    def test_scores(self, data, encoder):
        mean, kept = robustness.robustness(encoder, *data)
        each = [mean.detail[name] for name in robustness.SPOILT]
        assert mean.value == pytest.approx(np.mean(each)) and kept.value == pytest.approx(
            mean.value / mean.detail["clean"]
        )


def test_lowshot_takes_its_share_of_every_class(data, encoder):
    scores = lowshot(encoder, *(part.subset(range(60)) for part in data), shares=(0.01, 0.5), epochs=1)
    assert [score.metric for score in scores] == ["accuracy@1%", "accuracy@50%"]
    labels = data[0].subset(range(60)).labels
    count = torch.bincount(labels)
    assert scores[0].detail["labels"] == int((count > 0).sum())
    assert scores[1].detail["labels"] == sum(max(round(0.5 * int(c)), 1) for c in count if c)
