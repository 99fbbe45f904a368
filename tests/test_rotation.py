"""Rotation prediction against numpy's rot90."""

import math

import numpy as np
import pytest
import torch

from pretask.encoders import build_encoder
from pretask.methods.image.rotation import Rotation
from pretask.pretexts.rotation import all_rotations
from pretask.task import Step


def encoder(image_size: int = 24, in_chans: int = 3):
    return build_encoder("resnet10t", image_size=image_size, in_chans=in_chans, seed=0)


def batch(count: int = 3, chans: int = 3, side: int = 30) -> dict:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randint(0, 256, (count, chans, side, side), dtype=torch.uint8, generator=generator)
    }


def test_turns_are_numpys_counter_clockwise_ones():
    image = torch.rand(2, 3, 7, 7)
    turned, labels = all_rotations(image)
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    for sample in range(2):
        for turns in range(4):
            expected = np.rot90(image[sample].permute(1, 2, 0).numpy(), turns).transpose(2, 0, 1)
            assert (turned[4 * sample + turns].numpy() == expected).all()


def test_one_crop_of_a_picture_is_turned_four_times():
    turned, _ = Rotation(encoder()).puzzle(batch(), Step.at(0))
    assert turned.shape == (12, 3, 24, 24)
    for sample in range(3):
        for turns in range(4):
            assert torch.equal(turned[4 * sample + turns], turned[4 * sample].rot90(turns, (-2, -1)))


def test_loss_is_the_cross_entropy_of_the_turn():
    task = Rotation(encoder())
    step = Step.at(1)
    loss = task.loss(batch(), step)["rotation"]
    turned, turns = task.puzzle(batch(), Step.at(1))
    logits = task.head(task.encoder(turned).pooled).detach().double().numpy()
    rows = [
        math.log(sum(math.exp(x) for x in row)) - row[turn] for row, turn in zip(logits, turns, strict=True)
    ]
    assert float(loss.detach()) == pytest.approx(sum(rows) / 12, abs=1e-5)
    right = (logits.argmax(1) == turns.numpy()).mean()
    assert float(step.metrics["accuracy"]) == pytest.approx(right)
    assert task.chance(3)["rotation"] == pytest.approx(math.log(4))


def test_jitter_of_nothing_leaves_colours_alone():
    image = torch.full((2, 3, 30, 30), 0.25)
    turned, _ = Rotation(encoder(), jitter=0.0).puzzle({"image": image}, Step.at(0))
    torch.testing.assert_close(turned, torch.full_like(turned, 0.25))
    turned, _ = Rotation(encoder(), jitter=0.4).puzzle({"image": image}, Step.at(1))
    assert (turned - 0.25).abs().max() > 0.01


def test_preview_turns_truth_and_answer_back():
    task = Rotation(encoder()).eval()
    turned, turns = task.puzzle(batch(), Step.at(0))
    rows = task.preview(batch(), Step.at(0)).rows
    assert len(rows) == 12
    for row, picture, turn in zip(rows, turned, turns, strict=True):
        assert torch.equal(row[0].content, picture)
        assert torch.equal(row[1].content.rot90(int(turn), (-2, -1)), picture)


def test_question_has_four_items_a_picture():
    question = Rotation(encoder()).question(batch(), Step.at(0))
    assert question.source.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert question.answer.tolist() == [0, 1, 2, 3] * 3


@pytest.mark.parametrize(("chans", "side"), [(1, 21), (3, 33), (5, 40)])
def test_channels_and_odd_sizes(chans, side):
    task = Rotation(encoder(side, chans))
    loss = task.loss(batch(2, chans), Step.at(0))["rotation"]
    loss.backward()
    assert loss.isfinite()
    assert not [name for name, p in task.named_parameters() if p.grad is None]


def test_autocast_to_bfloat16():
    task = Rotation(encoder())
    with torch.autocast("cpu", torch.bfloat16):
        low = task.loss(batch(), Step.at(0))["rotation"]
    low.backward()
    torch.testing.assert_close(low, task.loss(batch(), Step.at(0))["rotation"], atol=0.1, rtol=0.05)
