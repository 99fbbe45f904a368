"""Coloured noise: white noise of which some spatial frequencies are kept (ColorMAE, Hinojosa et al., ECCV 2024)."""

from collections.abc import Callable
from functools import lru_cache
from math import pi
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pretask.pretexts import draw

PATTERNS, SIDE = 3072, 64
"""Patterns of a colour that masks are cut from, and their side in patches: larger than any mask, so that no
border shows in it."""

FINE, COARSE, RED, BLUE = 0.5, 2.0, 1.75, 1.0
"""Widths of the Gaussians in patches: of green's band, of red and of blue. The paper's own are not known."""


def blurred(noise: Float[Tensor, "patterns side side"], sigma: float) -> Float[Tensor, "patterns side side"]:
    """Through a Gaussian of this width in samples; what leaves on one side comes in on the other."""
    y, x = torch.fft.fftfreq(noise.shape[1]), torch.fft.rfftfreq(noise.shape[2])
    kept = (-2 * (pi * sigma) ** 2 * (y[:, None] ** 2 + x**2)).exp().to(noise.device)
    return torch.fft.irfft2(torch.fft.rfft2(noise) * kept, s=noise.shape[1:])


def green(noise: Tensor) -> Tensor:
    return blurred(noise, FINE) - blurred(noise, COARSE)


COLOURS: dict[str, Callable[[Tensor], Tensor]] = {
    "red": lambda noise: blurred(noise, RED),
    "green": green,
    "blue": lambda noise: noise - blurred(noise, BLUE),
    "purple": lambda noise: noise - green(noise),
}
"""Which frequencies of white noise stay: the low, those between, the high, all but those between."""


@lru_cache(maxsize=8)
def patterns(
    colour: str, device: str = "cpu", count: int = PATTERNS, side: int = SIDE
) -> Float[Tensor, "patterns side side"]:
    """Noise of a colour, each pattern from 0 to 1; always the same."""
    white = torch.randn(count, side, side, generator=torch.Generator().manual_seed(0))
    noise = COLOURS[colour](white)
    low, high = noise.amin((1, 2), keepdim=True), noise.amax((1, 2), keepdim=True)
    return ((noise - low) / (high - low)).to(device)


class Windows(NamedTuple):
    """Where in which pattern the mask of each sample lies.

    Args:
        pattern: which pattern.
        top, left: the window's corner.
        mirrored, flipped: whether the pattern is mirrored left to right and turned upside down, after
            the window was cut.
    """

    pattern: Int[Tensor, "batch"]
    top: Int[Tensor, "batch"]
    left: Int[Tensor, "batch"]
    mirrored: Bool[Tensor, "batch"]
    flipped: Bool[Tensor, "batch"]


def draw_windows(
    count: int, side: int, grid: tuple[int, int], batch: int, generator: torch.Generator, mixed: bool = False
) -> Windows:
    """Windows for a batch.

    As in the official code sample i takes pattern i, and corner and flips are the same for all of them;
    a batch of more samples than there are patterns goes through them again, with another corner.

    Args:
        count: patterns there are.
        side: of a pattern.
        grid: rows and columns of the window.
        batch: samples.
        generator: the randomness.
        mixed: draw pattern, corner and flips for each sample instead.
    """
    if mixed:
        unit = draw.uniform((batch, 5), generator)
        pattern = (unit[:, 0] * count).long()
    else:
        number = draw.own_rows(torch.arange, batch)
        turns = draw.common((int(number[-1]) // count + 1, 5), generator)
        pattern, unit = (number % count).to(turns.device), turns[number // count]
    top, left = ((unit[:, i] * (side - grid[i - 1] + 1)).long() for i in (1, 2))
    return Windows(pattern, top, left, unit[:, 3] < 0.5, unit[:, 4] < 0.5)


def cut(
    noise: Float[Tensor, "patterns side side"], windows: Windows, grid: tuple[int, int]
) -> Float[Tensor, "batch rows columns"]:
    """The windows, each divided by its largest value."""
    row, column = (torch.arange(size, device=noise.device) for size in grid)
    rows = torch.where(windows.flipped[:, None], row.flip(0), row) + windows.top[:, None]
    columns = torch.where(windows.mirrored[:, None], column.flip(0), column) + windows.left[:, None]
    found = noise[windows.pattern[:, None, None], rows[:, :, None], columns[:, None, :]]
    return found / found.amax((1, 2), keepdim=True)


def ring_power(maps: Float[Tensor, "batch side side"]) -> Float[Tensor, "rings"]:
    """Mean power of masks or patterns, without their means, by spatial frequency: the first value is that of less
    than one cycle a side, the next of one to two; the last counts the corners of the spectrum too."""
    side = maps.shape[-1]
    power = torch.fft.fft2(maps - maps.mean((1, 2), keepdim=True)).abs().square().mean(0).flatten()
    cycles = torch.fft.fftfreq(side, 1 / side, device=maps.device)
    ring = (cycles[:, None] ** 2 + cycles**2).sqrt().long().clamp(max=side // 2 - 1).flatten()
    return power.new_zeros(side // 2).index_add(0, ring, power) / torch.bincount(ring)


def pieces(mask: Bool[Tensor, "batch rows columns"]) -> Int[Tensor, "batch"]:
    """How many connected pieces there are of what is set, neighbours being those above, below, left and right; what
    is set divided by this is a piece's mean size."""
    number = torch.arange(1, mask[0].numel() + 1, device=mask.device).view(mask.shape[1:]) * mask
    label, before = number, torch.zeros_like(number)
    while not torch.equal(label, before):  # the largest number spreads over each piece
        before, wide = label, F.pad(label, (1, 1, 1, 1))
        rows = torch.maximum(wide[:, :-2, 1:-1], wide[:, 2:, 1:-1])
        columns = torch.maximum(wide[:, 1:-1, :-2], wide[:, 1:-1, 2:])
        label = torch.maximum(label, torch.maximum(rows, columns)) * mask
    return (mask & (label == number)).sum((1, 2))
