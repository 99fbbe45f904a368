"""Jigsaw and relative location: what the head is shown, and what is standardised away."""

import math

import pytest
import torch
import torch.nn.functional as F

import tiny
from pretask.methods.image.exemplar import Exemplar
from pretask.methods.image.jigsaw import Jigsaw
from pretask.methods.image.relative_location import MIDDLE, RelativeLocation
from pretask.methods.image.rotation import Rotation
from pretask.pretexts.permutation import far_apart
from pretask.task import Step
from pretask.training.optimisers import make_optimiser, set_rates
from pretask.training.plan import Plan


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
    patches[0, 1] = 0.5 + 0.003 * patches[0, 1]  # less than a byte apart
    patches[0, 2] = 0.5 + 1e-5 * patches[0, 2]
    task.shown = task.patch
    task.embedded(patches)
    given = (seen[0] - task.encoder.mean) / task.encoder.std
    assert given[0].abs().max() < 1e-5
    for n in range(1, 9):
        x = patches[0, n]
        x = 255 * x.double()  # the official code standardises bytes
        expected = (x - x.mean()) / max(float(x.var(correction=0)) ** 0.5, x.numel() ** -0.5)
        assert torch.allclose(given[n].double(), expected, atol=1e-2 if n == 2 else 1e-3)


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


def test_pictures_are_squashed_and_patches_lie_anywhere_in_their_cells():
    """292 pixels of whatever picture, 255 of them in cells of 85, 64 of these from places 0 .. 21."""
    torch.manual_seed(0)
    task = Jigsaw(tiny.encoder("grid", side=224), embedding_dim=6)
    assert (task.whole, task.crop, task.cell, task.patch) == (292, 255, 85, 64)
    ramp = torch.linspace(0, 1, 292).expand(60, 1, 292, 292)
    image = torch.cat([ramp, ramp.transpose(2, 3), ramp], dim=1)
    task.grey = 0.0
    patches = task.patches({"image": image, "size": torch.tensor([[146, 292]] * 60)}, Step.at())
    left = (
        patches[:, :, 0, 0, 0].mul(291).round().long()
    )  # of the picture: where the crop begins, and the patch
    top = patches[:, :, 1, 0, 0].mul(291).round().long()
    for place in (left, top.view(60, 3, 3).transpose(1, 2).flatten(1)):
        of_cell = place.view(60, 3, 3)[:, :, 0]  # first column
        assert of_cell.min() <= 3 and 50 <= of_cell.max() <= 37 + 21
    apart = (left.view(60, 3, 3) - left.view(60, 3, 3).roll(1, 2))[:, :, 1:] - 85
    assert apart.min() < -15 and apart.max() > 15 and apart.abs().max() <= 21


def test_the_places_of_a_patch_include_the_last(monkeypatch):
    task, asked = make(Jigsaw), []
    from pretask.methods.image import patch_puzzle

    monkeypatch.setattr(
        patch_puzzle,
        "draw_jitter",
        lambda n, side, free, g: asked.append(free) or torch.zeros(n, 2, 3, 3).long(),
    )
    task.patches(tiny.images(2), Step.at())
    assert asked == [task.cell - task.patch + 1]


@pytest.mark.parametrize("cls", [Jigsaw, RelativeLocation])
def test_what_is_only_looked_at_is_the_middle_of_every_cell(cls):
    """Of 292 pixels the middle 255 from 18 on, of each 85 the middle 64 from 10 on."""
    torch.manual_seed(0)
    task = cls(tiny.encoder("grid", side=224), embedding_dim=6, grey=0.0).eval()
    image = torch.rand(2, 3, 292, 292, generator=torch.Generator().manual_seed(0))
    patches = task.patches({"image": image}, Step.at(3))
    for number in range(9):
        row, column = divmod(number, 3)
        top, left = 18 + 85 * row + 10, 18 + 85 * column + 10
        expected = image[:, :, top : top + 64, left : left + 64]
        torch.testing.assert_close(patches[:, number], expected, atol=1e-4, rtol=0)
    assert not torch.equal(task.train().patches({"image": image}, Step.at(3)), patches)


def test_running_statistics_of_the_head_take_three_thousandths_of_what_is_new():
    task = make(RelativeLocation)
    x = torch.randn(16, 12, generator=torch.Generator().manual_seed(0))
    task.hidden(x)
    linear, norm, _ = task.hidden
    torch.testing.assert_close(norm.running_mean, 0.003 * linear(x).mean(0), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("cls", [Jigsaw, RelativeLocation, Rotation, Exemplar])
def test_the_rate_falls_to_a_tenth_at_epochs_15_and_25_of_35(cls):
    schedule = Plan(cls.recipe, 256, 350, 10).schedule(cls.recipe)
    found = [schedule.shape(epoch * 10) for epoch in (0, 2, 5, 14, 15, 24, 25, 34)]
    assert found == pytest.approx([0, 0.4, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert schedule.peak == pytest.approx(0.1)


@pytest.mark.parametrize("cls", [Jigsaw, RelativeLocation])
def test_the_head_decays_five_times_as_fast(cls):
    task = make(cls)
    schedule = Plan(cls.recipe, 256, 350, 10).schedule(cls.recipe)
    optimiser = make_optimiser(task.named_parameters(), schedule, task.encoder)
    set_rates(optimiser, schedule, 7)
    found = {n: g["weight_decay"] for g in optimiser.param_groups for n in g["names"]}
    head = {"hidden.0.weight", "head.weight"}
    assert {name for name, value in found.items() if value == 5e-4} == head
    assert found["embed.weight"] == 1e-4 and found["hidden.0.bias"] == found["hidden.1.weight"] == 0.0


def test_the_head_starts_as_the_official_one():
    task = make(RelativeLocation)
    for layer, bias in ((task.hidden[0], 0.1), (task.head, 0.0)):
        assert layer.weight.abs().max() <= 0.01 and layer.bias.eq(bias).all()
