"""Statistics of a sample that take no understanding: what a shortcut could live on.

Each takes pictures (N, C, H, W) or videos (N, C, T, H, W) in [0, 1], or texts (N, L) as tokens with padding -1, to
(N, features).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Pictures = Float[Tensor, "items chans h w"]
Videos = Float[Tensor, "items chans frames h w"]
Texts = Float[Tensor, "items length"]
Statistic = Float[Tensor, "items features"]

EPS = 1e-6
GROUPS = 64


def mean_colour(image: Pictures) -> Statistic:
    """Mean and standard deviation of each channel."""
    flat = image.flatten(2)
    return torch.cat([flat.mean(2), flat.std(2)], dim=1)


def light(image: Pictures) -> Statistic:
    """How much each quarter differs from the mean: light comes from above."""
    return (F.adaptive_avg_pool2d(image, 2) - image.mean((2, 3), keepdim=True)).flatten(1)


def borders(image: Pictures) -> Statistic:
    """For each side the outermost line's mean and spread, and its step to the lines behind it: padding,
    frames, the rim of a warped or pasted picture."""
    found = []
    for turns in range(4):
        first, second, third = image.rot90(turns, (-2, -1))[:, :, :3].unbind(2)  # (N, C, W) each
        found += [first.flatten(1).mean(1), first.flatten(1).std(1)]
        found += [(first - second).abs().mean((1, 2)), (second - third).abs().mean((1, 2))]
    return torch.stack(found, dim=1)


def correlation(one: Tensor, other: Tensor) -> Tensor:
    one, other = one.flatten(1), other.flatten(1)
    one, other = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
    return (one * other).mean(1) / (one.square().mean(1) * other.square().mean(1) + EPS**2).sqrt()


def aberration(image: Pictures) -> Statistic:
    """Whether the first and last channel are shifted outwards against the middle one: lenses bend colours
    apart, the more the farther from the centre (Doersch et al., ICCV 2015)."""
    if image.shape[1] < 2:
        return image.new_zeros(len(image), 0)
    middle, found = image[:, image.shape[1] // 2], []
    for channel in (image[:, 0], image[:, -1]):
        for turns in range(4):  # the upper half of each turn is one side of the picture
            near, fixed = (x.rot90(turns, (-2, -1))[:, : x.shape[-1] // 2] for x in (channel, middle))
            outward = correlation(near[:, :-1], fixed[:, 1:])
            inward = correlation(near[:, 1:], fixed[:, :-1])
            found += [outward - inward, correlation(near, fixed)]
    return torch.stack(found, dim=1)


def jpeg_grid(image: Pictures) -> Statistic:
    """Mean step between neighbouring columns, and rows, by their place modulo 8."""
    found = []
    for axis in (3, 2):
        steps = image.diff(dim=axis).abs().mean((1, 5 - axis))  # (N, side - 1)
        place = torch.arange(steps.shape[1], device=image.device) % 8
        total = steps.new_zeros(len(steps), 8).index_add_(1, place, steps)
        count = torch.bincount(place, minlength=8).clamp_min(1)
        found.append(total / count / (steps.mean(1, keepdim=True) + EPS))
    return torch.cat(found, dim=1)


def sharpness(image: Pictures) -> Statistic:
    """Logarithms of the mean step across, down and of second order: blur and resampling."""
    across, down = image.diff(dim=3), image.diff(dim=2)
    parts = [across, down, across.diff(dim=3), down.diff(dim=2)]
    return torch.stack([(part.abs().mean((1, 2, 3)) + EPS).log() for part in parts], dim=1)


def changes(video: Videos) -> Statistic:
    """How much each frame differs from the one before, as a share of what frames of this video do."""
    steps = video.diff(dim=2).abs().mean((1, 3, 4))  # (N, frames - 1)
    return steps / (steps.mean(1, keepdim=True) + EPS)


def text_length(text: Texts) -> Statistic:
    """How many tokens: a translation is about as long as its source."""
    return (text >= 0).float().sum(1, keepdim=True)


def text_tokens(text: Texts) -> Statistic:
    """How often each of 64 groups of tokens occurs: names, numbers and signs are alike in many languages."""
    there = (text >= 0).float()
    group = text.long().clamp(min=0) % GROUPS
    return there.new_zeros(len(text), GROUPS).scatter_add_(1, group, there)


STATISTICS: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    "image": {
        "mean colour": mean_colour,
        "light": light,
        "borders": borders,
        "aberration": aberration,
        "JPEG grid": jpeg_grid,
        "sharpness": sharpness,
    },
    "video": {"mean colour": mean_colour, "changes": changes},
    "text": {"length": text_length, "tokens": text_tokens},
}
STATISTICS["place"] = STATISTICS["image"]
"""By modality and name."""
