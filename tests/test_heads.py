"""Projectors, prototypes, teachers and stochastic depth."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pretask.encoders import build_encoder
from pretask.encoders.drop_path import droppable, dropping
from pretask.encoders.ema import follow, teacher_of
from pretask.encoders.heads import PrototypeHead, Prototypes, mlp

VIT = "vit_tiny_patch16_224:depth=3,embed_dim=24,num_heads=2"


def kinds(module: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in module]


def test_a_projector_is_linear_layers_with_activations_between():
    assert kinds(mlp(8, 4)) == ["Linear"]
    assert kinds(mlp(8, 16, 4)) == ["Linear", "ReLU", "Linear"]
    simsiam = mlp(8, 16, 16, 4, batch_norm=True, last_norm="plain")
    assert kinds(simsiam) == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
    assert simsiam[0].bias is None and simsiam[1].affine and not simsiam[-1].affine
    predictor = mlp(8, 16, 4, batch_norm=True)
    assert predictor[-1].bias is not None and predictor(torch.rand(5, 8)).shape == (5, 4)
    byol = mlp(8, 16, 4, last_bias=False)
    assert byol[0].bias is not None and byol[-1].bias is None


def test_prototypes_are_directions():
    layer = Prototypes(4, 7).double()
    layer.weight_g.data.uniform_(0.5, 2)
    x = torch.randn(3, 4, dtype=torch.float64)
    directions = [g * v / v.norm() for g, v in zip(layer.weight_g, layer.weight_v, strict=True)]
    naive = torch.stack([torch.stack([d @ row for d in directions]) for row in x])
    torch.testing.assert_close(layer(x), naive)


def test_unit_prototypes_learn_direction_alone():
    assert not Prototypes(4, 7, unit=True).weight_g.requires_grad
    free = Prototypes(4, 7, unit=False)
    assert free.weight_g.requires_grad and torch.equal(free.weight_g, torch.ones(7, 1))


def test_the_prototype_head_is_the_papers():
    head = PrototypeHead(24, 50, hidden_dim=32, bottleneck_dim=8)
    assert kinds(head.mlp) == ["Linear", "GELU", "Linear", "GELU", "Linear"]
    assert [tuple(layer.weight.shape) for layer in head.mlp[::2]] == [(32, 24), (32, 32), (8, 32)]
    assert all(not layer.bias.any() and 0.01 < layer.weight.std() < 0.025 for layer in head.mlp[::2])
    x = torch.randn(2, 5, 24)
    torch.testing.assert_close(head.embed(x).norm(dim=-1), torch.ones(2, 5))
    weight = F.normalize(head.last_layer.weight_v, dim=1)
    torch.testing.assert_close(head(x), F.normalize(head.mlp(x), dim=-1) @ weight.T)
    assert [n for n, _ in head.named_parameters() if "last_layer" in n] == [
        "last_layer.weight_v", "last_layer.weight_g",
    ]  # fmt: skip


def test_the_mean_of_logits_is_the_logits_of_the_mean():
    head, x = PrototypeHead(8, 20, 16, 4), torch.randn(3, 6, 8)
    torch.testing.assert_close(head.last_layer(head.embed(x).mean((0, 1))), head(x).mean((0, 1)))


def test_a_teacher_follows_parameters_and_keeps_its_buffers():
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    teacher = teacher_of(student)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    start = [p.clone() for p in teacher.parameters()]
    student(torch.randn(9, 3)).sum().backward()
    with torch.no_grad():
        for p in student.parameters():
            p.add_(torch.randn_like(p))
    buffers = [b.clone() for b in teacher.buffers()]
    follow(teacher, student, 0.9)
    for t, before, s in zip(teacher.parameters(), start, student.parameters(), strict=True):
        torch.testing.assert_close(t, 0.9 * before + 0.1 * s)
    assert all(torch.equal(a, b) for a, b in zip(teacher.buffers(), buffers, strict=True))
    follow(teacher, student, 1.0)
    follow(teacher, student, 0.0)
    for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(t, s)


def test_a_student_may_have_more_than_its_teacher():
    student = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    teacher = nn.ModuleDict({"encoder": teacher_of(nn.Linear(2, 2))})
    follow(teacher, student, 0.0)
    torch.testing.assert_close(teacher["encoder"].weight, student["encoder"].weight)


def test_branches_are_dropped_by_the_given_coins_and_rescaled():
    encoder = build_encoder(VIT, image_size=32, seed=0).double()
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    plain = encoder(image).tokens
    assert len(droppable(encoder)) == 3
    torch.testing.assert_close(encoder(image).tokens, plain)  # prepared, but no coin is thrown
    rate, unit = 0.5, torch.rand(2, 3, 2, dtype=torch.float64)
    with dropping(encoder, unit, rate):
        dropped = encoder(image).tokens
    x, _ = encoder.embed(image)
    for i, block in enumerate(encoder.blocks):
        keep = 1 - rate * i / 2
        for branch, (norm, inner) in enumerate(((block.norm1, block.attn), (block.norm2, block.mlp))):
            coin = (unit[:, i, branch] < keep).double() / keep
            x = x + coin[:, None, None] * inner(norm(x))
    torch.testing.assert_close(dropped, encoder.model.norm(x)[:, 1:])
    torch.testing.assert_close(encoder(image).tokens, plain)
    assert not torch.allclose(dropped, plain)


def test_the_first_block_is_never_dropped_and_timms_own_coins_are_gone():
    encoder = build_encoder(VIT + ",drop_path_rate=0.9", image_size=32, seed=0).train()
    droppable(encoder)
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(encoder(image).tokens, encoder(image).tokens)
    with dropping(encoder, torch.full((2, 3, 2), 0.999), 0.9):
        first = encoder.blocks[0](encoder.embed(image)[0])
        assert torch.equal(encoder.blocks(encoder.embed(image)[0]), first)


def test_an_error_leaves_no_coins_behind():
    encoder = build_encoder(VIT, image_size=32, seed=0)
    with pytest.raises(ZeroDivisionError), dropping(encoder, torch.zeros(2, 3, 2), 0.5):
        _ = 1 / 0
    assert all(block.drop_path1.factor is None for block in encoder.blocks)


def test_convolutional_encoders_have_nothing_to_drop():
    assert droppable(build_encoder("resnet18", image_size=32, seed=0)) == []
