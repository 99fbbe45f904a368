"""SimCLR against equation 1 of the paper."""

import math

import numpy as np
import pytest
import torch

from pretask.encoders import build_encoder
from pretask.methods.image.simclr import SimCLR
from pretask.pretexts.views import ViewSpec
from pretask.task import Step

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=64,num_heads=2"


def encoder(name: str = "resnet10t", image_size: int = 32, in_chans: int = 3):
    return build_encoder(name, image_size=image_size, in_chans=in_chans, seed=0)


def batch(count: int = 6, chans: int = 3, side: int = 40) -> dict:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (count, chans, side, side), dtype=torch.uint8, generator=generator)
    return {"image": image, "size": torch.tensor([[60, 45]] * count)}


def naive_nt_xent(z: np.ndarray, temperature: float) -> float:
    """2N views, partners N apart; the sum over pairs of l(i, j) + l(j, i), divided by 2N."""
    total, count = 0.0, len(z)
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    for i in range(count):
        partner = (i + count // 2) % count
        others = sum(math.exp(z[i] @ z[k] / temperature) for k in range(count) if k != i)
        total -= math.log(math.exp(z[i] @ z[partner] / temperature) / others)
    return total / count


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_is_the_papers(temperature):
    task = SimCLR(encoder(), temperature=temperature)
    loss = task.loss(batch(), Step.at(2))["nt_xent"]
    h = task.encoder(task.views(batch(), Step.at(2))).pooled
    layers = task.projector
    x = torch.nn.functional.linear(h, layers[0].weight, layers[0].bias)
    x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
    x = x.clamp(min=0) @ layers[3].weight.T
    x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
    expected = naive_nt_xent(x.detach().double().numpy(), temperature)
    assert float(loss.detach()) == pytest.approx(expected, abs=2e-4)


def test_the_two_views_are_drawn_apart_and_again_at_each_step():
    task = SimCLR(encoder())
    views = task.views(batch(), Step.at(0))
    assert views.shape == (12, 3, 32, 32) and not torch.equal(views[:6], views[6:])
    assert torch.equal(views, task.views(batch(), Step.at(0)))
    assert not torch.equal(views, task.views(batch(), Step.at(1)))


def test_both_views_are_of_the_same_picture():
    task = SimCLR(encoder())
    task.first = task.second = ViewSpec(32)
    flat = torch.arange(6).div(5).view(6, 1, 1, 1).expand(-1, 3, 40, 40)
    views = task.views({"image": flat}, Step.at(0))
    torch.testing.assert_close(views.mean((1, 2, 3)), torch.arange(6).div(5).repeat(2))


def test_both_views_go_through_the_encoder_at_once():
    task, seen = SimCLR(encoder()), []
    task.encoder.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    task.loss(batch(), Step.at(0))
    assert seen == [12]


def test_gradients_reach_all_weights():
    task = SimCLR(encoder())
    task.loss(batch(), Step.at(0))["nt_xent"].backward()
    learned = {name: p.grad for name, p in task.named_parameters() if p.requires_grad}
    assert not [name for name, grad in learned.items() if grad is None or not grad.isfinite().all()]
    assert task.encoder.model.conv1[0].weight.grad.any()


def test_chance_counts_the_pictures_of_the_joined_batch():
    assert SimCLR(encoder()).chance(256)["nt_xent"] == pytest.approx(math.log(511))
    z = np.random.default_rng(0).normal(size=(64, 4000))  # all but orthogonal: every view looks alike
    assert naive_nt_xent(z, 1.0) == pytest.approx(SimCLR(encoder()).chance(32)["nt_xent"], abs=0.05)


def test_defaults_follow_the_picture_and_the_encoder():
    small, large = SimCLR(encoder()), SimCLR(encoder(image_size=96))
    assert (small.temperature, large.temperature) == (0.5, 0.1)  # CIFAR-10's and ImageNet's best
    assert (small.first.blur, large.first.blur) == (0.0, 0.5)
    assert small.projector[0].out_features == small.encoder.dim
    assert small.projector[3].out_features == 128
    assert small.recipe.optimizer == "lars" and SimCLR(encoder(VIT)).recipe.optimizer == "adamw"
    assert SimCLR(encoder(), hidden_dim=33, projection_dim=7).projector[3].weight.shape == (7, 33)


@pytest.mark.parametrize(
    ("chans", "side", "name"), [(1, 30, "resnet10t"), (5, 36, VIT), (3, 44, "resnet10t")]
)
def test_channels_odd_sizes_and_encoders(chans, side, name):
    if name == VIT:
        task = SimCLR(build_encoder(name, image_size=side, in_chans=chans, patch_size=6))
    else:
        task = SimCLR(encoder(name, side, chans))
    loss = task.loss(batch(4, chans, 41), Step.at(0))["nt_xent"]
    loss.backward()
    assert loss.isfinite()


def test_autocast_to_bfloat16():
    task = SimCLR(encoder())
    with torch.autocast("cpu", torch.bfloat16):
        low = task.loss(batch(), Step.at(0))["nt_xent"]
    low.backward()
    full = task.loss(batch(), Step.at(0))["nt_xent"]
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, full, atol=0.1, rtol=0.05)


def test_preview_shows_a_pair_and_the_answer():
    task = SimCLR(encoder()).eval()
    sheet = task.preview(batch(), Step.at(0))
    assert len(sheet.rows) == 6
    first, second = task.views(batch(), Step.at(0)).chunk(2)
    for row, (view, partner, answer) in enumerate(sheet.rows):
        assert torch.equal(view.content, first[row]) and torch.equal(partner.content, second[row])
        assert (partner.role, answer.role) == ("truth", "answer")
        assert any(torch.equal(answer.content, candidate) for candidate in second)


def test_question_names_each_views_picture():
    question = SimCLR(encoder()).question(batch(5), Step.at(0))
    assert question.source.tolist() == [0, 1, 2, 3, 4] * 2 and question.answer is None


def test_views_that_stay_the_same_find_their_partners():
    torch.manual_seed(0)
    task = SimCLR(encoder(VIT))
    optimiser = torch.optim.AdamW(task.parameters(), lr=1e-3)
    for _ in range(25):
        loss = task.loss(batch(16), Step.at(0))["nt_xent"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.6 * task.chance(16)["nt_xent"]


def test_the_last_normalisation_has_no_shift_and_crops_are_bicubic():
    task = SimCLR(encoder())
    task.loss(batch(), Step.at(2))["nt_xent"].backward()
    last = task.projector[-1]
    assert last.weight.grad is not None and last.bias.grad is None and not last.bias.any()
    assert task.first.interpolation == task.second.interpolation == "bicubic"
