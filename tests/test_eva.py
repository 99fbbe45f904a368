"""EVA's loss against a loop, with pixels and with a frozen network of ours as teacher."""

import math

import pytest
import torch
import torch.nn.functional as F

from pretask.encoders import build_encoder
from pretask.encoders.weights import save_encoder
from pretask.errors import UsageError
from pretask.methods.image.eva import EVA
from pretask.pretexts.masks import draw_blocks
from pretask.pretexts.views import draw_view
from pretask.task import Step
from pretask.training.optimisers import groups
from pretask.training.plan import make_plan

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2"


def encoder():
    return build_encoder(VIT, image_size=32, patch_size=4, seed=0)


def make(**options):
    torch.manual_seed(0)
    return EVA(encoder(), **{"drop_path": 0.0} | options)


def batch(count: int = 3):
    return {"image": torch.rand(count, 3, 40, 40, generator=torch.Generator().manual_seed(5))}


def test_the_loss_is_the_mean_cosine_over_all_covered_patches_of_the_batch():
    task = make()
    loss = task.loss(batch(), Step.at(seed=1))["features"]
    view, hidden = task.puzzle(batch(), Step.at(seed=1))
    tokens = task.encoder(view, hidden=hidden, mask_token=task.mask_token).tokens
    truth, cosines = task.truth(view), []
    for n in range(3):
        for place in range(64):
            if hidden[n, place]:
                answer = task.head.weight @ tokens[n, place] + task.head.bias
                cosines.append(F.cosine_similarity(answer, truth[n, place], dim=0))
    assert loss.item() == pytest.approx(-torch.stack(cosines).mean().item(), abs=1e-5)
    assert 0 < hidden.sum() <= 3 * 26


def test_blocks_cover_about_forty_per_cent():
    task = make()
    _, hidden = task.puzzle(batch(200), Step.at())
    assert task.num_hidden == 26
    assert hidden.sum(1).max() <= 26 and hidden.float().mean() > 0.3


def test_blocks_have_16_patches_at_least_and_on_small_grids_a_sixteenth_of_all():
    """16 of 16 x 16 as in the official recipe, where BEiT's rule for the grid would make it 25."""
    for side, covered, least in ((8, 26, 4), (16, 105, 16), (20, 164, 16)):
        task = EVA(build_encoder(VIT, image_size=4 * side, patch_size=4, seed=0))
        assert task.num_hidden == covered
        _, hidden = task.puzzle(batch(20), Step.at(seed=2))
        step = Step.at(seed=2)
        draw_view(task.view, 20, step.generator)
        assert torch.equal(hidden, draw_blocks((side, side), covered, 20, step.generator, least))


def test_blocks_are_skipped_in_training_alone():
    task = make(drop_path=0.9)
    losses = {round(task.loss(batch(), Step.at(seed=1))["features"].item(), 5)}
    losses |= {round(make().loss(batch(), Step.at(seed=1))["features"].item(), 5)}
    assert len(losses) == 2
    still = task.eval().loss(batch(), Step.at(seed=1))["features"].item()
    assert still == pytest.approx(make().loss(batch(), Step.at(seed=1))["features"].item(), abs=1e-6)


def test_positions_and_class_token_do_not_decay_and_the_mask_token_does():
    task = make()
    schedule = make_plan(task.recipe, 100, max_steps=2).schedule(task.recipe)
    parts = groups(task.named_parameters(), schedule, task.encoder)
    decays = {name for part in parts for name in part["names"] if part["decays"]}
    assert {"mask_token", "head.weight", "encoder.model.patch_embed.proj.weight"} <= decays
    assert not {"encoder.model.cls_token", "encoder.model.pos_embed", "head.bias"} & decays


def test_a_teacher_sees_the_whole_crop_and_stands_still(tmp_path):
    path = tmp_path / "teacher.safetensors"
    save_encoder(build_encoder(VIT, image_size=32, patch_size=4, seed=3), path)
    task = make(teacher=str(path))
    view, _ = task.puzzle(batch(), Step.at())
    expected = build_encoder(VIT, image_size=32, patch_size=4, seed=3).eval()(view).tokens
    assert torch.allclose(task.truth(view), expected, atol=1e-5)
    before = {name: value.clone() for name, value in task.teacher.network.state_dict().items()}
    task.loss(batch(), Step.at())["features"].backward()
    assert all(p.grad is None for p in task.teacher.network.parameters())
    assert all(torch.equal(before[name], value) for name, value in task.teacher.network.state_dict().items())
    assert not any("teacher" in name for name in task.state_dict())


def test_without_masking_all_patches_are_told():
    task = make(everything=True)
    loss = task.loss(batch(), Step.at(seed=1))["features"]
    view, _ = task.puzzle(batch(), Step.at(seed=1))
    answer = task.head(task.encoder(view).tokens)
    assert loss.item() == pytest.approx(
        -F.cosine_similarity(answer, task.truth(view), dim=-1).mean().item(), abs=1e-5
    )
    assert task.mask_token is None


def test_a_mask_that_covers_nothing_is_refused():
    with pytest.raises(UsageError, match="covers 0"):
        make(mask_ratio=0.0)


@pytest.mark.parametrize("pretrained", [False, True])
def test_pictures_are_normalised_for_the_student_as_for_the_teacher(tmp_path, pretrained):
    path, mean, std = tmp_path / "teacher.safetensors", (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    save_encoder(build_encoder(VIT, image_size=32, patch_size=4, seed=3, mean=mean, std=std), path)
    student = encoder()
    student.pretrained = pretrained
    task = EVA(student, teacher=str(path), drop_path=0.0)
    wanted = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if pretrained else (mean, std)
    view = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = [(view[:, c] - wanted[0][c]) / wanted[1][c] for c in range(3)]
    torch.testing.assert_close(task.encoder.normalise(view), torch.stack(seen, dim=1))
    assert task.encoder.inputs["mean"] == pytest.approx(wanted[0])  # and so it is written down


def test_weights_start_as_small_as_is_asked():
    task = make(init_std=0.015)
    weights = [task.mask_token, task.head.weight, task.encoder.model.blocks[0].attn.qkv.weight]
    assert all(0.0148 < weight.abs().max().item() <= 0.015 for weight in weights[1:])
    assert weights[0].abs().max() <= 0.015
    narrow = 0.015 * (1 - 2 / (2 * math.pi * math.e) ** 0.5 / math.erf(0.5**0.5)) ** 0.5  # cut at 1 deviation
    assert weights[2].std().item() == pytest.approx(narrow, rel=0.05)


def test_the_optimiser_is_the_official_one():
    recipe = EVA.recipe
    assert (recipe.betas, recipe.eps, recipe.clip) == ((0.9, 0.98), 1e-6, 3.0)


def test_the_rate_is_the_official_one_at_each_epoch():
    """150 epochs of 10 steps: linear to 1e-3 in 2 of them, then a cosine that ends on 1e-5; whatever the batch."""
    schedule = make_plan(EVA.recipe, 640, batch_size=64, epochs=150).schedule(EVA.recipe)
    for index in (0, 7, 19, 20, 600, 1499):
        cosine = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * (index - 20) / 1480)) / 2
        expected = 1e-3 * index / 19 if index < 20 else cosine
        assert schedule.peak * schedule.shape(index) == pytest.approx(expected, rel=1e-6)


def test_the_first_layers_gradient_is_that_of_a_mixture_with_what_has_none():
    """The official `stop_grad_conv1`: 0.9 x without gradient + 0.1 x behind the first layer."""

    def gradients(task):
        task.loss(batch(), Step.at(seed=1))["features"].backward()
        task.after_backward(Step.at())
        return {name: p.grad for name, p in task.encoder.named_parameters()}

    held, mixed, free = make(first_gradient=0.1), make(), gradients(make())
    layer = mixed.encoder.model.patch_embed.proj
    layer.register_forward_hook(lambda _, inputs, x: 0.9 * x.detach() + 0.1 * x)
    found, expected = gradients(held), gradients(mixed)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)
    assert not torch.allclose(found["model.patch_embed.proj.weight"], free["model.patch_embed.proj.weight"])


def test_timms_own_eva_is_refused():
    own = build_encoder("eva_giant_patch14_224:depth=1,embed_dim=32,num_heads=2", image_size=32, patch_size=4)
    with pytest.raises(UsageError, match="vit_giant"):
        EVA(own)
