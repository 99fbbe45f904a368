"""MAE against the formulas of the paper and its code, written as loops in float64."""

import math

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import Block

from pretask.encoders import build_encoder
from pretask.encoders.decoder import TokenDecoder, decoder_shape
from pretask.errors import UsageError
from pretask.methods.image.mae import MAE
from pretask.objectives.reconstruction import patchify, standardise, unpatchify
from pretask.pretexts.masks import shuffle
from pretask.task import Step

SMALL = "vit_tiny_patch16_224:depth=2,embed_dim=64,num_heads=2"


def encoder(image_size: int = 32, in_chans: int = 3, patch_size: int = 8, name: str = SMALL):
    return build_encoder(name, image_size=image_size, in_chans=in_chans, patch_size=patch_size, seed=0)


def batch(count: int = 4, chans: int = 3, side: int = 40) -> dict:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (count, chans, side, side), dtype=torch.uint8, generator=generator)
    return {"image": image, "size": torch.tensor([[60, 45]] * count)}


# ---- patches and targets


def naive_patchify(image: np.ndarray, p: int) -> np.ndarray:
    n, c, h, w = image.shape
    out = np.zeros((n, (h // p) * (w // p), p * p * c))
    for i in range(n):
        for place in range((h // p) * (w // p)):
            top, left = place // (w // p) * p, place % (w // p) * p
            corner = image[i, :, top : top + p, left : left + p]
            out[i, place] = [corner[k, y, x] for y in range(p) for x in range(p) for k in range(c)]
    return out


@pytest.mark.parametrize(("chans", "height", "width", "p"), [(3, 32, 32, 4), (1, 12, 18, 6), (5, 14, 7, 7)])
def test_patchify_lies_as_row_column_channel(chans, height, width, p):
    image = torch.rand(2, chans, height, width)
    patches = patchify(image, p)
    assert np.array_equal(patches.numpy().astype(np.float64), naive_patchify(image.numpy(), p))
    assert torch.equal(unpatchify(patches, p, (height // p, width // p)), image)


def test_targets_use_the_unbiased_variance_with_eps_inside_the_root():
    patches = torch.rand(2, 3, 12, dtype=torch.float64)
    patches[0, 0] = 0.3  # flat: only eps is left
    values, mean, std = standardise(patches)
    for i in range(2):
        for j in range(3):
            t = patches[i, j].numpy()
            var = sum((x - t.mean()) ** 2 for x in t) / (len(t) - 1)
            expected = (t - t.mean()) / math.sqrt(var + 1e-6)
            np.testing.assert_allclose(values[i, j].numpy(), expected, atol=1e-12)
    torch.testing.assert_close(values * std + mean, patches)


# ---- the loss, step by step


def reference_loss(task: MAE, image: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """The official forward pass: unshuffle by ids_restore, predict everything, average over the mask."""
    model, decoder, p = task.encoder.model, task.decoder, task.encoder.patch_size
    image = (image - task.encoder.mean) / task.encoder.std
    n, count = hidden.shape
    kernel, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    x = torch.nn.functional.conv2d(image, kernel, bias, stride=p).flatten(2).transpose(1, 2)
    x = x + model.pos_embed[:, 1:]
    num_visible = int((~hidden[0]).sum())
    ids_shuffle = torch.argsort(hidden.int(), dim=1, stable=True)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    x = torch.gather(x, 1, ids_shuffle[:, :num_visible, None].repeat(1, 1, x.shape[2]))
    cls = (model.cls_token + model.pos_embed[:, :1]).expand(n, -1, -1)
    x = model.norm(model.blocks(torch.cat([cls, x], dim=1)))
    x = decoder.embed(x)
    tokens = torch.cat([x[:, 1:], decoder.mask_token.view(1, 1, -1).repeat(n, count - num_visible, 1)], dim=1)
    tokens = torch.gather(tokens, 1, ids_restore[:, :, None].repeat(1, 1, tokens.shape[2]))
    x = torch.cat([x[:, :1], tokens], dim=1)
    x = x + torch.cat([torch.zeros(1, x.shape[2]), decoder.positions])
    for block in decoder.blocks:
        x = Block.forward(block, x)
    prediction = decoder.head(decoder.norm(x))[:, 1:]
    target = patchify(image, p)
    if task.normalise_target:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    loss = ((prediction - target) ** 2).mean(-1)
    mask = hidden.float()
    return (loss * mask).sum() / mask.sum()


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("mask", ["random", "block", "grid", "attention"])
def test_loss_and_gradients_are_the_papers(normalise, mask):
    task = MAE(encoder(), mask=mask, normalise_target=normalise)
    step = Step.at(3)
    image, order = task.hide(batch(), step)
    hidden = order.restore >= order.visible.shape[1]
    loss = task.loss(batch(), Step.at(3))["reconstruction"]
    loss.backward()
    ours = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
    task.zero_grad()
    expected = reference_loss(task, image, hidden)
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for name, p in task.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(ours[name], p.grad, atol=2e-5, rtol=1e-3)


def test_attention_hides_what_the_class_token_attends_to():
    task, seen = MAE(encoder(), mask="attention"), []
    image, order = task.hide(batch(), Step.at(0))
    assert not order.hidden.requires_grad and order.hidden.shape == (4, 12)
    last = task.encoder.model.blocks[-1].attn
    last.fused_attn = False  # timm's own softmax, made where it can be seen
    last.attn_drop.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    task.encoder(image)
    attention = seen[0][:, :, 0, 1:].mean(1)
    most, rest = attention.gather(1, order.hidden), attention.gather(1, order.visible)
    assert (most.amin(1) > rest.amax(1)).all()
    with pytest.raises(UsageError, match="class token"):
        bare = encoder(name=SMALL + ",class_token=False,global_pool=avg,fc_norm=false")
        MAE(bare, mask="attention").hide(batch(), Step.at(0))


def test_hidden_pixels_never_reach_the_encoder():
    task = MAE(encoder())
    image, order = task.hide(batch(), Step.at(0))
    features = task.encoder(image, visible=order.visible)
    assert features.tokens.shape[1] == 4  # int(16 * 0.25)
    cover = torch.ones(4, 16).scatter_(1, order.hidden, 0.0).view(4, 1, 4, 4)
    cover = cover.repeat_interleave(8, 2).repeat_interleave(8, 3)
    again = task.encoder(image * cover, visible=order.visible)
    torch.testing.assert_close(features.tokens, again.tokens)


def test_gradients_reach_everything_but_the_fixed_positions():
    task = MAE(encoder())
    task.loss(batch(), Step.at(0))["reconstruction"].backward()
    without = [name for name, p in task.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == ["encoder.model.pos_embed"]
    assert not task.encoder.model.pos_embed.requires_grad


def test_the_number_of_visible_patches_is_rounded_down():
    for side, ratio, visible in [(56, 0.75, 12), (32, 0.75, 4), (32, 0.9, 1), (72, 0.5, 40)]:
        task = MAE(encoder(side), mask_ratio=ratio)
        assert task.encoder.num_patches - task.num_hidden == visible == int((side // 8) ** 2 * (1 - ratio))


# ---- how it starts


def test_initialisation_is_the_papers():
    task = MAE(encoder(name="vit_tiny_patch16_224:depth=2,embed_dim=128,num_heads=4"))
    model = task.encoder.model
    kernel = model.patch_embed.proj.weight.detach()
    bound = math.sqrt(6 / (128 + 3 * 64))
    assert kernel.abs().max() <= bound
    assert float(kernel.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    for layer in [model.blocks[0].attn.qkv, model.blocks[1].mlp.fc1, task.decoder.blocks[0].attn.qkv]:
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert layer.weight.abs().max() <= bound and layer.weight.abs().max() > 0.98 * bound
        assert not layer.bias.any()
    for token in (model.cls_token, task.decoder.mask_token):
        assert float(token.detach().std()) == pytest.approx(0.02, rel=0.3)
    assert not model.pos_embed[:, 0].any()
    column, row = 2, 1  # patch 6 of a 4 x 4 grid; x is in the first half, whatever the code's comment says
    omega = np.array([10000 ** (-i / 32) for i in range(32)])
    expected = [np.sin(column * omega), np.cos(column * omega), np.sin(row * omega), np.cos(row * omega)]
    np.testing.assert_allclose(
        model.pos_embed[0, 1 + 6].detach().numpy(), np.concatenate(expected), atol=1e-6
    )


def test_a_pretrained_encoder_keeps_its_weights():
    trained = encoder()
    trained.pretrained = True
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    MAE(trained)
    assert all(torch.equal(value, before[name]) for name, value in trained.model.state_dict().items())


@pytest.mark.parametrize(
    ("width", "expected"),
    [(128, (64, 2)), (192, (96, 2)), (384, (192, 2)), (768, (512, 8)), (1024, (512, 8))],
)
def test_the_decoder_scales_with_the_encoder(width, expected):
    assert decoder_shape(width) == expected
    assert decoder_shape(width, 512, 8) == (512, 8)


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="multiple of 32"):
        MAE(encoder(), decoder_dim=100)
    with pytest.raises(UsageError, match="decoder_depth"):
        MAE(encoder(), decoder_depth=0)
    for ratio in (0.0, 0.99, 1.0):
        with pytest.raises(UsageError, match="mask_ratio"):
            MAE(encoder(), mask_ratio=ratio)


def test_a_norm_behind_the_pooling_is_refused_for_single_tokens_get_none():
    with pytest.raises(UsageError, match="fc_norm=false"):
        MAE(encoder(name=SMALL + ",global_pool=avg"))
    task = MAE(encoder(name=SMALL + ",global_pool=avg,fc_norm=false"))
    image, order = task.hide(batch(), Step.at(0))
    tokens = task.encoder(image, visible=order.visible).tokens
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(tokens.shape[:2]), atol=1e-5, rtol=0)
    expected = reference_loss(task, image, order.restore >= order.visible.shape[1])
    torch.testing.assert_close(
        task.loss(batch(), Step.at(0))["reconstruction"], expected, atol=1e-5, rtol=1e-5
    )


# ---- what it learns and shows


def test_the_decoder_answers_in_the_order_of_the_hidden_patches():
    decoder = TokenDecoder(16, 5, (3, 3), dim=32, depth=1)
    tokens, prefix = torch.rand(2, 4, 16), torch.rand(2, 1, 16)
    order = shuffle(torch.rand(2, 9), 5)
    answers = decoder(tokens, prefix, order)
    turned = order._replace(hidden=order.hidden.flip(1))
    torch.testing.assert_close(decoder(tokens, prefix, turned), answers.flip(1))


@pytest.mark.parametrize("normalise", [True, False])
def test_preview_puts_a_perfect_answer_back_in_place(normalise, monkeypatch):
    task = MAE(encoder(), normalise_target=normalise)

    def perfect(image, order):
        from pretask.pretexts.masks import take

        truth = take(task.patches(image), order.hidden)
        return standardise(truth).values if normalise else truth

    monkeypatch.setattr(task, "rebuild", perfect)
    for masked, answer, truth in task.preview(batch(), Step.at(0)).rows:
        assert (answer.role, truth.role) == ("answer", "truth")
        torch.testing.assert_close(answer.content, truth.content, atol=1e-4, rtol=0)
        seen = (masked.content - truth.content).abs() < 1e-5
        assert 0.2 < float(seen.float().mean()) < 0.35  # a quarter of the patches, and what is mean grey


def test_chance_is_the_loss_of_answering_the_mean():
    task = MAE(encoder())
    target = standardise(patchify(torch.randn(8, 3, 32, 32), 8)).values
    assert task.chance(8)["reconstruction"] == pytest.approx(float((target**2).mean()), rel=1e-4)
    assert MAE(encoder(), normalise_target=False).chance(8) == {}


@pytest.mark.parametrize(("chans", "side", "patch"), [(1, 28, 7), (3, 30, 5), (5, 36, 6)])
def test_channels_and_odd_sizes(chans, side, patch):
    task = MAE(encoder(side, chans, patch))
    loss = task.loss(batch(3, chans, 41), Step.at(0))["reconstruction"]
    loss.backward()
    assert loss.isfinite()
    assert task.preview(batch(3, chans, 41), Step.at(0)).rows[0][1].content.shape == (chans, side, side)


def test_autocast_to_bfloat16():
    task = MAE(encoder())
    with torch.autocast("cpu", torch.bfloat16):
        low = task.loss(batch(), Step.at(0))["reconstruction"]
    low.backward()
    torch.testing.assert_close(
        low.float(), task.loss(batch(), Step.at(0))["reconstruction"], atol=0.05, rtol=0.05
    )
    with torch.autocast("cpu", torch.bfloat16):
        task.preview(batch(), Step.at(0))


def test_the_same_step_gives_the_same_loss_and_another_step_another():
    task = MAE(encoder())
    values = [task.loss(batch(), Step.at(i))["reconstruction"] for i in (5, 5, 6)]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])


def test_the_loss_falls_below_chance():
    """Smooth pictures can be rebuilt: in 80 steps the mean of a patch is beaten."""
    torch.manual_seed(0)
    task = MAE(encoder(patch_size=4), crop_scale=(1.0, 1.0))
    coarse = torch.rand(32, 3, 3, 3, generator=torch.Generator().manual_seed(2))
    data = {"image": torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")}
    optimiser = torch.optim.AdamW(task.parameters(), lr=2e-3)
    for index in range(80):
        loss = task.loss(data, Step.at(index, 80))["reconstruction"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.92 * task.chance(32)["reconstruction"]
