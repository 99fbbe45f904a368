"""Colorization against loops written from the paper, on colours drawn here."""

import math

import numpy as np
import pytest
import torch

from pretask.encoders.colour_net import ColourNet
from pretask.encoders.dense import DenseHead, grid_of
from pretask.encoders.image import EncoderSpec, build
from pretask.errors import DataError, UsageError
from pretask.methods.image.colorization import Colorization
from pretask.pretexts import colour
from pretask.pretexts.views import apply_view, draw_view
from pretask.task import Step

TINY_VIT = "vit_tiny_patch16_224:depth=1,embed_dim=32,num_heads=2"


def encoder(name=TINY_VIT, in_chans=3, image_size=32):
    torch.manual_seed(0)
    return build(EncoderSpec(name, in_chans, image_size))


def colourful(batch=6, side=32, seed=0):
    """Smooth colour gradients; the last picture is grey."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 3, 3, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=True)
    image[-1] = image[-1].mean(0)
    return {"image": image}


@pytest.fixture
def task():
    task = Colorization(encoder()).eval()
    task.prepare([colourful()], 6)
    return task


def naive_loss(ab, logits, centres, weights):
    """Equations 2 and 3, pixel by pixel in float64; the grey mask is a picture's."""
    total, (batch, _, height, width) = 0.0, ab.shape
    for n in range(batch):
        if not (np.abs(ab[n]) > 5).any():
            continue
        for y, x in np.ndindex(height, width):
            distances = [math.dist(ab[n, :, y, x], centre) for centre in centres]
            nearest = sorted(range(len(centres)), key=lambda q: distances[q])[:10]
            soft = [math.exp(-(distances[q] ** 2) / (2 * 5.0**2)) for q in nearest]
            z = logits[n, :, y, x]
            log_sum = math.log(sum(math.exp(v) for v in z))
            surprise = -sum(s / sum(soft) * (z[q] - log_sum) for s, q in zip(soft, nearest, strict=True))
            total += weights[nearest[0]] * surprise
    return total / (batch * height * width)


def test_loss_is_the_papers(task):
    seen = {}
    task.head.register_forward_hook(lambda module, given, out: seen.update(logits=out.detach()))
    batch = colourful()
    loss = task.loss(batch, Step.at(3))["colour"]
    view = draw_view(task.view, 6, Step.at(3).generator)
    lab = colour.rgb_to_lab(apply_view(task.view, batch["image"], view))
    ab = lab[:, 1:, ::2, ::2]  # picked, not averaged
    expected = naive_loss(ab.numpy(), seen["logits"].numpy(), task.colours.tolist(), task.rarity.tolist())
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert seen["logits"].shape == (6, 261, 16, 16)


def test_the_encoder_sees_no_colour(task):
    """Pictures of equal lightness and different colour look the same to it."""
    seen = []
    task.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    lab = colour.rgb_to_lab(colourful()["image"])
    for a, b in ((0.0, 0.0), (6.0, -4.0)):
        moved = lab.clone()
        moved[:, 1], moved[:, 2] = a, b
        moved[:, 0] = moved[:, 0].clamp(30, 70)  # where both colours exist
        task.loss({"image": colour.lab_to_rgb(moved)}, Step.at())
    torch.testing.assert_close(seen[0], seen[1], atol=1e-3, rtol=0)
    assert (seen[1][:, 0] - seen[1][:, 2]).abs().max() < 1e-3


def test_grey_pictures_teach_nothing(task):
    grey = {"image": colourful()["image"][-1:].repeat(3, 1, 1, 1)}
    loss = task.loss(grey, Step.at())["colour"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in task.parameters())


def test_weights_multiply_the_gradient_of_the_logits(task):
    """What the official layer does in its backward pass."""
    logits = torch.randn(6, 261, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    task.head.forward = lambda features, size: logits
    task.loss(colourful(), Step.at())["colour"].backward()
    lab = task.crop(colourful(), Step.at().generator)
    _, mixture, which, coloured = task.targets(lab)
    soft = torch.zeros_like(logits).scatter_add_(1, which, mixture)
    weight = task.rarity[soft.argmax(1)] * coloured.view(-1, 1, 1)
    expected = weight.unsqueeze(1) * (logits.softmax(1) - soft) / weight.numel()
    torch.testing.assert_close(logits.grad, expected.detach(), atol=1e-7, rtol=1e-4)


def test_prior_is_counted_on_picked_targets(task):
    q, centres = len(task.colours), task.colours.tolist()
    view = draw_view(task.view, 6, Step.at().generator)
    lab = colour.rgb_to_lab(apply_view(task.view, colourful()["image"], view))
    points = lab[:, 1:, ::2, ::2].permute(0, 2, 3, 1).reshape(-1, 2).tolist()
    count = [0] * q
    for point in points:
        count[min(range(q), key=lambda k: math.dist(point, centres[k]))] += 1
    raw = torch.tensor(count, dtype=torch.float64) / len(points)
    torch.testing.assert_close(task.prior, colour.smooth(raw, task.colours, 10, 5.0).float())
    assert task.prior.sum().item() == pytest.approx(1, abs=1e-5)
    assert (task.prior * task.rarity).sum().item() == pytest.approx(1, abs=1e-5)
    assert (task.rarity[task.prior == 0] == 0).all()


def test_prior_does_not_depend_on_how_the_data_come(task):
    """Nothing is drawn from the global random state."""
    other = Colorization(encoder())
    torch.manual_seed(7)
    other.prepare(iter([colourful()]), 6)
    assert torch.equal(task.prior, other.prior) and torch.equal(task.blind, other.blind)


def test_chance_is_the_best_answer_that_does_not_look(task):
    """On the very crops that `prepare` saw, no constant distribution does better, and one reaches it."""
    answer = torch.zeros(261, requires_grad=True)
    task.head.forward = lambda features, size: answer.view(1, -1, 1, 1).expand(6, -1, *size)
    optimiser = torch.optim.Adam([answer], lr=0.3)
    for _ in range(300):
        loss = task.loss(colourful(), Step.at())["colour"]  # the first step's crops
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() >= task.chance(6)["colour"] - 1e-4
    assert loss.item() == pytest.approx(task.chance(6)["colour"], rel=0.01)


def test_without_rebalancing_every_colour_weighs_the_same():
    task = Colorization(encoder(), uniform_share=1.0)
    task.prepare([colourful()], 6)
    present = task.rarity[task.prior > 0]
    torch.testing.assert_close(present, torch.ones_like(present), atol=1e-4, rtol=0)


def test_rare_colours_weigh_more(task):
    present = task.prior > 0
    order = task.prior[present].argsort()
    assert (task.rarity[present][order].diff() <= 1e-6).all()


@pytest.mark.parametrize("in_chans", [1, 3])
def test_the_papers_network_sees_lightness_minus_fifty(in_chans):
    task = Colorization(encoder("colour_net:width=0.1", in_chans)).eval()
    seen = []
    task.encoder.model.blocks.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    task.loss(colourful(), Step.at())
    lab = task.crop(colourful(), Step.at().generator)
    torch.testing.assert_close(seen[0], lab[:, :1] - 50, atol=2e-2, rtol=0)


def test_the_papers_network_has_its_shape():
    net = ColourNet()
    convs = [layer for layer in net.blocks if isinstance(layer, torch.nn.Conv2d)]
    norms = [layer for layer in net.blocks if isinstance(layer, torch.nn.BatchNorm2d)]
    widths = [64, 64, 128, 128, 256, 256, 256] + [512] * 12
    assert [c.out_channels for c in convs] == widths
    assert [c.stride[0] for c in convs] == [1, 2, 1, 2, 1, 1, 2] + [1] * 12
    assert [c.dilation[0] for c in convs] == [1] * 10 + [2] * 6 + [1] * 3
    assert len(norms) == 7 and not any(norm.affine for norm in norms)
    assert net(torch.rand(1, 3, 24, 24)).shape == (1, 512)
    assert net.forward_features(torch.rand(1, 3, 176, 176)).shape == (1, 512, 22, 22)


def test_behind_the_papers_network_stands_its_conv8():
    """ConvTranspose 4/2/1, conv 3/1/1, conv 3/1/1 with ReLU, then 1x1; biases, and no normalisation."""
    net = encoder("colour_net:width=0.125", image_size=176)
    head = DenseHead(net, 261, 4, 32)
    kinds = [type(layer).__name__ for layer in head.blocks]
    assert kinds == ["ConvTranspose2d", "ReLU", "Conv2d", "ReLU", "Conv2d", "ReLU"]
    convs = [layer for layer in head.modules() if hasattr(layer, "kernel_size")]
    assert [(c.in_channels, c.out_channels) for c in convs] == [(64, 32), (32, 32), (32, 32), (32, 261)]
    assert [(c.kernel_size[0], c.stride[0], c.padding[0]) for c in convs] == [
        (4, 2, 1), (3, 1, 1), (3, 1, 1), (1, 1, 0),
    ]  # fmt: skip
    assert all(c.bias is not None for c in convs)
    maps = torch.randn(1, 64, 3, 3, generator=torch.Generator().manual_seed(0))
    x = maps.double()
    for c in convs:
        weight, bias = c.weight.detach().double(), c.bias.detach().double()
        if c.stride[0] == 2:  # each input pixel paints 4 x 4 output pixels, from 2 i - 1 on
            painted = torch.zeros(1, 32, 8, 8, dtype=torch.float64)
            for row, column in np.ndindex(3, 3):
                stamp = torch.einsum("c,cokl->okl", x[0, :, row, column], weight)
                painted[0, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += stamp
            x = painted[:, :, 1:7, 1:7] + bias.view(-1, 1, 1)
        else:
            x = torch.nn.functional.conv2d(x, weight, bias, padding=c.padding)
        x = x if c.kernel_size[0] == 1 else x.clamp(min=0)
    from pretask.encoders.features import Features

    tokens = maps.flatten(2).transpose(1, 2)
    found = head(Features(tokens[:, 0], tokens, tokens[:, :0], (3, 3)), (6, 6))
    torch.testing.assert_close(found.double(), x, atol=1e-4, rtol=1e-4)
    wide = Colorization(encoder("colour_net", image_size=32))
    assert wide.head.blocks[0].weight.shape == (512, 256, 4, 4)


def test_the_schedule_is_the_solvers():
    recipe = Colorization.recipe
    assert [500_000 * drop for drop in recipe.drops] == [225_000, 450_000] and recipe.schedule == "steps"
    assert (recipe.lr, recipe.lr_batch, recipe.weight_decay, recipe.betas) == (3e-5, 40, 1e-3, (0.9, 0.99))
    assert recipe.decay_vectors and recipe.epochs == round(500_000 * 40 / 1_281_167)


@pytest.mark.parametrize(
    ("name", "image_size", "stride", "expected"),
    [
        (TINY_VIT, 32, None, 16),
        (TINY_VIT, 96, None, 24),
        ("resnet10t", 32, None, 16),
        ("resnet10t", 45, None, 23),
        ("colour_net:width=0.1", 176, None, 44),
        (TINY_VIT, 32, 8, 4),
    ],
)
def test_answers_lie_on_the_targets_grid(name, image_size, stride, expected):
    task = Colorization(encoder(name, image_size=image_size), stride=stride)
    seen = {}
    task.head.register_forward_hook(lambda module, given, out: seen.update(shape=out.shape))
    task.loss(colourful(2, image_size), Step.at())["colour"].backward()
    assert seen["shape"] == (2, 261, expected, expected)
    assert all(p.grad is not None for p in task.head.parameters())


def test_dense_head_keeps_places():
    """A mark in the input moves the prediction near it and not far from it."""
    net = encoder("resnet10t", image_size=96)
    assert grid_of(net) == (3, 3) and net.training
    head = DenseHead(encoder(TINY_VIT, image_size=96), 2, width=8).eval()
    dim = head.blocks[0].in_channels
    from pretask.encoders.features import Features

    tokens = torch.zeros(1, 144, dim)
    marked = tokens.clone()
    marked[0, 12 * 2 + 9] = 1.0  # row 2, column 9 of 12
    answers = [head(Features(x[:, 0], x, x[:, :0], (12, 12)), (24, 24)) for x in (tokens, marked)]
    changed = (answers[0] - answers[1]).abs().sum((0, 1)) > 0
    rows, columns = changed.nonzero(as_tuple=True)
    assert changed.any() and rows.max() < 12 and columns.min() > 12


def test_it_learns(task):
    batch = colourful()
    optimiser = torch.optim.Adam(task.train().parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = task.loss(batch, Step.at())["colour"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * task.chance(6)["colour"], "it must do better than any answer that does not look"


def test_refusals():
    with pytest.raises(UsageError, match="1 or 3 channels"):
        Colorization(encoder(in_chans=5))
    task = Colorization(encoder())
    with pytest.raises(UsageError, match="RGB"):
        task.loss({"image": torch.rand(2, 5, 32, 32)}, Step.at())
    with pytest.raises(DataError, match="no picture has any colour"):
        task.prepare([{"image": torch.rand(2, 1, 32, 32).expand(2, 3, 32, 32)}], 2)
