"""SimMIM: whole squares are covered, and the mean distance of their pixels is the loss."""

import pytest
import torch

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.simmim import SimMIM
from pretask.objectives.reconstruction import patchify
from pretask.task import Step

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2"


def make(**options):
    torch.manual_seed(0)
    return SimMIM(build_encoder(VIT, image_size=32, patch_size=4, seed=0), **options)


def batch(count: int = 3):
    return {"image": torch.rand(count, 3, 40, 40, generator=torch.Generator().manual_seed(5))}


def test_whole_squares_are_covered_rounded_up():
    task = make()
    hidden = task.draw_mask(50, Step.at()).view(50, 4, 2, 4, 2)
    assert torch.equal(hidden.all(4).all(2), hidden.any(4).any(2)), "squares of 2 x 2 patches"
    assert hidden.flatten(1).sum(1).tolist() == [4 * 10] * 50  # ceil(16 x 0.6) squares
    assert make(mask_ratio=0.5).covered == 8 and make(unit=1).covered == 39


def test_the_loss_is_the_mean_distance_over_covered_pixels():
    task = make()
    loss = task.loss(batch(), Step.at(seed=2))["pixels"]
    image, order = task.hide(batch(), Step.at(seed=2))
    hidden = torch.zeros(3, 64, dtype=torch.bool).scatter(1, order.hidden, True)
    model, errors = task.encoder.model, []
    x = model.patch_embed((image - task.encoder.mean) / task.encoder.std).flatten(1, 2)
    x = torch.where(hidden[..., None], task.mask_token, x)
    x = torch.cat([model.cls_token.expand(3, -1, -1), x], 1) + model.pos_embed
    tokens = model.norm(model.blocks(x))[:, 1:]
    truth = patchify(task.encoder.normalise(image), 4)
    for n in range(3):
        for place in range(64):
            if hidden[n, place]:
                errors.append((task.decoder(tokens[n, place]) - truth[n, place]).abs().mean())
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


def test_positions_are_learned():
    task = make()
    assert task.encoder.model.pos_embed.requires_grad
    task.loss(batch(), Step.at())["pixels"].backward()
    assert task.encoder.model.pos_embed.grad.abs().sum() > 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="divide"):
        make(unit=3)
    with pytest.raises(UsageError, match="some must be"):
        make(mask_ratio=1.0)
