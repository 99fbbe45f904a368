"""Fine-tuning as MAE's: where patches are averaged and normalised, and which rate and decay each parameter has."""

import math

import pytest
import torch

import tiny
from pretask.data import open_data
from pretask.encoders import build_encoder
from pretask.evaluation.finetune import average, fine_tuned, finetune, groups, rate, silent

VIT = "vit_tiny_patch16_224:depth=3,embed_dim=16,num_heads=2"


def vit():
    return build_encoder(VIT, image_size=32, patch_size=8, seed=0).eval()


def test_patches_are_averaged_and_a_new_norm_takes_the_finals_place():
    encoder, image = vit(), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoder.model.norm.weight.fill_(3.0)  # what pre-training left; it has no part in what follows
        x = encoder.blocks(encoder.model.norm_pre(encoder.embed(image)[0])).double()
        assert average(encoder)
        seen = encoder(image)
    for row in range(2):
        mean = sum(x[row, 1 + place] for place in range(16)) / 16  # without the class token
        spread = sum((value - mean.mean()) ** 2 for value in mean) / 16
        expected = (mean - mean.mean()) / (spread + 1e-6).sqrt()
        torch.testing.assert_close(seen.pooled[row].double(), expected, atol=1e-4, rtol=1e-4)
    assert not any(name.startswith("norm.") for name, _ in encoder.model.named_parameters())
    assert not average(encoder) and not average(tiny.encoder("grid")), "no norm is left, there is none"


@pytest.mark.parametrize("averaged", [False, True])
def test_rates_and_decay_of_a_transformer(averaged):
    encoder, head = vit(), silent(16, 4)
    if averaged:
        average(encoder)
    settings = {}
    for group in groups(encoder, head, 1e-3, 0.05, 0.5):
        settings |= {id(p): (group["lr"], group["weight_decay"]) for p in group["params"]}
    for name, parameter in encoder.model.named_parameters():
        if name.startswith("blocks"):
            above = 3 - int(name.split(".")[1])  # blocks and head above it
        else:
            above = 0 if "norm" in name else 4
        exempt = parameter.ndim == 1 or name in ("cls_token", "pos_embed")
        lr, decay = settings[id(parameter)]
        assert lr == pytest.approx(1e-3 * 0.5**above) and decay == (0.0 if exempt else 0.05), name
    assert settings[id(head.weight)] == (1e-3, 0.05) and settings[id(head.bias)] == (1e-3, 0.0)


def test_the_head_of_a_network_without_a_final_norm_is_a_layer_of_its_own():
    encoder, head = tiny.encoder("grid"), silent(8, 4)
    found = groups(encoder, head, 1e-3, 0.05, 0.5)
    assert max(group["lr"] for group in found[:-2]) == pytest.approx(5e-4)


def test_what_was_tuned_on_averages_is_judged_on_them():
    data = open_data("digits-on-textures", limit=48)
    encoder = vit()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    tuned = fine_tuned(encoder, data, pool="avg", epochs=1)
    assert tuned.pool is None and tuned.detail["pool"] == "avg" and tuned.encoder.model.global_pool == "avg"
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    (score,) = finetune(encoder, data, data, pool="avg", epochs=1)
    with torch.no_grad():
        answers = tuned.head(tuned.encoder.encode(data.batch(range(48))).pooled).argmax(1)
    assert score.value == pytest.approx(float((answers == data.labels).double().mean()))


def test_the_rate_is_maes():
    """lr e / w in the first w epochs e, which are fractions; then half a cosine."""
    for step in range(50):
        e, w, whole = step / 5, 1, 10  # five steps an epoch
        expected = e / w if e < w else 0.5 * (1 + math.cos(math.pi * (e - w) / (whole - w)))
        assert rate(step, 50) == pytest.approx(expected)
    assert rate(0, 3) == 1
