"""Fréchet distance, precision and recall against loops; what a denoiser is judged by."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from pretask.data import Dataset, open_data
from pretask.encoders import build_encoder
from pretask.encoders.denoiser import Denoiser
from pretask.errors import UsageError
from pretask.evaluation import denoising as looking
from pretask.evaluation import generation
from pretask.evaluation.denoising import band_errors, band_levels, found_again, levels, pictures
from pretask.evaluation.generation import as_dataset, covered, draw, frechet, judge_of, samples
from pretask.evaluation.protocols import evaluate
from pretask.pretexts.diffusion import linear_betas, make_schedule


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return open_data("digits", limit=400)


@pytest.fixture
def quick(monkeypatch):
    """A judge that learns nothing, and few levels."""
    monkeypatch.setattr(generation, "EPOCHS", 1)
    monkeypatch.setattr(generation, "LEARNED_FROM", 32)
    monkeypatch.setattr(generation, "JUDGE", "resnet10t:stem_width=8,channels=[8,8,16,16]")
    monkeypatch.setattr(looking, "LOOKED_AT", 2)
    generation.judge_of.cache_clear()
    yield
    generation.judge_of.cache_clear()


def denoiser(dataset: Dataset, name: str = "unet:width=8,mults=[1,2],levels=100") -> Denoiser:
    return build_encoder(name, seed=0, **dataset.inputs)


# ---- distances of distributions


def test_frechet_is_its_formula():
    x, y = normal(300, 6) @ normal(6, 6, seed=1), normal(200, 6, seed=2) @ normal(6, 6, seed=3) + 1
    a, b = x.double().numpy(), y.double().numpy()
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    product = scipy.linalg.sqrtm(s @ t).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * product)
    assert frechet(x, y) == pytest.approx(expected, rel=1e-6)
    assert frechet(y, x) == pytest.approx(expected, rel=1e-6)
    assert frechet(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet(x, x + 2) == pytest.approx(6 * 4, rel=1e-6)


def test_fewer_samples_than_dimensions():
    x, y = normal(10, 40), normal(12, 40, seed=1)
    assert math.isfinite(frechet(x, y)) and frechet(x, x) == pytest.approx(0, abs=1e-5)


def test_precision_and_recall_are_counted(monkeypatch):
    monkeypatch.setattr(generation, "ROWS", 7)
    x, y = normal(31, 3), normal(23, 3, seed=1) * 1.5 + 0.5

    def naive(points, by) -> list[bool]:
        reach = [sorted(math.dist(p, q) for q in by)[3] for p in by]  # the nearest is itself
        return [any(math.dist(p, q) <= r for q, r in zip(by, reach, strict=True)) for p in points]

    assert covered(x, y).tolist() == naive(x.tolist(), y.tolist())
    assert covered(y, x).tolist() == naive(y.tolist(), x.tolist())
    assert covered(x, x).all() and not covered(x + 100, x).any()


# ---- drawing


def test_drawn_pictures_are_pictures_and_depend_on_the_seed_alone(digits):
    made = denoiser(digits).train()
    torch.manual_seed(0)
    first = draw(made, 5, steps=4, seed=1, batch_size=2)
    torch.manual_seed(1)
    assert torch.equal(draw(made, 5, steps=4, seed=1, batch_size=2), first)
    assert not torch.equal(draw(made, 5, steps=4, seed=2), first)
    assert first.shape == (5, 1, 16, 16) and first.min() >= 0 and first.max() <= 1 and made.training


def test_samples_compares_with_as_many_real_pictures(digits, quick):
    train, test = digits.split("train"), digits.split("test").subset(range(40))
    made = denoiser(digits)
    scores = {score.metric: score for score in samples(made, train, test, steps=3)}
    assert set(scores) == {"frechet", "precision", "recall"} and scores["frechet"].n == 40
    assert scores["frechet"].value > 5 * scores["frechet"].detail["real"] > 0
    assert scores["precision"].value < 0.5 and len(scores["recall"].items) == 40
    assert scores["frechet"].detail["judge"] == "a classifier of the training data"


def test_real_pictures_draw_level_with_real_pictures(digits, quick, monkeypatch):
    """If the model drew training pictures, the distance would be that of training pictures."""
    train, test = digits.split("train"), digits.split("test").subset(range(60))
    real = train.batch(torch.linspace(0, len(train) - 1, 60).long())["image"].float() / 255
    monkeypatch.setattr(generation, "draw", lambda *args, **kwargs: real)
    scores = {score.metric: score for score in samples(denoiser(digits), train, test)}
    assert scores["frechet"].value == pytest.approx(scores["frechet"].detail["real"], rel=1e-3)
    assert scores["precision"].value > 0.6 and scores["recall"].value > 0.6


def test_without_labels_the_judge_is_untrained(quick):
    photos = open_data("photos", limit=20, image_size=16)
    judge = judge_of(photos, 0)
    again = build_encoder(generation.JUDGE, seed=0, **photos.inputs)
    assert all(torch.equal(a, b) for a, b in zip(judge.parameters(), again.parameters(), strict=True))


def test_what_does_not_draw_is_refused(digits):
    encoder = build_encoder("resnet10t:stem_width=8,channels=[8,8,16,16]", seed=0, **digits.inputs)
    for protocol in ("samples", "denoising", "levels"):
        with pytest.raises(UsageError, match="denoiser"):
            evaluate(encoder, digits.subset(range(20)), digits.subset(range(20)), [protocol])
    with pytest.raises(UsageError, match="too few"):
        samples(denoiser(digits), digits.subset(range(3)), digits.subset(range(3)))


def test_pictures_survive_being_made_a_data_set(digits):
    image = torch.rand(3, 1, 16, 16)
    again = as_dataset(image, digits).batch([2, 0])
    assert torch.equal(again["image"], image[[2, 0]]) and again["size"].tolist() == [[16, 16]] * 2


# ---- level by level


def test_levels_of_a_band_lie_in_the_middles_of_its_parts():
    found = band_levels(make_schedule(linear_betas(1000)).snr, 2)
    assert found == {
        "coarse": [674 + 81, 674 + 244],
        "content": [259 + 103, 259 + 311],
        "clean-up": [64, 194],
    }


def test_errors_are_those_of_the_guessed_noise(digits):
    made = denoiser(digits).eval()
    made.requires_grad_(False)
    clean = pictures(made, digits, 30)
    assert clean.shape == (30, 1, 16, 16) and clean.min() == -1 and clean.max() > 0.9
    nothing = band_errors(made, clean, torch.Generator().manual_seed(0))
    assert set(nothing) == {"coarse", "content", "clean-up"}
    for items in nothing.values():
        assert len(items) == 30 and float(items.mean()) == pytest.approx(1, abs=0.1), (
            "no guess misses all of it"
        )
    schedule = make_schedule(made.betas)

    def perfect(noisy, level):
        signal, noise = (table[level].view(-1, 1, 1, 1) for table in (schedule.signal, schedule.noise))
        return (noisy - signal * clean) / noise, None

    made.predict = perfect
    for items in band_errors(made, clean, torch.Generator().manual_seed(0)).values():
        assert items.max() < 1e-4
    for level in (5, 60, 99):
        again = found_again(made, clean, level, 10, torch.Generator().manual_seed(0))
        torch.testing.assert_close(again, clean / 2 + 0.5, rtol=1e-3, atol=2e-3)


def test_under_little_noise_a_picture_survives(digits, quick):
    train, test = digits.split("train"), digits.split("test")
    found = looking.denoising(denoiser(digits), train, test, count=20, rebuilt=12, steps=4)
    scores = {score.metric: score for score in found}
    assert set(scores) == {
        f"{what} {band}" for what in ("error", "kept", "shared") for band in ("coarse", "content", "clean-up")
    }
    assert scores["kept clean-up"].value > scores["kept coarse"].value
    for band in ("coarse", "content", "clean-up"):
        assert len(scores[f"kept {band}"].items) == 12 and -1 <= scores[f"shared {band}"].value <= 1
    assert scores["shared clean-up"].detail["two pictures"] < 1


def test_features_are_read_at_each_level(digits):
    made = denoiser(digits)
    train, test = digits.split("train"), digits.split("test").subset(range(50))
    found = levels(made, train, test, probed=(10, 900))
    assert [score.metric for score in found] == ["accuracy@10", "accuracy@900"]
    assert [score.detail["level"] for score in found] == [1, 90], "of 100 levels"
    assert found[0].value > found[1].value + 0.1
    again = levels(made, train, test, probed=(10, 900))
    assert [score.value for score in again] == [score.value for score in found]
