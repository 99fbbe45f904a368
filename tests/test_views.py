"""Views against torchvision: the same pixels for the same parameters, the same distribution of parameters."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as tv

from pretask.pretexts import photometric
from pretask.pretexts.resample import crop, crop_batch, crop_each
from pretask.pretexts.views import View, ViewSpec, apply_view, dino_views, draw_view, mae_view, simclr_views


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(batch: int, chans: int, side: int, seed: int = 0, float_: bool = False) -> torch.Tensor:
    """Smooth random pictures: bicubic overshoot of pure noise says nothing about real ones."""
    coarse = torch.rand(batch, chans, 6, 6, generator=generator(seed))
    image = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return image if float_ else (image * 255).round().to(torch.uint8)


def square(batch: int, side: int) -> torch.Tensor:
    return torch.full((batch, 2), side)


# ---- crops


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("cut", [crop_batch, crop_each])
@pytest.mark.parametrize(("side", "size", "chans"), [(40, 40, 3), (128, 17, 1), (20, 33, 5), (64, 64, 3)])
def test_a_crop_is_torchvisions_antialiased_resized_crop(interpolation, cut, side, size, chans):
    image = pictures(6, chans, side, float_=True)
    view = draw_view(ViewSpec(size, flip=0.5), 6, generator(1), square(6, side))
    out = cut(image, view.box, view.flip, size, interpolation)
    for row in range(6):
        x0, y0, x1, y1 = (view.box[row] * side).round().long().tolist()
        expected = tv.resized_crop(
            image[row],
            y0,
            x0,
            y1 - y0,
            x1 - x0,
            [size, size],
            InterpolationMode(interpolation),
            antialias=True,
        )
        expected = expected.flip(-1) if view.flip[row] else expected
        torch.testing.assert_close(out[row], expected.clamp(0, 1), atol=2e-5, rtol=0)


@pytest.mark.parametrize("cut", [crop_batch, crop_each])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_bytes_and_floats_give_the_same_crop(cut, interpolation):
    image = pictures(5, 3, 64)
    view = draw_view(ViewSpec(32, flip=0.5), 5, generator(), square(5, 64))
    from_bytes = cut(image, view.box, view.flip, 32, interpolation)
    from_floats = cut(image.float() / 255, view.box, view.flip, 32, interpolation)
    torch.testing.assert_close(from_bytes, from_floats, atol=1.5 / 255, rtol=0)


def test_memory_layout_does_not_matter():
    image = pictures(4, 3, 80)
    view = draw_view(ViewSpec(32), 4, generator(), square(4, 80))
    for cut in (crop_batch, crop_each):
        last = cut(image.contiguous(memory_format=torch.channels_last), view.box, view.flip, 32, "bilinear")
        torch.testing.assert_close(last, cut(image, view.box, view.flip, 32, "bilinear"), atol=1e-2, rtol=0)


@pytest.mark.parametrize("side", [40, 100])
def test_box_and_flip_point_to_the_pixels(side):
    """A picture whose channels are its own coordinates shows where each pixel of a view came from."""
    place = (torch.arange(side) + 0.5) / side
    image = torch.stack([place.expand(side, side), place.view(-1, 1).expand(side, side)]).expand(
        16, -1, -1, -1
    )
    size = torch.tensor([[60, 200]]).expand(16, -1)
    spec = ViewSpec(24, scale=(0.3, 1.0), flip=0.5)
    view = draw_view(spec, 16, generator(2), size)
    out = apply_view(spec, image, view)
    x0, y0, x1, y1 = view.box.unbind(1)
    assert view.flip.any() and not view.flip.all()
    across = (torch.arange(24) + 0.5) / 24
    across = torch.where(view.flip.view(-1, 1), across.flip(0), across)
    x = x0.view(-1, 1) + across * (x1 - x0).view(-1, 1)
    y = y0.view(-1, 1) + (torch.arange(24) + 0.5) / 24 * (y1 - y0).view(-1, 1)
    inner = slice(4, -4)  # near a crop's border only pixels within it count
    close = {"atol": 0.75 / side, "rtol": 0.0}  # larger canvases: boxes rounded to whole pixels
    torch.testing.assert_close(out[:, 0].mean(1)[:, inner], x[:, inner], **close)
    torch.testing.assert_close(out[:, 1].mean(2)[:, inner], y[:, inner], **close)


def test_crops_follow_the_original_pictures_geometry():
    size = torch.tensor([[100, 400]]).expand(2000, -1)
    view = draw_view(ViewSpec(32, scale=(0.05, 0.2)), 2000, generator(), size)
    w, h = (view.box[:, 2] - view.box[:, 0]) * 400, (view.box[:, 3] - view.box[:, 1]) * 100
    assert ((w / h) > 0.7).all() and ((w / h) < 1.4).all()
    assert (w * h / 40000 > 0.045).all() and (w * h / 40000 < 0.21).all()
    torch.testing.assert_close(w, w.round(), atol=1e-3, rtol=0)
    assert (view.box >= 0).all() and (view.box <= 1 + 1e-6).all()


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(32, 32, (0.08, 1.0)), (375, 500, (0.08, 1.0)), (50, 70, (0.2, 1.0)), (30, 200, (0.5, 1.0))],
)
def test_boxes_are_distributed_as_torchvisions(height, width, scale):
    view = draw_view(ViewSpec(32, scale=scale), 6000, generator(3), torch.tensor([[height, width]] * 6000))
    scaled = view.box * torch.tensor([width, height, width, height])
    ours = torch.stack(
        [scaled[:, 0], scaled[:, 1], scaled[:, 2] - scaled[:, 0], scaled[:, 3] - scaled[:, 1]], 1
    )
    sampler = v2.RandomResizedCrop(32, scale=scale)
    picture = torch.zeros(1, height, width)
    torch.manual_seed(0)
    theirs = [sampler.make_params([picture]) for _ in range(3000)]
    theirs = np.array([[p["left"], p["top"], p["width"], p["height"]] for p in theirs], float)
    for column in range(4):
        assert stats.ks_2samp(ours[:, column].round().numpy(), theirs[:, column]).pvalue > 1e-3


def test_impossible_crops_fall_back_to_the_central_one():
    """Wider than every ratio allows: torchvision takes the whole height and the longest width."""
    view = draw_view(ViewSpec(32, scale=(0.9, 1.0)), 8, generator(), torch.tensor([[20, 300]] * 8))
    expected = torch.tensor([136 / 300, 0.0, (136 + 27) / 300, 1.0]).expand(8, -1)
    torch.testing.assert_close(view.box, expected)
    view = draw_view(ViewSpec(32, scale=(0.9, 1.0)), 8, generator(), torch.tensor([[300, 20]] * 8))
    torch.testing.assert_close(view.box, expected[:, [1, 0, 3, 2]])


def test_without_scale_the_whole_picture_is_taken():
    image = pictures(3, 3, 32)
    spec = ViewSpec(32, scale=None)
    out = apply_view(spec, image, draw_view(spec, 3, generator(), torch.tensor([[7, 300]] * 3)))
    torch.testing.assert_close(out, image / 255, atol=1e-6, rtol=0)


# ---- colours


def random_pictures(batch: int = 6, side: int = 16) -> torch.Tensor:
    image = torch.rand(batch, 3, side, side, generator=generator(5))
    image[0] = 0.5  # no chroma
    image[1, :, :4] = 0  # black
    image[2, 0] = image[2, 1]  # two channels tie for the largest or smallest
    image[3, 1] = image[3, 2]
    return image


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (photometric.brightness, tv.adjust_brightness, (0.0, 0.4, 1.0, 1.8)),
        (photometric.contrast, tv.adjust_contrast, (0.0, 0.4, 1.0, 1.8)),
        (photometric.saturation, tv.adjust_saturation, (0.0, 0.4, 1.0, 1.8)),
        (photometric.hue, tv.adjust_hue, (-0.5, -0.37, 0.0, 0.1, 0.25, 0.5)),
    ],
)
def test_each_colour_change_is_torchvisions(ours, theirs, factors):
    image = random_pictures()
    for factor in factors:
        out = ours(image.clone(), torch.full((len(image), 1, 1, 1), factor))
        torch.testing.assert_close(out, theirs(image, factor), atol=5e-6, rtol=0)


@pytest.mark.parametrize("side", [16, 190])
@pytest.mark.parametrize("path", ["grouped", "together"])
def test_jitter_is_torchvisions_changes_in_each_samples_order(side, path):
    image = torch.rand(30 if side < 100 else 5, 3, side, side, generator=generator(6))
    spec = ViewSpec(side, jitter=0.7, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
    view = draw_view(spec, len(image), generator(7))
    change = photometric.jitter if path == "grouped" else photometric.jitter_together
    out = change(image.clone(), view.jitter, view.order, view.factors)
    adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for row in range(len(image)):
        expected = image[row]
        if view.jitter[row]:
            for kind in view.order[row].tolist():
                expected = adjust[kind](expected, float(view.factors[row, kind]))
        torch.testing.assert_close(out[row], expected, atol=2e-5, rtol=0)
    assert view.jitter.any() and not view.jitter.all()


@pytest.mark.parametrize("chans", [1, 2, 5])
def test_without_three_channels_only_brightness_and_contrast_change(chans):
    spec = replace(simclr_views(16), jitter=1.0, grey=1.0)
    image = torch.rand(6, chans, 16, 16, generator=generator(8))
    view = draw_view(spec, 6, generator(9))
    view = view._replace(
        box=torch.tensor([0.0, 0, 1, 1]).expand(6, -1), flip=torch.zeros(6, dtype=torch.bool)
    )
    out = apply_view(spec, image, view)
    for row in range(6):
        expected = image[row]
        for kind in view.order[row].tolist():
            factor = view.factors[row, kind]
            if kind == 0:
                expected = (expected * factor).clamp(0, 1)
            if kind == 1:
                expected = (factor * expected + (1 - factor) * expected.mean()).clamp(0, 1)
        torch.testing.assert_close(out[row], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("side", "radius"), [(16, 2), (33, 6), (70, 11), (8, 20)])
def test_blur_is_torchvisions(side, radius):
    image = torch.rand(4, 3, side, side, generator=generator(10))
    sigma = torch.tensor([0.1, 0.7, 1.3, 2.0])
    out = photometric.gaussian_blur(image, sigma, radius)
    taps = 2 * min(radius, side - 1) + 1
    for row in range(4):
        expected = tv.gaussian_blur(image[row], [taps, taps], [float(sigma[row])] * 2)
        torch.testing.assert_close(out[row], expected, atol=5e-6, rtol=0)


def test_only_the_chosen_rows_are_grey_blurred_and_solarised():
    spec = ViewSpec(20, scale=None, grey=0.5, blur=0.5, blur_kernel=5, solarise=0.5)
    image = torch.rand(24, 3, 20, 20, generator=generator(11))
    view = draw_view(spec, 24, generator(12))
    out = apply_view(spec, image, view)
    for row in range(24):
        expected = image[row]
        if view.grey[row]:
            expected = tv.rgb_to_grayscale(expected, 3)
        if view.blur[row]:
            expected = tv.gaussian_blur(expected, [5, 5], [float(view.sigma[row])] * 2)
        if view.solarise[row]:
            expected = tv.solarize(expected, 0.5)
        torch.testing.assert_close(out[row], expected, atol=5e-6, rtol=0)
    for coin in (view.grey, view.blur, view.solarise):
        assert coin.any() and not coin.all()


def test_the_branch_free_path_gives_what_the_grouped_one_gives(monkeypatch):
    """What an accelerator runs, run on the CPU."""
    spec = replace(simclr_views(96), solarise=0.3)
    image = pictures(6, 3, 40)
    view = draw_view(spec, 6, generator(13), square(6, 40))
    out = apply_view(spec, image, view)
    monkeypatch.setattr(photometric, "on_cpu", lambda image: False)
    torch.testing.assert_close(apply_view(spec, image, view), out, atol=1e-5, rtol=0)


# ---- distributions


def test_factors_order_and_coins_are_distributed_as_the_papers():
    spec = replace(simclr_views(224), solarise=0.2)
    view = draw_view(spec, 20000, generator(14))
    for kind, (low, high) in enumerate([(0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.2, 0.2)]):
        uniform = stats.uniform(low, high - low)
        assert stats.kstest(view.factors[:, kind].numpy(), uniform.cdf).pvalue > 1e-3
    assert stats.kstest(view.sigma.numpy(), stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3
    codes = (view.order * torch.tensor([64, 16, 4, 1])).sum(1)
    _, counts = codes.unique(return_counts=True)
    assert len(counts) == 24 and stats.chisquare(counts.numpy()).pvalue > 1e-3
    for coin, share in [(view.flip, 0.5), (view.jitter, 0.8), (view.grey, 0.2), (view.blur, 0.5)]:
        assert stats.binomtest(int(coin.sum()), 20000, share).pvalue > 1e-3


def test_factors_agree_with_torchvisions_sampler():
    """ColorJitter clips its factors at 0, as ours are where the spread exceeds 1."""
    spec = ViewSpec(8, jitter=1.0, brightness=1.5, contrast=0.4, saturation=0.9, hue=0.3)
    ours = draw_view(spec, 4000, generator(15)).factors
    sampler = v2.ColorJitter(1.5, 0.4, 0.9, 0.3)
    torch.manual_seed(0)
    theirs = [sampler.make_params([]) for _ in range(4000)]
    for kind, name in enumerate(["brightness", "contrast", "saturation", "hue"]):
        values = [params[f"{name}_factor"] for params in theirs]
        assert stats.ks_2samp(ours[:, kind].numpy(), values).pvalue > 1e-3


# ---- the whole


def test_rows_are_independent_and_views_replay():
    spec = simclr_views(72)
    image = pictures(9, 3, 72)
    view = draw_view(spec, 9, generator(16), square(9, 72))
    out = apply_view(spec, image, view)
    assert torch.equal(out, apply_view(spec, image, view))
    some = torch.tensor([7, 2, 5])
    part = apply_view(spec, image[some], View(*(value[some] for value in view)))
    torch.testing.assert_close(part, out[some], atol=1e-6, rtol=0)


def test_the_picture_is_left_as_it_was():
    image = torch.rand(4, 3, 32, 32)
    before = image.clone()
    spec = replace(simclr_views(32), scale=None)
    apply_view(spec, image, draw_view(spec, 4, generator()))
    assert torch.equal(image, before)


def test_the_global_random_state_is_neither_read_nor_changed():
    spec = simclr_views(32)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = draw_view(spec, 5, generator(17))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    two = draw_view(spec, 5, generator(17))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("chans", [1, 3, 5])
@pytest.mark.parametrize("side", [31, 96])
def test_presets_give_float_pictures_in_range(chans, side):
    image = pictures(3, chans, 50)
    for spec in (simclr_views(side), mae_view(side), *dino_views(side, side // 2)):
        out = apply_view(spec, image, draw_view(spec, 3, generator(18), square(3, 50)))
        assert out.shape == (3, chans, spec.size, spec.size) and out.dtype == torch.float32
        assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1


def test_presets_hold_the_papers_numbers():
    simclr = simclr_views(224)
    assert (simclr.scale, simclr.jitter, simclr.hue, simclr.grey, simclr.blur) == (
        (0.08, 1.0),
        0.8,
        0.2,
        0.2,
        0.5,
    )
    assert 2 * simclr.blur_radius + 1 == 23  # a tenth of the side
    assert (simclr_views(32).brightness, simclr_views(32).blur) == (0.4, 0.0)  # CIFAR-10: half, no blur
    first, second, local = dino_views(224, 96)
    assert (first.blur, second.blur, local.blur, second.solarise) == (1.0, 0.1, 0.5, 0.2)
    assert (first.brightness, first.contrast, first.saturation, first.hue) == (0.4, 0.4, 0.2, 0.1)
    assert mae_view(224).scale == (0.2, 1.0) and mae_view(224).interpolation == "bicubic"


def test_crops_of_a_pixel_and_less_are_finite():
    box = torch.tensor([[0.5, 0.5, 0.501, 0.501]])
    for side in (10, 100):
        out = crop(torch.rand(1, 3, side, side), box, torch.tensor([False]), 8)
        assert out.isfinite().all()


def test_the_branch_free_path_compiles_to_one_graph(monkeypatch):
    """No question to the host on the way: torch.compile finds no place to break the graph."""
    monkeypatch.setattr(photometric, "on_cpu", lambda image: False)
    spec = replace(simclr_views(96), solarise=0.3)
    image = pictures(3, 3, 40)
    view = draw_view(spec, 3, generator(19), square(3, 40))
    compiled = torch.compile(apply_view, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(spec, image, view), apply_view(spec, image, view))
