"""Profiles over a circle as one complex number each, and errors between numbers known to be turned apart.

STONE (Kong et al., ISMIR 2024), section 3: a profile over 12 classes is the Fourier coefficient of one
frequency; transposing the music turns it by a known angle.
"""

from __future__ import annotations

from math import pi

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor


def circle_point(profile: Float[Tensor, "batch classes"], frequency: int) -> Complex[Tensor, "batch"]:
    """sum_q p_q exp(2 pi i frequency q / classes): where on (or in) the unit circle a profile points."""
    classes = profile.shape[1]
    angle = torch.arange(classes, device=profile.device) * (2 * pi * frequency / classes)
    return torch.complex((profile * angle.cos()).sum(1), (profile * angle.sin()).sum(1))


def turned_error(
    first: Complex[Tensor, "batch"],
    second: Complex[Tensor, "batch"],
    steps: Int[Tensor, "batch"] | int,
    frequency: int,
    classes: int,
) -> Float[Tensor, ""]:
    """mean |exp(2 pi i frequency steps / classes) - first conj(second)|^2: 0 where both lie on the circle and
    the first is so many steps ahead of the second, 1 where one of them is 0."""
    angle = torch.as_tensor(steps, device=first.device) * (2 * pi * frequency / classes)
    gap = torch.polar(torch.ones_like(first.real), angle.to(first.real.dtype).expand(first.shape)) - (
        first * second.conj()
    )
    return (gap.real.square() + gap.imag.square()).mean()
