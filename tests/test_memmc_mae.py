"""MemMC-MAE's attention with memory, its gates and its score, against loops."""

import math

import numpy as np
import pytest
import torch

from pretask.encoders import build_encoder
from pretask.encoders.attention import attend
from pretask.errors import UsageError
from pretask.methods.image.memmc_mae import GatedLevels, MemMCMAE, likeness
from pretask.objectives.reconstruction import patchify
from pretask.pretexts.masks import take
from pretask.task import Step

VIT = "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(**options):
    torch.manual_seed(0)
    return MemMCMAE(build_encoder(VIT, image_size=32, patch_size=4, seed=0), **options)


def batch(count: int = 3):
    return {"image": torch.rand(count, 3, 40, 40, generator=generator(5))}


def test_memory_is_more_keys_and_values_that_no_token_made():
    attn = build_encoder(VIT, image_size=32).double().model.blocks[0].attn
    x = torch.randn(2, 5, 32, dtype=torch.float64, generator=generator())
    keys, values = torch.randn(2, 3, 32, dtype=torch.float64, generator=generator(1))
    out = torch.zeros_like(x)
    for n in range(2):
        heads = []
        for h in range(2):
            rows = slice(16 * h, 16 * h + 16)
            q, k, v = (
                x[n] @ attn.qkv.weight[32 * p : 32 * p + 32][rows].T
                + attn.qkv.bias[32 * p : 32 * p + 32][rows]
                for p in range(3)
            )
            k, v = torch.cat([k, keys[:, rows]]), torch.cat([v, values[:, rows]])
            heads.append((q @ k.T / math.sqrt(16)).softmax(1) @ v)
        out[n] = attn.proj(torch.cat(heads, 1))
    assert torch.allclose(attend(attn, x, x, (keys, values)), out, atol=1e-10)


def test_gates_weigh_each_level_channel_by_channel():
    torch.manual_seed(0)
    layer = GatedLevels(32, 3).double()
    x = torch.randn(2, 6, 32, dtype=torch.float64, generator=generator())
    levels = [torch.randn(2, 4, 32, dtype=torch.float64, generator=generator(n)) for n in (1, 2, 3)]
    total = torch.zeros_like(x)
    for level, gate in zip(levels, layer.gates, strict=True):
        found = attend(layer.attn, x, level)
        for n in range(2):
            for i in range(6):
                alpha = torch.sigmoid(gate.weight @ torch.cat([x[n, i], found[n, i]]) + gate.bias)
                total[n, i] += alpha * found[n, i] / math.sqrt(3)
    assert torch.allclose(layer(x, levels), total, atol=1e-10)


def test_without_memory_the_encoder_is_the_encoder():
    task = make(memory=0)
    image, order = task.hide(batch(), Step.at())
    last, outputs = task.encode(image, order)
    assert torch.allclose(last, task.encoder(image, visible=order.visible).tokens, atol=1e-5)
    assert len(outputs) == 2 and len(make(levels="last").seen) == 1


def test_memories_are_drawn_as_in_the_paper_and_learn():
    task = make(memory=400)
    assert task.keys[0].std().item() == pytest.approx(32**-0.5, rel=0.05)
    assert task.values[0].std().item() == pytest.approx(400**-0.5, rel=0.05)
    task.loss(batch(), Step.at())["reconstruction"].backward()
    assert all(p.grad.abs().sum() > 0 for p in (*task.keys, *task.values))


def test_the_loss_is_on_plain_pixels_of_hidden_patches():
    task = make()
    loss = task.loss(batch(), Step.at(seed=3))["reconstruction"]
    image, order = task.hide(batch(), Step.at(seed=3))
    truth = take(patchify(image, 4), order.hidden)
    errors = take(task.predict(image, order), order.hidden) - truth
    assert loss.item() == pytest.approx(errors.square().mean().item(), rel=1e-5)
    assert truth.min() >= 0 and truth.max() <= 1


def test_likeness_is_one_with_oneself_and_uses_the_scales_there_are():
    x = torch.rand(4, 3, 32, 32, generator=generator())
    assert torch.allclose(likeness(x, x), torch.ones(4), atol=1e-5)
    close = likeness((x + 0.02 * torch.randn(x.shape, generator=generator(1))).clamp(0, 1), x)
    far = likeness(torch.rand(x.shape, generator=generator(2)), x)
    assert (close > far + 0.2).all()
    with pytest.raises(UsageError, match="11 pixels"):
        likeness(x[..., :8, :8], x[..., :8, :8])


def ssim_by_hand(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Of one window: likeness of contrast and structure, and of brightness."""
    taps = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
    window = np.array([[one * other for other in taps] for one in taps]) / sum(taps) ** 2
    c1, c2, wa, wb = 0.01**2, 0.03**2, window * a, window * b
    ma, mb = wa.sum(), wb.sum()
    va, vb, ab = (wa * a).sum() - ma**2, (wb * b).sum() - mb**2, (wa * b).sum() - ma * mb
    return (2 * ab + c2) / (va + vb + c2), (2 * ma * mb + c1) / (ma**2 + mb**2 + c1)


def ms_ssim_by_hand(x: np.ndarray, y: np.ndarray, scales: int) -> float:
    """Of one channel: windows one by one, only where all of one lies in the picture."""
    weights, product = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)[:scales], 1.0
    for scale, weight in enumerate(weights):
        values = []
        for r in range(x.shape[0] - 10):
            for c in range(x.shape[1] - 10):
                structure, luminance = ssim_by_hand(x[r : r + 11, c : c + 11], y[r : r + 11, c : c + 11])
                values.append(structure * luminance if scale == scales - 1 else structure)
        product *= max(np.mean(values), 0.0) ** (weight / sum(weights))
        rows, columns = x.shape[0] // 2, x.shape[1] // 2
        x, y = (v[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean((1, 3)) for v in (x, y))
    return product


@pytest.mark.parametrize(
    ("side", "scales", "chans"), [(16, 1, 3), (32, 2, 2), (45, 3, 1), (88, 4, 1), (98, 4, 1), (176, 5, 1)]
)
def test_likeness_is_ms_ssim_by_hand(side, scales, chans):
    x = torch.rand(1, chans, side, side, dtype=torch.float64, generator=generator(3))
    y = (x + 0.3 * torch.randn(x.shape, dtype=x.dtype, generator=generator(4))).clamp(0, 1)
    expected = [ms_ssim_by_hand(a.numpy(), b.numpy(), scales) for a, b in zip(x[0], y[0], strict=True)]
    assert likeness(x, y).item() == pytest.approx(sum(expected) / chans, abs=1e-10)
    assert likeness(x, 1 - x).item() == 0, "what is contrary has no root"


def test_a_picture_has_the_same_score_in_any_batch():
    task = make().eval()
    image = torch.rand(5, 3, 32, 32, generator=generator())
    together = task.score(image, generator(7), masks=3)
    alone = [task.score(one[None], generator(7), masks=3)[0] for one in image]
    torch.testing.assert_close(torch.stack(alone), together, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(task.score(image, generator(8), masks=3), together)


def test_visible_patches_may_be_compared_with_themselves():
    task = make().eval()
    image = torch.rand(2, 3, 32, 32, generator=generator())
    (whole,), (mended,) = (list(task.rebuilt(image, generator(7), 1, keep)) for keep in (False, True))
    hidden = (patchify(mended, 4) != patchify(image, 4)).any(-1)
    assert hidden.sum(1).tolist() == [48, 48], "a quarter of 64 is as it was"
    assert torch.equal(patchify(mended, 4)[hidden], patchify(whole, 4)[hidden])
    expected = 1 - likeness(mended, image)
    assert torch.allclose(task.score(image, generator(7), keep_visible=True), expected)


def test_heat_is_one_minus_ssim_of_the_window_around_each_pixel():
    task = make().eval().double()
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=generator())
    found = task.heat(image, generator(7), masks=2)
    with torch.no_grad():
        others = list(task.rebuilt(image, generator(7), 2, False))
    for row, column in ((0, 0), (3, 31), (16, 9)):
        values = []
        for other in others:
            for chan in range(3):
                padded = [np.pad(part[1, chan].numpy(), 5, mode="reflect") for part in (image, other)]
                x, y = (part[row : row + 11, column : column + 11] for part in padded)
                values.append(1 - math.prod(ssim_by_hand(x, y)))
        assert found[1, row, column].item() == pytest.approx(sum(values) / 6, abs=1e-10)
    assert found.shape == (2, 32, 32) and not found.requires_grad


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="levels"):
        make(levels="none")
