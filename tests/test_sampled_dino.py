"""DINO with sampled prototypes: how it starts and ends; its loss is tested with the study it comes from."""

import pytest
import torch

import tiny
from pretask.methods.image.sampled_dino import SampledDINO


def test_prototypes_start_short_and_alike_in_both():
    """Normal of deviation K^-1/2: rows of length about (width / K)^1/2."""
    task = SampledDINO(tiny.encoder("grid"), prototypes=4096)
    rows = task.head.last_layer.weight_v.detach()
    assert rows.std().item() == pytest.approx(1 / 64, rel=0.01)
    assert rows.norm(dim=1).mean().item() == pytest.approx(0.125, rel=0.02)
    assert rows.abs().max() > 4 / 64, "not uniform"
    taught = dict(task.teacher.head.named_parameters())
    assert not any(p.requires_grad for p in taught.values())
    for name, p in task.head.named_parameters():
        assert torch.equal(p, taught[name])


def test_the_last_rate_is_the_official_one():
    recipe = SampledDINO(tiny.encoder("grid")).recipe
    assert recipe.lr * recipe.batch_size / recipe.lr_batch * recipe.final_lr == pytest.approx(1e-6)
    assert recipe.warmup_arrives and recipe.warmup == 0.1
