"""LoRot's squares and quadrants, against numpy's rot90."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from pretask.data.batch import to_float
from pretask.errors import UsageError
from pretask.methods.image.lorot import LoRot
from pretask.pretexts.local_rotation import Square, draw_square, turn_quadrants, turn_square
from pretask.task import Step


def make(**options):
    torch.manual_seed(0)
    task = LoRot(tiny.encoder("grid"), **options)
    task.prepare([tiny.images(16)], 16)
    return task


def test_a_square_is_turned_where_it_is():
    image = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    turns = torch.tensor([0, 1, 2, 3])
    out = turn_square(image, Square(2, 5, 6), turns)
    for n in range(4):
        expected = image[n].numpy().copy()
        expected[:, 2:8, 5:11] = np.rot90(expected[:, 2:8, 5:11], n, (1, 2))
        assert np.array_equal(out[n].numpy(), expected)


def test_a_quadrant_of_each_picture_is_turned():
    image = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    quadrant, turns = torch.arange(16) // 4, torch.arange(16) % 4
    out = turn_quadrants(image, quadrant, turns)
    for n in range(16):
        expected = image[n].numpy().copy()
        r, c = n // 4 // 2 * 4, n // 4 % 2 * 4
        expected[:, r : r + 4, c : c + 4] = np.rot90(expected[:, r : r + 4, c : c + 4], n % 4, (1, 2))
        assert np.array_equal(out[n].numpy(), expected)


def test_squares_are_small_and_keep_off_two_borders():
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_square(32, generator) for _ in range(2000)]
    assert {square.side for square in drawn} == set(range(2, 17))
    assert all(0 <= square.top <= 31 - square.side for square in drawn)
    assert max(square.left + square.side for square in drawn) == 31


@pytest.mark.parametrize(("where", "answers"), [("implicit", 4), ("explicit", 16)])
def test_both_heads_read_the_same_turned_picture(where, answers):
    task, seen = make(where=where), []
    task.encoder.register_forward_hook(lambda module, given, out: seen.append(out.pooled))
    losses = task.loss(tiny.images(8), Step.at(1))
    assert len(seen) == 1 and task.head.out_features == answers
    turned, image, answer = task.puzzle(tiny.images(8), Step.at(1))
    label = tiny.images(8)["label"]
    assert losses["classes"].item() == pytest.approx(F.cross_entropy(task.classifier(seen[0]), label).item())
    assert losses["rotation"].item() == pytest.approx(F.cross_entropy(task.head(seen[0]), answer).item())
    still = answer % 4 == 0
    assert torch.equal(turned[still], image[still]) and not torch.equal(turned[~still], image[~still])


def test_it_must_know_the_classes():
    task = LoRot(tiny.encoder("grid"))
    with pytest.raises(UsageError, match="prepare"):
        task.loss(tiny.images(4), Step.at())
    with pytest.raises(UsageError, match="no labels"):
        task.prepare([{"image": tiny.images(4)["image"]}], 4)
    assert make().classifier.out_features == int(tiny.images(16)["label"].max()) + 1


def test_small_pictures_are_moved_by_an_eighth_and_mirrored():
    """RandomCrop(32, padding=4) and a flip, as the official code has them."""
    task, batch = make(), tiny.images(40)
    side = task.encoder.image_size
    assert task.border == round(side / 8) and make(crop_scale=(0.6, 1.0)).border == 0
    image = to_float(batch["image"])
    moved = task.augmented({"image": batch["image"]}, Step.at(0))
    padded, seen = F.pad(image, (task.border,) * 4), set()
    for n in range(len(moved)):
        found = [
            (down, right, flip)
            for down in range(2 * task.border + 1)
            for right in range(2 * task.border + 1)
            for flip in (False, True)
            if torch.equal(turned(padded[n, :, down : down + side, right : right + side], flip), moved[n])
        ]
        assert found
        seen |= set(found)
    assert {flip for *_, flip in seen} == {False, True} and len(seen) > 10


def turned(picture, flip):
    return picture.flip(2) if flip else picture
