"""MOOD: BEiT's pretext with its own optimisation; its score is tested in test_ood.py."""

import math

import pytest
import torch

import tiny
from pretask.encoders import build_encoder
from pretask.methods.image.beit import BEiT
from pretask.methods.image.mood import MOOD
from pretask.methods.image.moodv2 import MOODv2
from pretask.studies.claim import find_claim
from pretask.task import Step
from pretask.training.plan import make_plan

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2,global_pool=avg"


def made(kind):
    torch.manual_seed(0)
    task = kind(tiny.encoder("patches"), words=16)
    task.prepare([tiny.images(16)], 16)
    return task


def test_the_rate_is_the_official_one_at_each_epoch():
    """300 epochs of 10 steps: linear to 5e-4 in 5 of them, then a cosine that ends on 1e-5; whatever the batch."""
    schedule = make_plan(MOOD.recipe, 640, batch_size=64, epochs=300).schedule(MOOD.recipe)
    for index in (0, 20, 49, 50, 1000, 2999):
        cosine = 1e-5 + (5e-4 - 1e-5) * (1 + math.cos(math.pi * (index - 50) / 2950)) / 2
        expected = 5e-4 * index / 49 if index < 50 else cosine
        assert schedule.peak * schedule.shape(index) == pytest.approx(expected, rel=1e-6)
    assert MOOD.recipe.clip is None and (MOOD.recipe.betas, MOOD.recipe.eps) == ((0.9, 0.999), 1e-8)


def test_75_of_196_patches_are_covered_at_most():
    task = MOOD(build_encoder(VIT, image_size=224, patch_size=16, seed=0), words=16)
    assert task.num_hidden == 75


def test_words_are_asked_for_in_a_loop_over_covered_patches():
    torch.manual_seed(0)
    task = MOOD(build_encoder(VIT, image_size=32, patch_size=4, seed=0), words=16, drop_path=0.0)
    task.prepare([tiny.images(16)], 16)
    loss = task.loss(tiny.images(4), Step.at(1))["words"]
    view, hidden, word = task.puzzle(tiny.images(4), Step.at(1))
    tokens = task.encoder(view, hidden=hidden, mask_token=task.mask_token).tokens
    terms = []
    for row, place in hidden.nonzero().tolist():
        x = tokens[row, place].double()
        norm = task.encoder.model.fc_norm
        x = (x - x.mean()) / (x.var(correction=0) + norm.eps).sqrt() * norm.weight + norm.bias
        logits = task.head.weight.double() @ x + task.head.bias
        terms.append(logits.exp().sum().log() - logits[word[row, place]])
    assert loss.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", [VIT, "beit_base_patch16_224:depth=2,embed_dim=32,num_heads=2"])
def test_a_picture_is_read_off_the_norm_of_the_mean(name):
    encoder = build_encoder(name, image_size=32, patch_size=4, seed=0).eval()
    torch.nn.init.normal_(encoder.model.fc_norm.weight, mean=1)
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    last = []
    encoder.model.blocks[-1].register_forward_hook(lambda module, given, out: last.append(out))
    pooled = encoder(image).pooled
    mean = last[0][:, 1:].mean(1)
    norm = encoder.model.fc_norm
    spread = (mean.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
    expected = (mean - mean.mean(1, keepdim=True)) / spread * norm.weight + norm.bias
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-5)
    assert find_claim("mood").encoder.endswith(",global_pool=avg")


@pytest.mark.parametrize(
    ("kind", "pretrained"), [(MOOD, False), (BEiT, False), (MOOD, True), (MOODv2, False)]
)
def test_pictures_are_seen_in_minus_one_to_one(kind, pretrained):
    encoder = tiny.encoder("patches")
    encoder.pretrained = pretrained
    before = encoder.normalise(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    task = kind(encoder, words=16)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    official = kind is not MOODv2 and not pretrained
    torch.testing.assert_close(task.encoder.normalise(image), 2 * image - 1 if official else before)


def test_blocks_are_skipped_in_training_alone_and_crops_are_the_official_ones():
    torch.manual_seed(0)
    task, batch = made(MOOD), tiny.images(4)
    losses = []
    for rate, training in ((0.0, True), (0.9, True), (0.9, False)):
        task.drop_path = rate
        losses.append(task.train(training).loss(batch, Step.at())["words"].item())
    assert losses[0] != losses[1] and losses[0] == losses[2]
    assert [kind(tiny.encoder("patches"), words=16).view.scale for kind in (BEiT, MOOD, MOODv2)] == [
        (0.08, 1.0), (0.08, 1.0), (0.2, 1.0),
    ]  # fmt: skip
