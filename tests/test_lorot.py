"""LoRot's squares and quadrants, against numpy's rot90; its losses for long tails, against loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from pretask.data.batch import to_float
from pretask.errors import UsageError
from pretask.methods.image.lorot import LoRot
from pretask.objectives.long_tail import (
    NormedLinear,
    divergence_from_uniform,
    effective_weights,
    focal,
    ldam,
    long_tail_counts,
)
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


def surprise(logits: list[float], true: int) -> float:
    return math.log(sum(math.exp(value) for value in logits)) - logits[true]


def drawn(count: int = 7, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.rand(count, classes, generator=generator, dtype=torch.float64) - 1
    return logits, torch.arange(count) % classes


@pytest.mark.parametrize("weighted", [False, True])
def test_ldam_is_a_weighted_mean_of_scaled_margins(weighted):
    cosines, label = drawn()
    count = [100, 16, 1, 50]
    weight = [0.5, 1.0, 2.0, 0.5] if weighted else [1.0] * 4
    margins = [0.5 * n**-0.25 / 1**-0.25 for n in count]  # the rarest class, of one, has the largest: 0.5
    total = below = 0.0
    for row, true in enumerate(label.tolist()):
        logits = [30 * (value - margins[true] * (k == true)) for k, value in enumerate(cosines[row].tolist())]
        total, below = total + weight[true] * surprise(logits, true), below + weight[true]
    found = ldam(cosines, label, torch.tensor(count), torch.tensor(weight) if weighted else None)
    assert found.item() == pytest.approx(total / below, rel=1e-9)
    assert ldam(cosines, label, torch.tensor([100, 16, 0, 50])).isfinite()


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_is_a_plain_mean_of_weighted_terms(gamma):
    logits, label = drawn()
    weight, total = [0.5, 1.0, 2.0, 0.5], 0.0
    for row, true in enumerate(label.tolist()):
        own = weight[true] * surprise(logits[row].tolist(), true)
        total += (1 - math.exp(-own)) ** gamma * own
    found = focal(logits, label, torch.tensor(weight), gamma)  # as effective_weights gives them
    assert found.item() == pytest.approx(total / len(label), rel=1e-9)


def test_weights_by_effective_numbers_and_the_tail():
    count = [5000, 400, 1]
    raw = [(1 - 0.9999) / (1 - 0.9999**n) for n in count]
    found = effective_weights(torch.tensor(count))
    assert found.tolist() == pytest.approx([3 * value / sum(raw) for value in raw], rel=1e-5)
    assert effective_weights(torch.tensor(count), beta=0.0).tolist() == [1, 1, 1]
    assert effective_weights(torch.tensor([10, 0]))[1] == 0
    assert long_tail_counts(5000, 10, 0.01) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def test_the_divergence_from_uniform_is_in_bits_and_orders_as_confidence():
    logits, _ = drawn()
    for row, values in enumerate(logits.tolist()):
        p = [math.exp(value) / sum(map(math.exp, values)) for value in values]
        expected = sum(0.25 * math.log2(0.25 / share) for share in p)
        assert divergence_from_uniform(logits)[row].item() == pytest.approx(expected, rel=1e-9)
    assert divergence_from_uniform(torch.zeros(1, 4)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("class_loss", ["ldam", "focal"])
def test_long_tails_are_learned_by_their_own_losses(class_loss):
    task, batch, seen = make(class_loss=class_loss, reweight_from=0.8), tiny.images(8), []
    label = batch["label"]
    count = torch.bincount(tiny.images(16)["label"], minlength=int(tiny.images(16)["label"].max()) + 1)
    assert torch.equal(task.count, count)
    task.encoder.register_forward_hook(lambda module, given, out: seen.append(out.pooled))
    for index in (7, 8):  # of 10: weights come from 0.8 of the run on
        losses = task.loss(batch, Step.at(index, 10))
        weight = effective_weights(count) if index == 8 else None
        _, _, answer = task.puzzle(batch, Step.at(index, 10))
        x = seen[-1]
        if class_loss == "ldam":
            cosine = [
                torch.stack([F.cosine_similarity(x, row[None], dim=1) for row in layer.weight], 1)
                for layer in (task.classifier, task.head)
            ]
            expected, turn = ldam(cosine[0], label, count, weight), F.cross_entropy(cosine[1], answer)
        else:
            expected, turn = focal(task.classifier(x), label, weight), F.cross_entropy(task.head(x), answer)
        assert losses["classes"].item() == pytest.approx(expected.item(), rel=1e-4)
        assert losses["rotation"].item() == pytest.approx(turn.item(), rel=1e-4)
    again = LoRot(tiny.encoder("grid"), class_loss=class_loss)
    again.load_state_dict(task.state_dict())
    assert torch.equal(again.count, count)


def test_recipe_and_refusal():
    recipe = LoRot.recipe
    assert (recipe.optimizer, recipe.lr, recipe.betas, recipe.weight_decay) == ("adam", 1e-3, (0.5, 0.999), 0)
    assert recipe.schedule == "steps" and [drop * recipe.epochs for drop in recipe.drops] == [50]
    with pytest.raises(UsageError, match="class_loss"):
        make(reweight_from=0.8)
    assert NormedLinear(6, 4).weight.norm(dim=1).tolist() == pytest.approx([1.0] * 4)
