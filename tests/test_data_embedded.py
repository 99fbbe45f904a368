"""The data sets that ship inside dependencies."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from pretask.data import EMBEDDED, open_data
from pretask.data import embedded as embedded_module


@pytest.fixture(scope="module")
def whole():
    return open_data("digits-on-textures")


def pixels(part) -> tuple[np.ndarray, np.ndarray]:
    batch = part.batch(range(len(part)))
    return batch["image"].flatten(1).numpy() / 255, batch["label"].numpy()


def test_every_name_opens_without_a_network(monkeypatch):
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("no network may be needed"))
    for name in EMBEDDED:
        dataset = open_data(name, limit=20)
        assert len(dataset) == 20 and dataset.batch([0])["image"].dtype == torch.uint8


def test_digits_on_textures_is_split_and_balanced(whole):
    train, test = whole.split("train"), whole.split("test")
    assert (len(train), len(test), whole.channels, whole.image_size) == (6000, 2000, 3, 32)
    assert len(whole.classes) == 10
    for part in (train, test):
        counts = torch.bincount(part.labels).float()
        assert counts.min() > 0.08 * len(part) and counts.max() < 0.12 * len(part)


def test_it_is_the_same_every_time(whole):
    again = open_data("digits-on-textures")
    assert torch.equal(again.batch(range(100))["image"], whole.batch(range(100))["image"])


def test_raw_pixels_do_badly_and_labels_are_true(whole):
    (train, labels), (test, answers) = pixels(whole.split("train")), pixels(whole.split("test"))
    raw = KNeighborsClassifier(5).fit(train, labels).score(test, answers)
    assert 0.12 < raw < 0.45
    digits = open_data("digits")
    (train, labels), (test, answers) = pixels(digits.split("train")), pixels(digits.split("test"))
    assert KNeighborsClassifier(5).fit(train, labels).score(test, answers) > 0.95


def test_no_test_picture_shows_a_digit_of_a_training_picture(monkeypatch):
    shown = []
    placed = embedded_module.placed
    monkeypatch.setattr(
        embedded_module, "placed", lambda digits, *rest: shown.append(digits) or placed(digits, *rest)
    )
    embedded_module.digits_on_textures()
    train, test = ({tuple(digit.flatten().tolist()) for digit in part} for part in shown)
    assert len(train) > 1300 and len(test) > 400 and not train & test


def test_placed_digits_lie_whole_on_the_canvas():
    ink = torch.zeros(200, 8, 8)
    ink[:, 1:7, 2:6] = 1
    shown = embedded_module.placed(ink, 32, np.random.default_rng(0))
    assert (shown.amax((1, 2, 3)) > 0.9).all()
    share = shown.sum((1, 2, 3)) / 32**2  # 24 of 64 cells, at 0.5 to 0.8 of the side
    assert (share > 0.8 * 24 / 64 * 0.25).all() and (share < 1.2 * 24 / 64 * 0.64).all()
    centre = (shown[:, 0].sum(1) * torch.arange(32)).sum(1) / shown.sum((1, 2, 3))
    assert centre.std() > 2  # at different places


def test_photos_are_unlabelled():
    photos = open_data("photos")
    assert photos.labels is None and len(photos) == 2000 and photos.image_size == 64
