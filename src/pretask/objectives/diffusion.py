"""How wrong a guess of the noise is, and how much each level counts (Choi et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi, sqrt
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.pretexts.diffusion import (
    BANDS,
    Schedule,
    at,
    bands,
    learned_log_variance,
    posterior_mean,
    undiffuse,
)

Levels = Float[Tensor, "levels"]
Picture = Float[Tensor, "batch chans h w"]
Each = Float[Tensor, "batch"]


def p2_weight(schedule: Schedule, k: float = 1.0, gamma: float = 1.0) -> Levels:
    """1 / (k + SNR)^gamma: levels at which content must be guessed count more than the removal of noise that
    nobody would notice. gamma = 0 weighs all alike; with k = gamma = 1 it is 1 - a-bar."""
    return (k + schedule.snr) ** -gamma


def min_snr_weight(schedule: Schedule, most: float = 5.0) -> Levels:
    """min(SNR, 5) / SNR (Hang et al., ICCV 2023)."""
    return schedule.snr.clamp(max=most) / schedule.snr


def truncated_snr_weight(schedule: Schedule) -> Levels:
    """max(SNR, 1) / SNR (Salimans & Ho, ICLR 2022)."""
    return schedule.snr.clamp(min=1) / schedule.snr


def bound_weight(schedule: Schedule) -> Levels:
    """The variational bound's own weight, see `Schedule.bound`."""
    return schedule.bound


WEIGHTS: dict[str, Callable[[Schedule], Levels]] = {
    "min-snr": min_snr_weight,
    "truncated-snr": truncated_snr_weight,
    "vlb": bound_weight,
}
"""Weights without settings of their own, all on the squared error of the noise."""


def in_terms_of(target: Literal["noise", "picture", "velocity"], weight: Levels, snr: Levels) -> Levels:
    """The weight on another prediction's squared error that asks the same as `weight` does on the noise's:
    SNR w for the picture, SNR / (SNR + 1) w for v = sqrt(a-bar) noise - sqrt(1 - a-bar) x_0."""
    return {"noise": weight, "picture": weight * snr, "velocity": weight * snr / (snr + 1)}[target]


def band_shares(weight: Levels, snr: Levels, error: Levels | None = None) -> dict[str, float]:
    """How much of all that counts lies in each band: sum of w E over its levels, over that of all levels.

    Args:
        weight: w.
        snr: signal-to-noise ratios.
        error: E, what is left of the squared error at each level; 1 where nothing is given.
    """
    counted = weight if error is None else weight * error
    place = bands(snr)
    return {name: float(counted[place == i].sum() / counted.sum()) for i, name in enumerate(BANDS)}


def noise_error(guess: Picture, noise: Picture) -> Each:
    """Mean squared error of each picture's noise, in float32 at least."""
    return (guess.float() - noise.float()).square().flatten(1).mean(1)


def normal_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(other mean, other variance)) of each number, in nats."""
    ratio = (log_variance - other_log_variance).exp()
    distance = (mean - other_mean).square() * (-other_log_variance).exp()
    return 0.5 * (other_log_variance - log_variance - 1 + ratio + distance)


def rough_cdf(x: Tensor) -> Tensor:
    """A fast approximation of the standard normal's distribution function (Page, 1977), which DDPM and its
    successors take."""
    return 0.5 * (1 + (sqrt(2 / pi) * (x + 0.044715 * x**3)).tanh())


def byte_log_likelihood(clean: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Log of the probability that N(mean, deviation^2) falls into the bin of each byte, in nats.

    Bytes lie 2/255 apart in [-1, 1]; the first and the last bin reach to infinity (DDPM, eq. 13).
    """
    centred, sharpness = clean - mean, (-log_deviation).exp()
    above = rough_cdf(sharpness * (centred + 1 / 255))
    below = rough_cdf(sharpness * (centred - 1 / 255))
    tiny = 1e-12
    inner = (above - below).clamp(min=tiny).log()
    first, last = above.clamp(min=tiny).log(), (1 - below).clamp(min=tiny).log()
    return torch.where(clean < -0.999, first, torch.where(clean > 0.999, last, inner))


def variance_bound(
    schedule: Schedule,
    guess: Picture,
    between: Picture,
    clean: Picture,
    noisy: Picture,
    level: Int[Tensor, "batch"],
) -> Each:
    """The variational bound of each picture at its level in bits a number, from which only variances learn:
    the KL divergence of the step to x_(t-1), at level 0 the negative log-likelihood of the bytes. Times
    T / 1000, so that it does not outweigh the error of the noise.

    Args:
        schedule: tables.
        guess: of the noise; learns nothing here.
        between: the network's variances in [-1, 1].
        clean: pictures in [-1, 1].
        noisy: x_t.
        level: t.
    """
    guess, between = guess.detach().float(), between.float()
    mean = posterior_mean(schedule, undiffuse(schedule, noisy, guess, level), noisy, level)
    log_variance = learned_log_variance(schedule, between, level)
    true_mean = posterior_mean(schedule, clean, noisy, level)
    true_log_variance = at(schedule.log_small, level).expand_as(log_variance)
    divergence = normal_kl(true_mean, true_log_variance, mean, log_variance).flatten(1).mean(1)
    likelihood = byte_log_likelihood(clean, mean, 0.5 * log_variance).flatten(1).mean(1)
    nats = torch.where(level == 0, -likelihood, divergence)
    return nats / log(2) * (len(schedule.snr) / 1000)
