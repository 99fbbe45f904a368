"""ScatSimCLR: scattering from the formulas, the adapter, turns, tiles, and the loss of a step."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock
from torch import nn

import tiny
from pretask.encoders import build_encoder
from pretask.encoders.heads import dropped
from pretask.encoders.scattering import coefficients, wavelets
from pretask.errors import PretaskError, UsageError
from pretask.methods.image.scatsimclr import ScatSimCLR
from pretask.pretexts.patches import enlarged_thirds, thirds
from pretask.pretexts.permutation import far_apart
from pretask.pretexts.views import ViewSpec
from pretask.task import Step

SCAT = "scatnet8:angles=2,stem=8,stacks=[[8,1],[12,1]]"


def encoder(name: str = SCAT, side: int = 16, chans: int = 3):
    return build_encoder(name, image_size=side, in_chans=chans, seed=0)


def make(**options) -> ScatSimCLR:
    torch.manual_seed(0)
    return ScatSimCLR(tiny.encoder("grid"), **options)


def gabor(n: int, sigma: float, theta: float, xi: float, slant: float) -> np.ndarray:
    """exp(-(a^2 + slant^2 b^2) / 2 sigma^2 + i xi a) with a along the angle and b across, wrapped around."""
    total = np.zeros((n, n), complex)
    for down in range(-2, 3):
        for right in range(-2, 3):
            x, y = np.mgrid[down * n : down * n + n, right * n : right * n + n].astype(float)
            a, b = x * np.cos(theta) + y * np.sin(theta), y * np.cos(theta) - x * np.sin(theta)
            total += np.exp(-(a**2 + slant**2 * b**2) / (2 * sigma**2) + 1j * xi * a)
    return total / (2 * 3.1415 * sigma**2 / slant)


def morlet(n: int, scale: int, angle: int, angles: int) -> np.ndarray:
    sigma, xi = 0.8 * 2**scale, 0.75 * np.pi / 2**scale
    theta, slant = (int(angles - angles / 2 - 1) - angle) * np.pi / angles, 4 / angles
    wave, hill = gabor(n, sigma, theta, xi, slant), gabor(n, sigma, theta, 0, slant)
    return wave - wave.sum() / hill.sum() * hill


def folded(filter_: np.ndarray) -> np.ndarray:
    """A real filter's spectrum for every second pixel: what the coarser grid cannot hold is left out."""
    spectrum, n = np.fft.fft2(filter_).real, len(filter_)
    spectrum[n // 4 : 3 * n // 4] = 0
    spectrum[:, n // 4 : 3 * n // 4] = 0
    half = n // 2
    return sum(spectrum[i : i + half, j : j + half] for i in (0, half) for j in (0, half))


def naive_scattering(picture: np.ndarray, angles: int) -> np.ndarray:
    """Two scales, order by order."""
    side = len(picture)
    n = ((side + 4) // 4 + 1) * 4
    x = np.pad(picture.astype(float), (((n - side) // 2, (n - side + 1) // 2),) * 2, mode="reflect")
    phi = gabor(n, 1.6, 0, 0, 1.0)
    phis = [np.fft.fft2(phi).real, folded(phi)]
    psis = {(j, k): np.fft.fft2(morlet(n, j, k, angles)).real for j in range(2) for k in range(angles)}

    def through(signal: np.ndarray, spectrum: np.ndarray, every: int) -> np.ndarray:
        return np.fft.ifft2(np.fft.fft2(signal) * spectrum)[::every, ::every]

    orders: list[list[np.ndarray]] = [[through(x, phis[0], 4).real], [], []]
    for (j, _), psi in psis.items():
        first = abs(through(x, psi, 2**j))
        orders[1].append(through(first, phis[j], 2 ** (2 - j)).real)
        if j == 0:
            for k in range(angles):
                second = abs(through(first, psis[1, k], 2))
                orders[2].append(through(second, phis[1], 2).real)
    return np.stack([image[1:-1, 1:-1] for order in orders for image in order])


@pytest.mark.parametrize(("side", "angles"), [(16, 3), (20, 4)])
def test_scattering_is_the_formulas(side, angles):
    x = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    found = wavelets(side, side, 2, angles, "cpu")(torch.from_numpy(x)[None])[0]
    expected = naive_scattering(x, angles)
    assert found.shape == expected.shape == (coefficients(2, angles), side // 4, side // 4)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-4)


def test_coefficients_are_counted_and_lie_channel_by_channel():
    assert (coefficients(2, 16), coefficients(2, 8), coefficients(3, 4)) == (289, 81, 61)
    model, x = encoder().model, torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    whole, count = model.scatter(x), coefficients(2, 2)
    assert whole.shape == (2, 3 * count, 4, 4)
    for channel in range(3):
        own = wavelets(16, 16, 2, 2, "cpu")(x[:, channel].contiguous())
        assert torch.equal(whole[:, channel * count : (channel + 1) * count], own)


@pytest.mark.parametrize(
    ("name", "stem", "widths"),
    [
        ("scatnet8", 32, [64] * 4 + [128] * 4),
        ("scatnet12", 256, [128] * 4 + [64] * 4 + [128] * 4),
        ("scatnet16", 256, [128] * 6 + [64] * 4 + [128] * 6),
        ("scatnet30", 256, [128] * 30),
        ("scatnet45", 256, [128] * 15 + [64] * 15 + [128] * 15),
    ],
)
def test_the_papers_adapters(name, stem, widths):
    made = encoder(f"{name}:angles=2", 32)
    first, *rest = made.model.adapter
    assert isinstance(first, nn.Conv2d) and first.weight.shape == (stem, 27, 3, 3) and first.bias is None
    assert isinstance(rest[0], nn.BatchNorm2d) and isinstance(rest[1], nn.ReLU)
    blocks = rest[2:]
    assert [block.conv2.out_channels for block in blocks] == widths
    assert all(isinstance(block, BasicBlock) and block.conv1.stride == (1, 1) for block in blocks)
    assert made.dim == 2048


def test_the_convolution_sees_raw_coefficients_and_features_are_four_by_four_means():
    made = encoder(side=32).eval()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    out = made(x)
    maps = made.model.adapter(made.model.scatter((x - made.mean) / made.std))
    assert maps.shape == (2, 12, 8, 8) and out.grid == (8, 8) and made.dim == 12 * 16
    for c, row, column in ((0, 0, 0), (5, 2, 1), (11, 3, 3)):
        field = maps[1, c, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean()
        assert out.pooled[1, c * 16 + row * 4 + column].item() == pytest.approx(field.item(), abs=1e-5)


def test_wavelets_learn_nothing_and_are_no_state():
    assert not encoder("scatnet8:angles=2,stem=0").state_dict()
    assert encoder("scatnet8:angles=2,stem=0").dim == 3 * 9 * 16
    task = ScatSimCLR(encoder())
    task.total(task.loss(tiny.images(4, side=16), Step.at())).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        low = task.loss(tiny.images(4, side=16), Step.at())
    for name, value in task.loss(tiny.images(4, side=16), Step.at()).items():
        assert low[name].item() == pytest.approx(value.item(), rel=0.05)


@pytest.mark.parametrize(("side", "chans"), [(35, 1), (21, 5)])
def test_odd_sizes_and_channels(side, chans):
    made = encoder(side=side, chans=chans)
    assert made(torch.rand(2, chans, side, side)).pooled.shape == (2, made.dim)


def test_too_small_pictures_and_a_missing_package_are_explained(monkeypatch):
    with pytest.raises(UsageError, match="at least 16"):
        encoder("scatnet8:scales=4,angles=1", 8)(torch.rand(1, 3, 8, 8))
    wavelets.cache_clear()
    monkeypatch.setitem(sys.modules, "kymatio", None)
    with pytest.raises(PretaskError, match=r"pretask\[scattering\]"):
        encoder()(torch.rand(1, 3, 16, 16))


def test_thirds_are_rounded_inwards_as_noroozis_are():
    assert thirds(96) == [(0, 32), (32, 64), (64, 96)]
    assert thirds(32) == [(0, 10), (11, 21), (22, 31)]  # 26.67 + 5.33 falls short of 32
    assert thirds(35) == [(0, 11), (12, 23), (24, 35)]


def test_tiles_go_row_by_row_at_the_full_size():
    image = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    parts = enlarged_thirds(image, 8)
    assert parts.shape == (2, 9, 3, 8, 8)
    for n in range(9):
        row, column = n // 3, n % 3
        cut = image[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        expected = F.interpolate(cut, (8, 8), mode="bilinear", align_corners=False)
        torch.testing.assert_close(parts[:, n], expected)


def test_label_one_is_clockwise_and_each_turn_has_a_view_of_its_own():
    task, batch = make(), tiny.images(3)
    task.first = ViewSpec(tiny.SIDE, None)
    turned, answer = task.turned(batch, Step.at())
    assert answer.tolist() == [0, 1, 2, 3] * 3
    for n in range(12):
        expected = np.rot90(batch["image"][n // 4].numpy() / 255, -(n % 4), (1, 2))
        np.testing.assert_allclose(turned[n].numpy(), expected, atol=1e-5)
    task, flat = make(), {"image": torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)}
    flat["image"][:, 0] = 180
    colours = task.turned(flat, Step.at(1))[0].mean((2, 3))
    assert len({tuple(round(v, 4) for v in colour) for colour in colours.tolist()}) == 4


def test_tile_order_t_stands_at_place_t():
    task, batch = make(pretext="jigsaw"), tiny.images(4)
    assert torch.equal(task.orders, far_apart(9, 35)) and task.head.out_features == 35
    shown, answer = task.tiles(batch, Step.at(2))
    plain = enlarged_thirds(batch["image"].float() / 255, tiny.SIDE)
    for n in range(4):
        for place in range(9):
            assert torch.equal(shown[n, place], plain[n, task.orders[answer[n], place]])


def test_tiles_are_not_normalised():
    task, seen = make(pretext="jigsaw"), []
    tiles, _ = task.tiles(tiny.images(2), Step.at())
    task.encoder.register_forward_pre_hook(lambda module, given: seen.append(module.normalise(given[0])))
    task.order_logits(tiles, Step.at())
    torch.testing.assert_close(seen[0], tiles.flatten(0, 1), atol=1e-5, rtol=0)


def naive_nt_xent(a: np.ndarray, b: np.ndarray, temperature: float) -> float:
    """Rows in the order [second; first], a partner B away, the sum over rows divided by 2B."""
    z = np.concatenate([b, a])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    total = 0.0
    for i in range(len(z)):
        others = [z[i] @ z[k] / temperature for k in range(len(z)) if k != i]
        total += np.log(np.exp(others).sum()) - z[i] @ z[(i + len(a)) % len(z)] / temperature
    return total / len(z)


@pytest.mark.parametrize("pretext", ["rotation", "jigsaw"])
def test_the_loss_of_a_step(pretext):
    task, batch = make(pretext=pretext, dropout=0.0), tiny.images(4)
    losses, step = task.loss(batch, Step.at(3)), Step.at(3)
    a, b = (task.projector(task.encoder(v).pooled) for v in task.views(batch, step).chunk(2))
    expected = naive_nt_xent(a.detach().double().numpy(), b.detach().double().numpy(), 0.5)
    assert losses["nt_xent"].item() == pytest.approx(expected, rel=1e-4)
    first, second = task.hidden
    if pretext == "rotation":
        shown, answer = task.turned(batch, step)
        hidden = first(task.encoder(shown).pooled).relu()
        assert (first.out_features, second.out_features, task.head.out_features) == (512, 128, 4)
    else:
        tiles, answer = task.tiles(batch, step)
        given = tiles.flatten(0, 1) * task.encoder.std + task.encoder.mean
        each = first(task.encoder(given).pooled).relu()
        hidden = torch.stack([torch.cat([each[9 * n + t] for t in range(9)]) for n in range(4)])
        assert (first.out_features, second.in_features, second.out_features) == (512, 4608, 4096)
    entropy = F.cross_entropy(task.head(second(hidden).relu()), answer)
    assert losses[pretext].item() == pytest.approx(entropy.item(), rel=1e-3)
    assert task.total(losses).item() == pytest.approx(expected + 0.3 * entropy.item(), rel=1e-3)


def test_three_forward_passes_and_none_for_a_question_that_is_not_asked():
    for pretext, counts in (("rotation", [4, 4, 16]), ("jigsaw", [4, 4, 36]), ("none", [4, 4])):
        task, seen = make(pretext=pretext), []
        task.encoder.register_forward_hook(lambda module, given, out, seen=seen: seen.append(len(given[0])))
        assert set(task.loss(tiny.images(4), Step.at())) == {"nt_xent", pretext} - {"none"}
        assert seen == counts and set(task.chance(4)) == {"nt_xent", pretext} - {"none"}


def test_views_take_the_picture_as_square_and_the_blur_follows_the_side():
    task, batch = make(), tiny.images(4)
    other = {**batch, "size": torch.tensor([[90, 20]] * 4)}
    assert torch.equal(task.views(batch, Step.at()), task.views(other, Step.at()))
    spec = ScatSimCLR(encoder(side=96)).first
    assert (spec.blur_kernel, spec.brightness, spec.hue, spec.scale) == (9, 0.8, 0.2, (0.08, 1.0))
    assert task.first.blur_kernel == 3 and ScatSimCLR(encoder(side=16)).first.blur == 0.0


def test_dropout_is_the_steps():
    x = torch.ones(200, 50)
    out = dropped(x, 0.25, torch.Generator().manual_seed(0))
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(out, dropped(x, 0.25, torch.Generator().manual_seed(0)))
    task = make().eval()
    assert torch.equal(
        task.turn_logits(torch.ones(4, 3, 32, 32), Step.at(1)),
        task.turn_logits(torch.ones(4, 3, 32, 32), Step.at(2)),
    )


def test_orders_can_be_given():
    table = "012345678, 102345678,876543210"
    task, batch = make(pretext="jigsaw", table=table), tiny.images(6)
    assert task.orders.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8], [1, 0, *range(2, 9)], [*range(8, -1, -1)]]
    shown, answer = task.tiles(batch, Step.at(1))
    parts = enlarged_thirds(batch["image"] / 255, tiny.SIDE)
    for row, which in enumerate(answer.tolist()):
        for place, digit in enumerate(table.replace(" ", "").split(",")[which]):
            torch.testing.assert_close(shown[row, place], parts[row, int(digit)])
    assert task.head.out_features == 3 and task.chance(4)["jigsaw"] == pytest.approx(np.log(3))
    for wrong in ("012345677", "01234567", "012345678,012345678"):
        with pytest.raises(UsageError, match="digits"):
            make(pretext="jigsaw", table=wrong)
