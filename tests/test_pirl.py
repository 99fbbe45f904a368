"""PIRL against the official loss written as loops, in float64."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from pretask.encoders import build_encoder
from pretask.encoders.stride import patch_geometry
from pretask.errors import UsageError
from pretask.methods.image.pirl import PIRL
from pretask.pretexts.photometric import gaussian_blur
from pretask.task import Step

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=24,num_heads=2"
B, N, K, D = 4, 30, 6, 16


def encoder(name: str = VIT, size: int = 32):
    return build_encoder(name, image_size=size, seed=0)


def make(**options) -> PIRL:
    torch.manual_seed(0)
    task = PIRL(encoder(), **{"num_negatives": K, "projection_dim": D} | options)
    task.prepare([], N)
    return task


def batch(size: int = B):
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(size, 3, 40, 40, generator=generator)
    return {"image": image, "index": torch.tensor([3, 17, 0, 29])[:size]}


def naive_loss(task, vectors, index, places, partition):
    """NCEAverage and NCECriterion, one sample and one row at a time."""
    total = 0
    for b in range(B):
        assert places[b, 0] == index[b]
        scores = [vectors[b] @ task.bank.rows[j] / task.temperature for j in places[b]]
        if task.form == "nce":
            p = [torch.exp(s) / partition for s in scores]
            noise, eps = K / N, 1.1920928955078125e-07
            total -= torch.log(p[0] / (p[0] + noise + eps))
            total -= sum(torch.log(noise / (x + noise + eps)) for x in p[1:])
            continue
        whole = sum(torch.exp(s) for s in scores)
        total -= torch.log(torch.exp(scores[0]) / whole)
        if task.form == "probability":
            total -= sum(torch.log(1 - torch.exp(s) / whole) for s in scores[1:])
    return total / B


@pytest.mark.parametrize("form", ["nce", "cross_entropy", "probability"])
def test_the_loss_is_the_official_one_with_its_gradients(form, monkeypatch):
    task = make(loss=form, temperature=0.3).double()
    raw = {name: torch.randn(B, D, dtype=torch.float64, requires_grad=True) for name in ("jigsaw", "image")}
    unit = {name: F.normalize(x, dim=1) for name, x in raw.items()}
    monkeypatch.setattr(task, "embed", lambda name, batch, step: unit[name])
    drawn = []
    draw = task.bank.draw
    monkeypatch.setattr(task.bank, "draw", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    index = batch()["index"]
    losses = task(batch(), Step.at(3))
    rows = task.bank.rows[drawn[0]]
    z = N * torch.exp((unit["jigsaw"][:, None] * rows).sum(2) / 0.3).mean().item()  # the patches come first
    for name, places in zip(("jigsaw", "image"), drawn, strict=True):
        naive = naive_loss(task, unit[name], index, places, z)
        torch.testing.assert_close(losses[name], naive, rtol=1e-9, atol=1e-9)
        ours = torch.autograd.grad(losses[name], raw[name], retain_graph=True)
        torch.testing.assert_close(ours, torch.autograd.grad(naive, raw[name], retain_graph=True))
    assert not torch.equal(*drawn)  # each branch draws negatives of its own
    again = task(batch(), Step.at(4))["jigsaw"]
    naive = naive_loss(task, unit["jigsaw"], index, drawn[2], z)
    torch.testing.assert_close(again, naive, rtol=1e-9, atol=1e-9)


def test_the_memory_changes_after_the_step_by_the_pictures_alone(monkeypatch):
    task = make()
    unit = {name: F.normalize(torch.randn(B, D), dim=1) for name in ("jigsaw", "image")}
    monkeypatch.setattr(task, "embed", lambda name, batch, step: unit[name])
    before, index = task.bank.rows.clone(), batch()["index"]
    task(batch(), Step.at())
    assert torch.equal(task.bank.rows, before)
    task.after_step(Step.at())
    moved = 0.5 * before[index] + 0.5 * unit["image"]
    torch.testing.assert_close(task.bank.rows[index], moved / moved.norm(dim=1, keepdim=True))
    others = [i for i in range(N) if i not in index]
    assert torch.equal(task.bank.rows[others], before[others])
    after = task.bank.rows.clone()
    task.after_step(Step.at())  # nothing was seen in between
    assert torch.equal(task.bank.rows, after)


def test_patches_are_nine_windows_of_one_crop_a_sample_in_drawn_order(monkeypatch):
    task = make()
    monkeypatch.setattr(task, "recolour", lambda image, step: image)
    crops = torch.rand(B, 3, 33, 33)
    monkeypatch.setattr("pretask.methods.image.pirl.apply_view", lambda spec, image, view: crops)
    patches = task.jigsaw(batch(), Step.at()).unflatten(0, (B, 9))
    orders = []
    for b in range(B):
        windows = crops[b].unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4)  # (26, 26, 3, 8, 8)
        found = [(windows == patch).flatten(2).all(2).nonzero().tolist() for patch in patches[b]]
        assert all(len(places) == 1 for places in found)
        cells = [(top // 11, left // 11) for ((top, left),) in found]
        assert len(set(cells)) == 9  # one from each cell, and none across a cell's edge:
        assert all(top % 11 <= 2 and left % 11 <= 2 for ((top, left),) in found)
        orders.append(cells)
    assert len({tuple(cells) for cells in orders}) == B


def test_every_patch_gets_colours_and_a_flip_of_its_own():
    same = torch.rand(1, 3, 8, 8).expand(900, -1, -1, -1).clone()
    assert len(make().recolour(same, Step.at()).flatten(1).unique(dim=0)) > 890


def test_colours_are_dropped_and_sides_swapped_as_often_as_in_the_paper():
    task = make()
    out = task.recolour(torch.rand(4000, 3, 4, 4), Step.at())
    grey = (out[:, 0] - out[:, 1]).abs().amax((1, 2)) < 1e-6
    assert abs(grey.float().mean() - 0.2) < 0.03
    ramp = torch.linspace(0, 1, 8).expand(4000, 3, 8, 8).clone()
    task.enhanced, task.colour = 0.0, replace(task.colour, jitter=0.0, grey=0.0)
    falling = (task.recolour(ramp, Step.at()).diff(dim=3) < 0).all((1, 2, 3))
    assert abs(falling.float().mean() - 0.5) < 0.03


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("resnet18", 224, (255, 85, 64)),
        ("resnet18", 32, (33, 11, 8)),
        (VIT, 32, (33, 11, 8)),
        (VIT, 224, (255, 85, 64)),
    ],
)
def test_geometry_is_the_papers_in_small(name, size, expected):
    assert patch_geometry(encoder(name, size)) == expected


def test_patches_are_enlarged_to_the_stride_of_the_encoder():
    small, coarse = encoder("resnet18"), encoder("convnext_atto")
    before = copy.deepcopy(coarse.state_dict())
    assert PIRL(small, num_negatives=K).jigsaw(batch(), Step.at()).shape == (9 * B, 3, 8, 8)
    task = PIRL(coarse, num_negatives=K)
    assert task.jigsaw(batch(), Step.at()).shape == (9 * B, 3, 32, 32)
    assert coarse.training and all(torch.equal(v, before[n]) for n, v in coarse.state_dict().items())
    task.prepare([], N)
    assert task(batch(), Step.at())["jigsaw"].isfinite()


def test_a_patch_that_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="smaller --patch-size"):
        patch_geometry(build_encoder(VIT, image_size=32, patch_size=16))


def test_heads_are_linear_or_have_a_hidden_layer():
    linear, deep = make(transform="both"), make(transform="both", head="mlp")
    assert [type(x).__name__ for x in linear.heads["jigsaw"].each] == ["Linear"]
    assert [type(x).__name__ for x in deep.heads["jigsaw"].each] == ["Linear", "ReLU", "Linear", "ReLU"]
    assert [type(x).__name__ for x in deep.heads["image"]] == ["Linear", "ReLU", "Linear"]
    assert len(linear.heads["rotation"]) == 1 and linear.heads["jigsaw"].join.in_features == 9 * D
    x = torch.randn(2 * 9, 24)
    head = linear.heads["jigsaw"]
    naive = [head.join(torch.cat([head.each(x[b * 9 + k]) for k in range(9)])) for b in range(2)]
    torch.testing.assert_close(head(x), torch.stack(naive))


def test_weights_are_lambda_and_the_rest():
    assert make().weights == {"jigsaw": 0.5, "image": 0.5}
    assert make(transform="both", transform_weight=0.6).weights == pytest.approx(
        {"jigsaw": 0.3, "rotation": 0.3, "image": 0.4}
    )
    alone = make(transform_weight=0.0)  # instance discrimination
    assert alone.weights == {"image": 1.0} and set(alone(batch(), Step.at())) == {"image"}


@pytest.mark.parametrize("transform", ["jigsaw", "rotation", "both"])
@pytest.mark.parametrize("colours", ["photometric", "blur"])
def test_gradients_reach_everything_that_learns(transform, colours):
    task = make(transform=transform, colours=colours)
    task.total(task(batch(), Step.at())).backward()
    assert [n for n, p in task.named_parameters() if p.grad is None] == []
    assert not any("bank" in n or "partition" in n for n, _ in task.named_parameters())


def test_patches_are_blurred_as_pil_does_it():
    """A blur of deviation 2 reaches about 5 pixels; cut off at 3 it would be another."""
    task = make(colours="blur")
    assert task.colour.blur_radius == 11
    image = torch.zeros(1, 1, 64, 64)
    image[..., 32] = 1.0
    line = gaussian_blur(image, torch.tensor([2.0]), task.colour.blur_radius)[0, 0, 32]
    pil = Image.fromarray((255 * image[0, 0]).byte().numpy()).filter(ImageFilter.GaussianBlur(2.0))
    assert np.abs(line.numpy() - np.asarray(pil)[32] / 255).max() < 0.02


def test_memory_and_z_are_kept_in_a_checkpoint():
    task = make(loss="nce")
    task(batch(), Step.at())
    task.after_step(Step.at())
    other = make(loss="nce")
    other.load_state_dict(copy.deepcopy(task.state_dict()))
    assert other.partition.value > 0
    a, b = task(batch(), Step.at(1)), other(batch(), Step.at(1))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_looking_on_changes_nothing():
    task = make()
    task(batch(), Step.at())
    task.seen.clear()
    state = copy.deepcopy(task.state_dict())
    with torch.no_grad():
        task(batch(), Step.at())
        task.preview(batch(), Step.at())
    assert not task.seen
    assert all(torch.equal(value, state[name]) for name, value in task.state_dict().items())


@pytest.mark.parametrize(
    ("samples", "expected"), [(100, 99), (10_000, 4096), (400_000, 10_000), (1_300_000, 32_000)]
)
def test_the_number_of_negatives_fits_the_data(samples, expected):
    task = PIRL(encoder(), projection_dim=1)
    assert task.chance(8) == {}
    task.prepare([], samples)
    assert task.num_negatives == expected


@pytest.mark.parametrize(
    ("samples", "options", "expected"),
    [
        (1_000_000, {}, ("nce", 0.07)),
        (1_000_000, {"head": "mlp"}, ("cross_entropy", 0.1)),
        (10_000, {}, ("cross_entropy", 0.1)),
        (10_000, {"loss": "nce"}, ("nce", 0.07)),
        (10_000, {"loss": "nce", "temperature": 0.2}, ("nce", 0.2)),
    ],
)
def test_the_form_fits_the_data(samples, options, expected):
    task = PIRL(encoder(), projection_dim=1, **options)
    task.prepare([], samples)
    assert (task.form, task.temperature) == expected


@pytest.mark.parametrize("form", ["nce", "cross_entropy", "probability"])
def test_chance_is_reached_when_all_rows_are_alike(form):
    task = make(loss=form)
    task.bank.rows.copy_(task.bank.rows[:1].expand(N, -1))
    with torch.no_grad():
        for head in task.heads.values():
            last = head.join if hasattr(head, "join") else head[-1]
            last.weight.zero_()
            last.bias.fill_(1)
    losses = task(batch(), Step.at())
    for name, value in task.chance(B).items():
        assert losses[name].item() == pytest.approx(value, rel=1e-3)
    wrong = 0 if form == "cross_entropy" else 6 * math.log(7 / 6)
    assert task.chance(B)["image"] == pytest.approx(math.log(7) + wrong)


def test_what_is_missing_is_named():
    with pytest.raises(UsageError, match="prepare"):
        PIRL(encoder())(batch(), Step.at())
    with pytest.raises(UsageError, match="known number"):
        PIRL(encoder()).prepare([], 0)
    with pytest.raises(UsageError, match="index"):
        make()({"image": batch()["image"]}, Step.at())


@pytest.mark.parametrize("transform", ["jigsaw", "rotation"])
def test_the_sheet_shows_every_picture(transform):
    sheet = make(transform=transform).preview(batch(), Step.at())
    assert len(sheet.rows) == B and {panel.role for panel in sheet.rows[0]} == {"input", "answer", "truth"}
    for panel in sheet.rows[0]:
        assert panel.content.ndim == 3 and 0 <= panel.content.min() <= panel.content.max() <= 1
