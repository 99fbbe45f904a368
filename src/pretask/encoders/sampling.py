"""From noise back to pictures: the steps of DDPM (Ho et al., 2020) and DDIM (Song et al., ICLR 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.pretexts import draw
from pretask.pretexts.diffusion import (
    at,
    learned_log_variance,
    make_schedule,
    posterior_mean,
    respaced,
    undiffuse,
)

Picture = Float[Tensor, "batch chans h w"]
Predict = Callable[[Picture, Int[Tensor, "batch"]], tuple[Picture, Picture | None]]
Sampler = Literal["ddpm", "ddim"]


@torch.no_grad()
def reverse(
    predict: Predict,
    betas: Float[Tensor, "levels"],
    noisy: Picture,
    levels: Sequence[int],
    generator: torch.Generator,
    sampler: Sampler = "ddim",
    eta: float = 0.0,
) -> Picture:
    """Pictures in [-1, 1] from noisy ones, through some of the levels.

    Each step guesses the noise, from it the picture, cut to [-1, 1], and from both the pictures at the
    level below; the process is that of `respaced` betas.

    Args:
        predict: from pictures and their levels to the noise in them and, or None, learned variances.
        betas: of all levels.
        noisy: pictures at the last of `levels`.
        levels: rising; all steps there are.
        generator: the noise that steps add.
        sampler: `ddpm` draws from the Gaussian of each step, `ddim` goes where it points.
        eta: how much noise `ddim` adds; 1 is as much as `ddpm`.
    """
    steps = respaced(betas, levels)
    schedule = make_schedule(steps).to(noisy.device)
    left = (1 - steps).cumprod(0)
    before = torch.cat([left.new_ones(1), left[:-1]])
    sigma = eta * ((1 - before) / (1 - left) * (1 - left / before)).sqrt()
    toward = (1 - before - sigma.square()).clamp(min=0).sqrt()
    x = noisy
    for place in range(len(levels) - 1, -1, -1):
        step = torch.full((len(x),), place, device=x.device)
        guess, between = predict(x, torch.full_like(step, levels[place]))
        guess = guess.to(x.dtype)
        clean = undiffuse(schedule, x, guess, step).clamp(-1, 1)
        fresh = draw.normal(tuple(x.shape), generator).to(x) if place else torch.zeros_like(x)
        if sampler == "ddpm":
            log_variance = at(schedule.log_fixed, step)
            if between is not None:
                log_variance = learned_log_variance(schedule, between.to(x.dtype), step)
            x = posterior_mean(schedule, clean, x, step) + (0.5 * log_variance).exp() * fresh
        else:
            guess = (at(schedule.unsignal, step) * x - clean) / at(schedule.unnoise, step)
            x = (
                float(before[place].sqrt()) * clean
                + float(toward[place]) * guess
                + float(sigma[place]) * fresh
            )
    return x.clamp(-1, 1)
