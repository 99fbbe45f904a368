"""Context encoders: the loss against loops in float64, what is cut out, and who learns from what."""

import math

import pytest
import torch
import torch.nn.functional as F

import tiny
from pretask.catalog import find
from pretask.encoders.painter import ChannelwiseLinear
from pretask.errors import UsageError
from pretask.methods.image.inpainting import Inpainting
from pretask.pretexts.regions import draw_shapes, grown, middle_square, shrunk
from pretask.task import Step
from pretask.training.learners import make_learners
from pretask.training.plan import make_plan


def make(**options) -> Inpainting:
    torch.manual_seed(0)
    return Inpainting(tiny.encoder("grid"), **options)


@pytest.mark.parametrize("region", ["random", "middle"])
def test_errors_in_the_margin_count_ten_times_and_outside_nothing(region, monkeypatch):
    task, batch = make(region=region, margin=2), tiny.images(3)
    cut = task.cut(batch, Step.at(1))
    made = torch.rand_like(cut.image) * 2 - 1
    monkeypatch.setattr(task, "paint", lambda cut: made)
    losses = task.loss(batch, Step.at(1))
    total = count = 0.0
    for b in range(3):
        for y in range(32):
            for x in range(32):
                near = cut.out[b, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].any()
                assert bool(near) == bool(cut.asked[b, y, x])
                if near:
                    error = (made[b, :, y, x] - (2 * cut.image[b, :, y, x] - 1)).square()
                    total += float(error.sum()) * (1 if cut.out[b, y, x] else 10)
                    count += 3
    assert losses["reconstruction"].item() == pytest.approx(total / count, rel=1e-4)
    assert task.weights == {"reconstruction": 0.999, "adversarial": 0.001}


def test_the_critic_tells_what_is_painted_and_the_painter_deceives_it(monkeypatch):
    task, batch = make(region="middle"), tiny.images(4)
    made = torch.rand(4, 3, 32, 32) * 2 - 1
    monkeypatch.setattr(task, "paint", lambda cut: made)
    truth = task.alone(2 * task.cut(batch, Step.at()).image - 1)
    assert truth.shape[-1] == 16  # half of the side: a quarter of the area
    real, fake = (task.critic(x).sigmoid() for x in (truth, task.alone(made)))
    losses = task.loss(batch, Step.at())
    torch.testing.assert_close(losses["adversarial"], -fake.log().mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        losses["critic"], -real.log().mean() - (1 - fake).log().mean(), rtol=1e-4, atol=1e-5
    )
    assert make(adversarial_weight=0.0).players == {}


def test_painter_and_critic_learn_apart():
    task = make()
    learners = make_learners(task, make_plan(task.recipe, 64, max_steps=10), 0)
    losses = task.loss(tiny.images(8), Step.at())
    learners["critic"].own_gradients(learners["critic"].total(task, losses), keep_graph=True)
    assert all((p.grad is not None) == name.startswith("critic.") for name, p in task.named_parameters())
    ours = [p.grad.clone() for p in task.critic.parameters()]
    learners["painter"].own_gradients(learners["painter"].total(task, losses), keep_graph=False)
    for before, p in zip(ours, task.critic.parameters(), strict=True):
        assert torch.equal(before, p.grad)
    assert all(p.grad is not None for p in task.painter.parameters())


def test_what_is_cut_out_cannot_be_seen():
    task, batch = make(), tiny.images(6)
    cut = task.cut(batch, Step.at())
    hidden = cut.out[:, None].expand_as(cut.image)
    mean = task.encoder.mean.expand_as(cut.image)
    assert torch.equal(cut.seen[hidden], mean[hidden]) and torch.equal(cut.seen[~hidden], cut.image[~hidden])


def test_regions():
    generator = torch.Generator().manual_seed(0)
    shapes = draw_shapes(64, 0.25, 20, generator)
    assert (shapes.sum((1, 2)) == 1024).all() and len(shapes.flatten(1).unique(dim=0)) == 20
    touching = (shapes[:, 1:] == shapes[:, :-1]).float().mean()
    assert touching > 0.9, "blobs, not single pixels"
    middle = middle_square(32, 0.25, 1)[0]
    assert middle.sum() == 256 and middle[8:24, 8:24].all()
    assert torch.equal(shrunk(middle[None], 2)[0], grown(middle_square(32, 12 * 12 / 1024, 1), 0)[0])
    assert torch.equal(grown(shrunk(middle[None], 3), 3)[0], middle)
    with pytest.raises(UsageError, match="nothing to paint"):
        make(margin=9)


def test_channels_are_connected_over_places_and_not_with_each_other():
    torch.manual_seed(0)
    layer = ChannelwiseLinear(3, 5).double()
    tokens = torch.randn(2, 5, 3, dtype=torch.float64)
    out = layer(tokens)
    for b in range(2):
        for d in range(3):
            expected = tokens[b, :, d] @ layer.weight[d] + layer.bias[d, 0]
            torch.testing.assert_close(out[b, :, d], expected)


def test_chance_is_a_critic_that_cannot_tell():
    assert make().chance(8) == {"adversarial": math.log(2), "critic": 2 * math.log(2)}
    assert F.binary_cross_entropy_with_logits(torch.zeros(3), torch.ones(3)).item() == pytest.approx(
        math.log(2)
    )
    assert find("inpainting").needs == "any"
