"""SimMIM: whole squares are covered, and the mean distance of their pixels is the loss."""

import pytest
import torch

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.simmim import SimMIM
from pretask.objectives.reconstruction import patchify
from pretask.task import Step
from pretask.training.plan import Schedule

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2"


def make(**options):
    torch.manual_seed(0)
    return SimMIM(build_encoder(VIT, image_size=32, patch_size=4, seed=0), **{"drop_path": 0.0} | options)


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


def test_it_starts_as_beit_does_and_its_crops_are_bilinear():
    task = make()
    assert task.view.interpolation == "bilinear"
    for number, block in enumerate(task.encoder.model.blocks, 1):
        for layer in (block.attn.proj, block.mlp.fc2):
            assert float(layer.weight.detach().abs().max()) <= 0.02 / (2 * number) ** 0.5 + 1e-6
    assert task.encoder.model.pos_embed.detach().abs().max() <= 0.02


def test_positions_may_be_relative_as_in_the_official_network():
    name = "beit_base_patch16_224:depth=2,embed_dim=32,num_heads=2"
    name += ",use_rel_pos_bias=false,use_shared_rel_pos_bias=true"
    torch.manual_seed(0)
    task = SimMIM(build_encoder(name, image_size=32, patch_size=4, seed=0), drop_path=0.0)
    image, order = task.hide(batch(), Step.at(seed=2))
    hidden = torch.zeros(3, 64, dtype=torch.bool).scatter(1, order.hidden, True)
    tokens = task.encoder(image, hidden=hidden, mask_token=task.mask_token).tokens
    rebuilt = task.decoder(task.encoder.model.fc_norm(tokens))[hidden]
    truth = patchify(task.encoder.normalise(image), 4)[hidden]
    loss = task.loss(batch(), Step.at(seed=2))["pixels"]
    torch.testing.assert_close(loss, (rebuilt - truth).abs().mean())
    loss.backward()
    assert task.encoder.model.rel_pos_bias.relative_position_bias_table.grad.abs().sum() > 0


def test_blocks_are_skipped_in_training_alone():
    task, plain = make(drop_path=0.9), make()
    losses = [t.loss(batch(), Step.at(seed=2))["pixels"].item() for t in (task, plain)]
    assert losses[0] != losses[1]
    assert task.eval().loss(batch(), Step.at(seed=2))["pixels"].item() == pytest.approx(losses[1])


def test_the_rate_falls_to_a_tenth_for_the_last_hundred_of_800_epochs():
    """From 5e-7 to 1e-4 (for 512 pictures) in ten epochs, then flat: no cosine."""
    task = make()
    schedule = Schedule(task.recipe, 1.0, 0, 800)
    for epoch in range(800):
        rate = 5e-7 + (1e-4 - 5e-7) * epoch / 10 if epoch < 10 else 1e-4 if epoch < 700 else 1e-5
        assert schedule.peak * schedule.shape(epoch) == pytest.approx(rate, rel=1e-9)
    recipe = task.recipe
    assert (recipe.lr_batch, recipe.clip, recipe.weight_decay, recipe.betas) == (512, 5.0, 0.05, (0.9, 0.999))


def test_a_norm_behind_the_pooling_serves_as_well():
    task = SimMIM(build_encoder(VIT + ",global_pool=avg", image_size=32, patch_size=4, seed=0), drop_path=0.0)
    model = task.encoder.model
    assert isinstance(model.norm, torch.nn.Identity)
    with torch.no_grad():
        model.fc_norm.bias.fill_(0.5)
        model.fc_norm.weight.zero_()
        image, order = task.hide(batch(), Step.at())
        expected = (0.5 * task.decoder.weight.sum(1) + task.decoder.bias).expand(3, 40, -1)
        torch.testing.assert_close(task.rebuild(image, order), expected)
