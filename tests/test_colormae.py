"""ColorMAE's noise and masks, against loops and against what colours are."""

import math

import pytest
import torch

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.colormae import ColorMAE
from pretask.pretexts import noise
from pretask.pretexts.masks import hide_coloured, shuffle
from pretask.task import Step
from pretask.training.optimisers import groups
from pretask.training.plan import Schedule

TINY = "vit_tiny_patch16_224:depth=1,embed_dim=32,num_heads=2"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_blur_is_a_periodic_gaussian():
    side, sigma = 9, 0.8
    x = torch.randn(1, side, side, generator=generator(), dtype=torch.float64)
    # the transfer function exp(-2 pi^2 sigma^2 f^2), summed as a Fourier series by hand
    frequency = [k if k <= side // 2 else k - side for k in range(side)]
    kernel = torch.zeros(side, side, dtype=torch.float64)
    for a in range(side):
        for b in range(side):
            for u in frequency:
                for v in frequency:
                    gain = math.exp(-2 * (math.pi * sigma) ** 2 * (u * u + v * v) / side**2)
                    kernel[a, b] += gain * math.cos(2 * math.pi * (u * a + v * b) / side) / side**2
    expected = torch.zeros_like(x)
    for i in range(side):
        for j in range(side):
            for a in range(side):
                for b in range(side):
                    expected[0, i, j] += kernel[a, b] * x[0, (i - a) % side, (j - b) % side]
    assert torch.allclose(noise.blurred(x, sigma), expected, atol=1e-12)


def spectrum(colour: str) -> torch.Tensor:
    """Mean power of the patterns by distance from frequency 0, in 16 rings up to Nyquist's."""
    patterns = noise.patterns(colour)[:256]
    power = torch.fft.fft2(patterns - patterns.mean((1, 2), keepdim=True)).abs().square().mean(0)
    f = torch.fft.fftfreq(noise.SIDE)
    radius = (f[:, None] ** 2 + f**2).sqrt()
    rings = (radius * 32).long().clamp(max=15)
    total = torch.zeros(16).scatter_add(0, rings.flatten(), power.flatten())
    return total / torch.bincount(rings.flatten(), minlength=16)


def test_colours_have_their_frequencies():
    red, green, blue, purple = (spectrum(colour) for colour in ("red", "green", "blue", "purple"))
    assert red.argmax() == 0 and blue.argmax() >= 13
    assert 2 <= green.argmax() <= 12
    assert abs(int(purple.argmin()) - int(green.argmax())) <= 1, "what green keeps purple lacks"


def test_patterns_are_the_same_everywhere_and_never_negative():
    patterns = noise.patterns("green")
    assert patterns.shape == (noise.PATTERNS, noise.SIDE, noise.SIDE)
    assert patterns.amin() == 0 and patterns.amax() == 1
    noise.patterns.cache_clear()
    assert torch.equal(patterns, noise.patterns("green"))


def test_windows_are_cut_flipped_and_divided_by_their_largest():
    patterns = torch.rand(5, 12, 12, generator=generator())
    windows = noise.draw_windows(5, 12, (4, 6), 7, generator(1), mixed=True)
    cut = noise.cut(patterns, windows, (4, 6))
    for i in range(7):
        top, left = int(windows.top[i]), int(windows.left[i])
        window = patterns[windows.pattern[i], top : top + 4, left : left + 6]
        if windows.mirrored[i]:
            window = window.flip(1)
        if windows.flipped[i]:
            window = window.flip(0)
        assert torch.equal(cut[i], window / window.max())


def test_the_official_way_shares_place_and_flips_and_gives_sample_i_pattern_i():
    windows = noise.draw_windows(3, 12, (4, 4), 8, generator(2))
    assert windows.pattern.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    for field in windows[1:]:
        for turn in ((0, 1, 2), (3, 4, 5), (6, 7)):  # another place each time the patterns are gone through
            assert len(set(field[list(turn)].tolist())) == 1
    corners = {(int(windows.top[i]), int(windows.left[i])) for i in (0, 3, 6)}
    assert len(corners) > 1


def test_the_strongest_noise_is_visible():
    patterns = noise.patterns("green")
    windows = noise.draw_windows(*patterns.shape[:2], (6, 6), 4, generator(3))
    window = noise.cut(patterns, windows, (6, 6)).flatten(1)
    hidden = hide_coloured((6, 6), 27, 4, generator(3))
    for row in range(4):
        order = sorted(range(36), key=lambda place, row=row: -float(window[row, place]))
        assert set(order[:9]) == set((~hidden[row]).nonzero().flatten().tolist())
    assert shuffle(hidden, 27).visible.shape == (4, 9)


@pytest.mark.parametrize("colour", ["green", "red", "blue", "purple"])
def test_all_places_are_visible_alike_often(colour):
    steps = [hide_coloured((6, 6), 27, 256, generator(seed), colour) for seed in range(16)]
    visible = 1 - torch.cat(steps).float().mean(0)
    assert (visible - 0.25).abs().max() < 0.1


def test_red_hides_larger_pieces_than_green_and_green_than_blue():
    from scipy.ndimage import label

    found = {}
    for colour in ("red", "green", "blue"):
        visible = ~hide_coloured((14, 14), 147, 64, generator(), colour).view(64, 14, 14)
        expected = [label(mask.numpy())[1] for mask in visible]
        assert noise.pieces(visible).tolist() == expected
        found[colour] = sum(expected)
    assert found["red"] < found["green"] < found["blue"]


def test_pieces_are_counted_however_they_wind():
    maze = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    dots = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 1]]).bool()
    every = torch.stack([maze, dots, torch.zeros_like(dots), torch.ones_like(dots)])
    assert noise.pieces(every).tolist() == [1, 6, 0, 1]


@pytest.mark.parametrize("side", [6, 7])
def test_the_power_of_masks_is_a_sum_over_places_by_hand(side):
    masks = torch.rand(3, side, side, generator=generator(), dtype=torch.float64).round()
    rings = [[] for _ in range(side // 2)]
    for u in range(side):
        for v in range(side):
            cycles = math.hypot(min(u, side - u), min(v, side - v))
            power = 0.0
            for mask in masks:
                real = imaginary = 0.0
                for y in range(side):
                    for x in range(side):
                        angle, value = 2 * math.pi * (u * y + v * x) / side, float(mask[y, x] - mask.mean())
                        real, imaginary = real + value * math.cos(angle), imaginary + value * math.sin(angle)
                power += (real**2 + imaginary**2) / 3
            rings[min(int(cycles), side // 2 - 1)].append(power)
    assert noise.ring_power(masks).tolist() == pytest.approx([sum(ring) / len(ring) for ring in rings])


def test_the_recipe_is_mmpretrains():
    """Neither the class token nor the mask token decays, nor what has one dimension, and the rate begins near 0."""
    task = ColorMAE(build_encoder(TINY, image_size=32, patch_size=4))
    schedule = Schedule(task.recipe, 1.0, 0, 300)
    named = [(name, p) for name, p in task.named_parameters() if p.requires_grad]
    kept = {name for g in groups(named, schedule, task.encoder) if not g["decays"] for name in g["names"]}
    vectors = {name for name, p in named if p.ndim == 1}
    assert kept - vectors == {"encoder.model.cls_token", "decoder.mask_token"}
    expected = [1e-4, 1e-4 + (1 - 1e-4) * 20 / 39, 1.0, 1.0]  # the climb ends with its last step
    assert [schedule.shape(i) for i in (0, 20, 39, 40)] == pytest.approx(expected)


def test_colours_change_at_the_beginning_of_an_epoch():
    encoder = build_encoder(TINY, image_size=32, patch_size=4)
    task = ColorMAE(encoder, next_colours=("blue",), changes=(0.5,))
    early, late = Step.at(4, total=10, steps_per_epoch=2), Step.at(6, total=10, steps_per_epoch=2)
    for step, colour in ((early, "green"), (late, "blue")):
        expected = hide_coloured(encoder.grid, 48, 5, generator(step.generator.initial_seed()), colour)
        assert torch.equal(task.draw_mask(5, step), expected)
    with pytest.raises(UsageError, match="next_colours"):
        ColorMAE(encoder, next_colours=("blue",))
    with pytest.raises(UsageError, match="growing"):
        ColorMAE(encoder, next_colours=("blue", "red"), changes=(0.7, 0.5))


def test_a_grid_beyond_the_patterns_is_refused():
    with pytest.raises(UsageError, match="64 patches"):
        hide_coloured((65, 65), 100, 2, generator())
