"""CPC against the formula written as loops, in float64; the context sees nothing below."""

import math

import pytest
import torch

from pretask.encoders import build_encoder
from pretask.encoders.context import RowsAbove
from pretask.encoders.stride import overlap_geometry
from pretask.errors import UsageError
from pretask.methods.image.cpc import CPC
from pretask.task import Step

B = 3


def encoder(name: str = "vit_tiny_patch16_224:depth=1,embed_dim=24,num_heads=2", size: int = 32):
    return build_encoder(name, image_size=size, seed=0)


def make(**options) -> CPC:
    torch.manual_seed(0)
    return CPC(encoder(), **{"blocks": 2, "hidden_dim": 8, "projection_dim": 6} | options).double()


def batch():
    generator = torch.Generator().manual_seed(5)
    return {"image": torch.rand(B, 3, 40, 40, generator=generator, dtype=torch.float64)}


def test_the_loss_is_the_mean_over_contexts_and_distances(monkeypatch):
    task = make()
    z = torch.randn(B, 7, 7, 24, dtype=torch.float64, requires_grad=True)
    monkeypatch.setattr(task, "encode", lambda crop, step: z)
    loss = task(batch(), Step.at())["cpc"]
    context = task.context(z)
    terms = []
    for k, predict in zip((2, 3, 4), task.predict, strict=True):
        w = 0.1 * task.targets.weight.T @ predict.weight  # z' W_k c
        for b in range(B):
            for row in range(7 - k):
                for column in range(7):
                    scores = z.flatten(0, 2) @ w @ context[b, row, column]
                    own = b * 49 + (row + k) * 7 + column
                    terms.append(-scores.log_softmax(0)[own])
    naive = torch.stack(terms).mean()
    torch.testing.assert_close(loss, naive)
    ours = torch.autograd.grad(loss, [z, *task.predict.parameters()], retain_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(naive, [z, *task.predict.parameters()]))


def test_the_context_sees_its_own_row_and_those_above():
    torch.manual_seed(0)
    net = RowsAbove(4, 3, 8).double()
    x = torch.randn(1, 7, 7, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x)[0, 4, 3].sum(), x)
    seen = gradient[0].abs().sum(2) > 0
    assert not seen[5:].any()
    assert seen[4, 3] and seen[3].any() and seen[1].any()
    assert not seen[0].any()  # three blocks, three rows up


def test_patches_overlap_by_half_and_predictions_share_no_pixel_with_their_context():
    assert overlap_geometry(encoder(size=256)) == (256, 64, 32)
    assert overlap_geometry(encoder()) == (32, 8, 4)
    task = make()
    corners = task.corners(1)[0].tolist()
    assert corners[0] == [0, 0] and corners[1] == [4, 0] and corners[7] == [0, 4] and corners[48] == [24, 24]
    assert min(task.ahead) * task.step >= task.patch


def test_each_patch_is_changed_by_itself(monkeypatch):
    task = make(drop_colour=0.8)
    crop = torch.rand(64, 3, 32, 32, dtype=torch.float64)
    patches = task.patches(crop, Step.at()).view(64, 49, 3, 8, 8)
    dropped = (patches[:, :, 0] == patches[:, :, 1]).flatten(2).all(2)
    assert abs(dropped.double().mean() - 0.8) < 0.03
    assert not dropped.all(1).any()
    for place, (left, top) in enumerate(task.corners(1)[0].tolist()):
        whole = crop[0, :, top : top + 8, left : left + 8]
        same = [
            torch.equal(patches[0, place, 0], part[c]) for part in (whole, whole.flip(2)) for c in range(3)
        ]
        assert any(same)


def test_rows_that_are_not_there_are_refused():
    with pytest.raises(UsageError, match="7 rows"):
        make(nearest=5, steps=3)
    assert make().chance(4) == {"cpc": math.log(4 * 49)}
