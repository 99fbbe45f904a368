"""Noise that grows by levels: what a picture is hidden under, and how much of it is left (Ho et al., 2020).

Levels are counted from 0, the least noise, to T - 1. Tables are computed in float64 and kept in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import cos, pi
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.errors import UsageError

BANDS = ("coarse", "content", "clean-up")
"""What is to be found at a level: colour and layout, what is seen, or noise that nobody would notice
(Choi et al., CVPR 2022)."""

COARSE, CLEAN = 1e-2, 1.0  # signal-to-noise ratios between the bands


def linear_betas(levels: int) -> Float[Tensor, "levels"]:
    """From 1e-4 to 0.02 at 1000 levels, scaled by 1000 / T (DDPM)."""
    scale = 1000 / levels
    return torch.linspace(1e-4 * scale, 0.02 * scale, levels, dtype=torch.float64)


def cosine_betas(levels: int) -> Float[Tensor, "levels"]:
    """1 - a(t+1) / a(t) with a(t) = cos^2((t/T + 0.008) / 1.008 pi / 2), at most 0.999 (Nichol & Dhariwal,
    ICML 2021)."""
    left = [cos((t / levels + 0.008) / 1.008 * pi / 2) ** 2 for t in range(levels + 1)]
    betas = [min(1 - after / before, 0.999) for before, after in zip(left, left[1:], strict=False)]
    return torch.tensor(betas, dtype=torch.float64)


BETAS: dict[str, Callable[[int], Float[Tensor, "levels"]]] = {"linear": linear_betas, "cosine": cosine_betas}


class Schedule(NamedTuple):
    """Numbers by level; a-bar is the share of the picture's variance that is left.

    Args:
        signal: sqrt(a-bar), what the picture is multiplied by.
        noise: sqrt(1 - a-bar), what the noise is multiplied by.
        snr: a-bar / (1 - a-bar).
        unsignal: 1 / sqrt(a-bar).
        unnoise: sqrt(1 / a-bar - 1).
        from_clean: weight of the picture in the mean of x_(t-1) given x_t and the picture.
        from_noisy: weight of x_t there.
        log_small: log of that distribution's variance, at level 0 that of level 1.
        log_large: log beta.
        log_fixed: log beta, at level 0 as `log_small`: what sampling without learned variances takes.
        bound: beta^2 / (2 sigma^2 alpha (1 - a-bar)) with sigma^2 = beta: what the variational bound weighs
            an error in the noise by.
    """

    signal: Float[Tensor, "levels"]
    noise: Float[Tensor, "levels"]
    snr: Float[Tensor, "levels"]
    unsignal: Float[Tensor, "levels"]
    unnoise: Float[Tensor, "levels"]
    from_clean: Float[Tensor, "levels"]
    from_noisy: Float[Tensor, "levels"]
    log_small: Float[Tensor, "levels"]
    log_large: Float[Tensor, "levels"]
    log_fixed: Float[Tensor, "levels"]
    bound: Float[Tensor, "levels"]

    def to(self, device: torch.device | str) -> Schedule:
        return Schedule(*(table.to(device) for table in self))


def left_over(betas: Float[Tensor, "levels"]) -> Float[Tensor, "levels"]:
    """a-bar: the product of 1 - beta up to each level."""
    return (1 - betas).cumprod(0)


def make_schedule(betas: Float[Tensor, "levels"]) -> Schedule:
    """The tables of a sequence of betas.

    Raises:
        UsageError: there are fewer than two, or one is not between 0 and 1.
    """
    betas = betas.double()
    if len(betas) < 2 or not bool(((betas > 0) & (betas <= 1)).all()):
        raise UsageError("a noise schedule needs at least two levels, each with a beta in (0, 1]")
    left = left_over(betas)
    before = torch.cat([left.new_ones(1), left[:-1]])
    small = betas * (1 - before) / (1 - left)
    log_small = torch.cat([small[1:2], small[1:]]).log()
    tables = (
        left.sqrt(),
        (1 - left).sqrt(),
        1 / (1 - left) - 1,
        (1 / left).sqrt(),
        (1 / left - 1).sqrt(),
        betas * before.sqrt() / (1 - left),
        (1 - before) * (1 - betas).sqrt() / (1 - left),
        log_small,
        betas.log(),
        torch.cat([log_small[:1], betas[1:].log()]),
        betas / (2 * (1 - betas) * (1 - left)),
    )
    return Schedule(*(table.float() for table in tables))


def at(table: Float[Tensor, "levels"], level: Int[Tensor, "batch"]) -> Float[Tensor, "batch 1 1 1"]:
    """The numbers of each sample's level."""
    return table[level].view(-1, 1, 1, 1)


def diffuse(
    schedule: Schedule,
    clean: Float[Tensor, "batch chans h w"],
    noise: Float[Tensor, "batch chans h w"],
    level: Int[Tensor, "batch"],
) -> Float[Tensor, "batch chans h w"]:
    """x_t = sqrt(a-bar) x_0 + sqrt(1 - a-bar) noise."""
    return at(schedule.signal, level) * clean + at(schedule.noise, level) * noise


def undiffuse(
    schedule: Schedule,
    noisy: Float[Tensor, "batch chans h w"],
    noise: Float[Tensor, "batch chans h w"],
    level: Int[Tensor, "batch"],
) -> Float[Tensor, "batch chans h w"]:
    """x_0 = (x_t - sqrt(1 - a-bar) noise) / sqrt(a-bar): the picture, if that was the noise."""
    return at(schedule.unsignal, level) * noisy - at(schedule.unnoise, level) * noise


def posterior_mean(
    schedule: Schedule,
    clean: Float[Tensor, "batch chans h w"],
    noisy: Float[Tensor, "batch chans h w"],
    level: Int[Tensor, "batch"],
) -> Float[Tensor, "batch chans h w"]:
    """The mean of x_(t-1) given x_t and the picture."""
    return at(schedule.from_clean, level) * clean + at(schedule.from_noisy, level) * noisy


def learned_log_variance(
    schedule: Schedule, between: Float[Tensor, "batch chans h w"], level: Int[Tensor, "batch"]
) -> Float[Tensor, "batch chans h w"]:
    """The log of a variance that a network puts between the smallest (-1) and the largest (1), as logs
    (Nichol & Dhariwal, ICML 2021, eq. 15)."""
    share = (between + 1) / 2
    return share * at(schedule.log_large, level) + (1 - share) * at(schedule.log_small, level)


def bands(snr: Float[Tensor, "levels"]) -> Int[Tensor, "levels"]:
    """The place in `BANDS` of each level: SNR below 1e-2, below 1, or from there on."""
    return (snr >= COARSE).long() + (snr >= CLEAN).long()


def spread_levels(top: int, steps: int) -> list[int]:
    """`steps` levels from 0 to `top`, evenly spaced, rising; all of them where there are fewer. Where DDPM goes
    through. Places are added up as in the official code: it decides which way a middle between two levels rounds."""
    count = min(steps, top + 1)
    places = accumulate([0.0, *[top / max(count - 1, 1)] * (count - 1)])
    return sorted({round(place) for place in places})


def strided_levels(levels: int, steps: int) -> list[int]:
    """Levels 0, s, 2 s, ... below `levels`, rising, with the smallest whole stride s that leaves no more than
    `steps`: where DDIM goes through. The official code refuses numbers of steps that no stride gives exactly; here
    they are fewer then."""
    return list(range(0, levels, -(-levels // steps)))


def respaced(betas: Float[Tensor, "levels"], levels: Sequence[int]) -> Float[Tensor, "steps"]:
    """The betas of a process that only knows some levels and has the a-bar of each: 1 - a-bar / the a-bar of
    the level before it among them."""
    left = left_over(betas.double())[list(levels)]
    return 1 - left / torch.cat([left.new_ones(1), left[:-1]])
