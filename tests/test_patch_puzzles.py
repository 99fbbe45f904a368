"""Jigsaw and relative location: what the head is shown, and what is standardised away."""

import math

import pytest
import torch
import torch.nn.functional as F

import tiny
from pretask.methods.image.jigsaw import Jigsaw
from pretask.methods.image.relative_location import MIDDLE, RelativeLocation
from pretask.pretexts.permutation import far_apart
from pretask.task import Step


def make(cls, **options):
    torch.manual_seed(0)
    return cls(tiny.encoder("grid"), **{"embedding_dim": 6, "dropout": 0.0} | options)


def test_patches_do_not_betray_their_brightness_and_contrast():
    task = make(Jigsaw).eval()
    patches = torch.rand(2, 9, 3, task.patch, task.patch, generator=torch.Generator().manual_seed(0))
    changed = patches * torch.linspace(0.3, 0.9, 9).view(1, 9, 1, 1, 1) + 0.05
    assert torch.allclose(task.embedded(patches), task.embedded(changed), atol=1e-4)


def test_standardising_is_tensorflows():
    task, seen = make(Jigsaw).eval(), []
    task.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    patches = torch.rand(1, 9, 3, task.patch, task.patch, generator=torch.Generator().manual_seed(0))
    patches[0, 0] = 0.5  # flat: the deviation is bounded below
    task.shown = task.patch
    task.embedded(patches)
    given = (seen[0] - task.encoder.mean) / task.encoder.std
    assert given[0].abs().max() < 1e-5
    for n in range(1, 9):
        x = patches[0, n]
        expected = (x - x.mean()) / max(float(x.var(correction=0)) ** 0.5, x.numel() ** -0.5)
        assert torch.allclose(given[n], expected, atol=1e-4)


@pytest.mark.parametrize("cls", [Jigsaw, RelativeLocation])
def test_the_head_sees_embeddings_in_every_order_asked(cls):
    task, step = make(cls), Step.at(3)
    loss = task.loss(tiny.images(4), step)["order"]
    again = Step.at(3)
    embedded, asked = make(cls).embedded(task.patches(tiny.images(4), again)), task.asked(again)
    rows, truth = [], []
    for n in range(4):
        for number in asked.tolist():
            rows.append(torch.cat([embedded[n, place] for place in task.orders[number].tolist()]))
            truth.append(number)
    logits = make(cls).head(make(cls).hidden(torch.stack(rows)))
    assert loss.item() == pytest.approx(F.cross_entropy(logits, torch.tensor(truth)).item(), rel=1e-4)


def test_eight_of_a_hundred_permutations_are_asked_and_all_when_looked_at():
    task = make(Jigsaw)
    assert torch.equal(task.orders, far_apart(9, 100))
    first, second = task.asked(Step.at(0)), task.asked(Step.at(1))
    assert len(set(first.tolist())) == 8 and not torch.equal(first, second)
    assert len(task.eval().asked(Step.at(0))) == 100
    assert task.chance(4)["order"] == pytest.approx(math.log(100))


def test_pairs_are_a_neighbour_and_the_middle():
    task = make(RelativeLocation)
    assert task.orders.tolist() == [[place, MIDDLE] for place in (0, 1, 2, 3, 5, 6, 7, 8)]


def test_two_thirds_of_the_pictures_are_grey():
    task = make(RelativeLocation)
    batch = {"image": torch.rand(300, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    patches = task.patches(batch, Step.at())
    grey = (patches[:, :, 0] - patches[:, :, 1]).abs().amax((1, 2, 3)) < 1e-6
    assert 0.58 < grey.float().mean() < 0.74


def test_dropout_comes_from_the_step():
    task = make(RelativeLocation, dropout=0.5)
    losses = [task.loss(tiny.images(4), Step.at(seed=seed))["order"].item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
