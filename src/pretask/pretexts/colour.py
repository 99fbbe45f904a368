"""Colour as something to hide: CIE Lab, a palette of quantised ab colours, and how rare each is.

Lab is scikit-image's (sRGB, D65, 2 degrees): L in 0 .. 100, a and b within about -110 .. 110.
The quantisation is that of Colorful Image Colorization (Zhang et al., ECCV 2016).
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pretask.data.batch import single

RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
XYZ_TO_RGB = torch.tensor(RGB_TO_XYZ, dtype=torch.float64).inverse().tolist()
WHITE = (0.95047, 1.0, 1.08883)
CHUNK = 1 << 14  # pixels compared with the whole palette at a time


def mix(
    matrix: Sequence[Sequence[float]], image: Float[Tensor, "batch 3 h w"]
) -> Float[Tensor, "batch 3 h w"]:
    # written out, because autocast would run a matrix product in bfloat16
    x, y, z = image.unbind(1)
    return torch.stack([row[0] * x + row[1] * y + row[2] * z for row in matrix], dim=1)


def rgb_to_lab(rgb: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 h w"]:
    """sRGB in [0, 1] to Lab."""
    # clamped inside the powers: the branch that is not taken must have a finite gradient too
    linear = torch.where(rgb > 0.04045, ((rgb.clamp_min(0.04) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = mix(RGB_TO_XYZ, linear) / rgb.new_tensor(WHITE).view(3, 1, 1)
    f = torch.where(xyz > 0.008856, xyz.clamp_min(0.008) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def lab_to_rgb(lab: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 h w"]:
    """Lab to sRGB, clipped to [0, 1] where the colour is outside of sRGB."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    f = torch.stack([y + a / 500, y, (y - b / 200).clamp_min(0)], dim=1)
    xyz = torch.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787) * lab.new_tensor(WHITE).view(3, 1, 1)
    linear = mix(XYZ_TO_RGB, xyz)
    bright = 1.055 * linear.clamp_min(0.003) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, bright, 12.92 * linear).clamp(0, 1)


@lru_cache(maxsize=4)
def palette(spacing: int = 10) -> Float[Tensor, "colours 2"]:
    """The ab grid points that are nearest to some 8-bit sRGB colour, ordered by a, then b; 261 at spacing 10.

    (The official list of 313 came as a file made by an unstated rule.) Only the surface of the RGB cube is
    asked: a line of constant ab leaves the cube through its surface, so the surface shows every ab there is.
    Do not write into the result: it is shared.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    one, other = (plane.flatten() for plane in torch.meshgrid(levels, levels, indexing="ij"))
    faces = [
        torch.stack([one, other, torch.full_like(one, side)]).roll(axis, 0)
        for axis in range(3)
        for side in (0.0, 1.0)
    ]
    ab = rgb_to_lab(torch.cat(faces, dim=1)[None, :, None])[0, 1:, 0].T
    return torch.unique((ab / spacing).round().long(), dim=0).float() * spacing


def nearest_colours(
    ab: Float[Tensor, "pixels 2"], colours: Float[Tensor, "colours 2"], count: int
) -> tuple[Float[Tensor, "pixels count"], Int[Tensor, "pixels count"]]:
    """Squared distances to the `count` nearest colours, and which these are, nearest first."""
    parts = [
        ((part[:, :1] - colours[:, 0]).square() + (part[:, 1:] - colours[:, 1]).square()).topk(
            count, dim=1, largest=False
        )
        for part in ab.split(CHUNK)
    ]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def soft_encode(
    ab: Float[Tensor, "batch 2 h w"],
    colours: Float[Tensor, "colours 2"],
    neighbours: int = 10,
    sigma: float = 5.0,
) -> tuple[Float[Tensor, "batch neighbours h w"], Int[Tensor, "batch neighbours h w"]]:
    """Each pixel as a mixture of its nearest colours: weights exp(-d^2 / (2 sigma^2)) with sum 1, and which
    colours they belong to, nearest first.

    The paper says 5 neighbours, its code uses 10. Kept sparse: a loss gathers what it needs.
    """
    batch, _, height, width = ab.shape
    pixels = single(ab).permute(0, 2, 3, 1).reshape(-1, 2)
    distance, index = nearest_colours(pixels, colours.to(pixels), neighbours)
    weight = torch.softmax(-distance / (2 * sigma**2), dim=1)  # = the Gaussians over their sum
    shape = (batch, height, width, neighbours)
    return weight.view(shape).permute(0, 3, 1, 2), index.view(shape).permute(0, 3, 1, 2)


def annealed_mean(
    logits: Float[Tensor, "batch colours h w"], colours: Float[Tensor, "colours 2"], temperature: float = 0.38
) -> Float[Tensor, "batch 2 h w"]:
    """The mean colour of softmax(logits / T): T = 1 is the mean, T to 0 the mode (equation 5)."""
    share = (single(logits) / temperature).softmax(1)
    return torch.einsum("bqhw,qc->bchw", share, colours.to(share))


def smooth(
    prior: Float[Tensor, "colours"], colours: Float[Tensor, "colours 2"], neighbours: int, sigma: float
):
    """A distribution over colours blurred in ab space: each colour's share goes to its neighbours as
    `soft_encode` would spread it; a colour far from all that occur keeps the share 0."""
    weight, index = soft_encode(colours.T[None, :, :, None], colours, neighbours, sigma)
    share = (prior[:, None] * weight[0, :, :, 0].T.to(prior)).flatten()
    return torch.zeros_like(prior).index_add_(0, index[0, :, :, 0].T.flatten(), share)


def rebalance(
    prior: Float[Tensor, "colours"], uniform_share: float = 0.5, power: float = 1.0
) -> Float[Tensor, "colours"]:
    """Weights w = ((1 - lambda) p + lambda u)^-alpha with sum p w = 1 (equation 4).

    u is uniform over the colours that occur; colours that never occur weigh 0. (The official class turns
    every weight into NaN when a colour is missing.)

    Args:
        prior: p, how often each colour occurs, sum 1.
        uniform_share: lambda.
        power: alpha.
    """
    occurs = prior > 0
    uniform = occurs.to(prior) / occurs.sum()
    mixed = torch.where(occurs, (1 - uniform_share) * prior + uniform_share * uniform, 1.0)
    weight = torch.where(occurs, mixed**-power, 0.0)
    return weight / (prior * weight).sum()


def is_coloured(ab: Float[Tensor, "batch 2 h w"], threshold: float = 5.0) -> Bool[Tensor, "batch"]:
    """Pictures with any |a| or |b| above the threshold; the others are grey and have nothing to teach."""
    return ab.abs().flatten(1).amax(1) > threshold
