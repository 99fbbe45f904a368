"""MoCo v3: its loss against algorithm 1 in float64, its heads, its start and its copy."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pretask.encoders import build_encoder
from pretask.methods.image.moco_v3 import MoCoV3
from pretask.task import Step

VIT = "vit_tiny_patch16_224:depth=1,embed_dim=24,num_heads=2"
GRID = "resnet10t:stem_width=8,channels=[8,16,24,32],zero_init_last=false"
B = 6


def make(name: str = VIT, **options) -> MoCoV3:
    torch.manual_seed(0)
    encoder = build_encoder(name, image_size=32, seed=0)
    return MoCoV3(encoder, **{"hidden_dim": 32, "projection_dim": 16} | options).double()


def batch():
    generator = torch.Generator().manual_seed(5)
    return {"image": torch.rand(B, 3, 40, 40, generator=generator, dtype=torch.float64)}


@pytest.mark.parametrize(("name", "temperature"), [(VIT, 0.2), (GRID, 1.0)])
def test_the_loss_is_algorithm_1(name, temperature):
    task, total = make(name), 0
    views = make(name).views(batch(), Step.at(1)).chunk(2)
    said = [F.normalize(task.compared(v), dim=1) for v in views]
    keys = [F.normalize(task.target(v), dim=1) for v in views]
    for q, k in ((said[0], keys[1]), (said[1], keys[0])):
        for i in range(B):
            logits = torch.stack([q[i] @ x / temperature for x in k])
            total = total - 2 * temperature * logits.log_softmax(0)[i] / B
    assert make(name).loss(batch(), Step.at(1))["moco"].item() == pytest.approx(total.item())
    assert task.temperature == temperature


def kinds(head: nn.Sequential) -> str:
    letters = {nn.Linear: "l", nn.BatchNorm1d: "b", nn.ReLU: "r"}
    return "".join(letters[type(layer)] for layer in head)


def test_heads_are_the_official_ones():
    vit, grid = make(VIT), make(GRID)
    assert kinds(vit.projector) == "lbrlbrlb" and kinds(vit.predictor) == "lbrlb"
    assert kinds(grid.projector) == "lbrlb" and kinds(grid.predictor) == "lbrl"
    for head in (vit.projector, vit.predictor, grid.projector, grid.predictor):
        assert all(layer.bias is None for layer in head if isinstance(layer, nn.Linear))
        norms = [layer for layer in head if isinstance(layer, nn.BatchNorm1d)]
        assert all(norm.affine for norm in norms[: kinds(head).count("r")])
    assert not vit.projector[-1].affine and not vit.predictor[-1].affine


def test_a_transformer_starts_with_fixed_positions_and_keeps_its_patches():
    model = make().encoder.model
    assert not model.pos_embed.requires_grad and not any(
        p.requires_grad for p in model.patch_embed.parameters()
    )
    assert model.cls_token.abs().max() < 1e-4
    qkv, fc = model.blocks[0].attn.qkv.weight, model.blocks[0].mlp.fc1.weight
    for weight, rows in ((qkv, 24), (fc, 96)):
        bound = math.sqrt(6 / (rows + 24))
        assert 0.9 * bound < weight.abs().max() <= bound
    assert 0.9 < model.patch_embed.proj.weight.abs().max() / math.sqrt(6 / (48 + 24)) <= 1
    assert all(p.requires_grad for p in make(freeze_patches=False).encoder.model.patch_embed.parameters())


def test_the_copy_follows_encoder_and_projector_with_a_rising_momentum():
    task = make(momentum=0.9)
    task.loss(batch(), Step.at())["moco"].backward()
    assert all(p.grad is None for p in task.target.parameters())
    for index, momentum in ((0, 1 - 0.1 * (1 + math.cos(math.pi / 10)) / 2), (9, 1.0)):
        before = {name: p.clone() for name, p in task.target.named_parameters()}
        with torch.no_grad():
            for p in task.projector.parameters():
                p.add_(1.0)
        gaps = {name: task.get_parameter(name) - p for name, p in before.items()}
        task.after_step(Step.at(index, 10))
        for name, p in task.target.named_parameters():
            torch.testing.assert_close(p, before[name] + (1 - momentum) * gaps[name])


def test_recipes_are_those_of_transformers_and_of_others():
    assert make(VIT).recipe.optimizer == "adamw" and make(GRID).recipe.optimizer == "lars"


@pytest.mark.parametrize(("name", "momentum", "smallest"), [(VIT, 0.99, 0.08), (GRID, 0.996, 0.2)])
def test_momentum_and_crops_are_those_of_the_networks_recipe(name, momentum, smallest):
    task = make(name)
    assert task.momentum == momentum
    for view in (task.first, task.second):
        assert view.scale == (smallest, 1.0) and view.interpolation == "bilinear", "torchvision's default"
    gap, before = 1.0, task.target.projector[0].weight.detach().clone()
    with torch.no_grad():
        task.projector[0].weight.add_(gap)
    task.after_step(Step.at(0, 10**6))
    torch.testing.assert_close(
        task.target.projector[0].weight, before + (1 - momentum) * gap, rtol=1e-6, atol=1e-9
    )
