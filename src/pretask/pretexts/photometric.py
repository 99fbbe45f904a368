"""Changing what pixels look like, not where they are: torchvision's definitions, a batch at a time.

The changes named after colours work in place on float pictures in [0, 1]; factors are (B, 1, 1, 1).
"""

from collections.abc import Callable
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pretask.pretexts.resample import product

LUMA = (0.2989, 0.587, 0.114)
CACHE = 2**15  # pixels that, with what is computed from them, stay in a core's second-level cache
TILE = 16  # pixels of a row or column that are blurred by one matrix


def on_cpu(image: Tensor) -> bool:
    return image.device.type == "cpu"


def where(rows: Bool[Tensor, "batch"], image: Tensor, change: Callable[..., Tensor], *given: Any) -> Tensor:
    """`change(image, *given)` in some rows of the batch; tensors among `given` have a row a sample.

    On a CPU only these rows are computed; elsewhere all are, because counting them would stall the device.
    """
    if not on_cpu(image):
        return torch.where(rows.view(-1, 1, 1, 1), change(image, *given), image)
    if not rows.any():
        return image
    at_most = max(1, CACHE // image[0, 0].numel())
    for chosen in rows.nonzero().squeeze(1).split(at_most):
        parts = [value[chosen] if isinstance(value, Tensor) else value for value in given]
        if at_most == 1:
            one = image[int(chosen) :][:1]  # not copied
            one.copy_(change(one, *parts))
        else:
            image.index_copy_(0, chosen, change(image[chosen], *parts).expand(-1, image.shape[1], -1, -1))
    return image


def jitter(
    image: Float[Tensor, "batch chans h w"],
    rows: Bool[Tensor, "batch"],
    order: Int[Tensor, "batch 4"],
    factors: Float[Tensor, "batch 4"],
) -> Float[Tensor, "batch chans h w"]:
    """Brightness (0), contrast (1), saturation (2) and hue (3) in each sample's own order, in place.

    Args:
        image: float in [0, 1]; without three channels only brightness and contrast change.
        rows: the samples to change.
        order: a permutation of 0 .. 3 a sample.
        factors: how much, by kind.
    """
    if not on_cpu(image):
        return jitter_together(image, rows, order, factors)
    for kinds, chosen in by_order(rows, order, max(1, CACHE // image[0, 0].numel())):
        part = image[chosen]  # a view where `chosen` is a slice
        for kind in kinds:
            if kind < len(changes(image)):
                CHANGES[kind](part, factors[chosen, kind].view(-1, 1, 1, 1))
        if isinstance(chosen, Tensor):
            image.index_copy_(0, chosen, part)
    return image


def by_order(rows: Tensor, order: Tensor, at_most: int) -> list[tuple[list[int], Tensor | slice]]:
    """Samples that change in the same order, in groups that fit the cache: [(kinds, samples)]."""
    if at_most == 1:
        return [(order[row].tolist(), slice(row, row + 1)) for row in rows.nonzero().squeeze(1).tolist()]
    code = (order * order.new_tensor([64, 16, 4, 1])).sum(1).masked_fill_(~rows, -1)
    code, places = code.sort()
    start = int((code < 0).sum())
    kinds, counts = code[start:].unique_consecutive(return_counts=True)
    groups: list[tuple[list[int], Tensor | slice]] = []
    for kind, group in zip(kinds.tolist(), places[start:].split(counts.tolist()), strict=True):
        names = [kind // 64, kind // 16 % 4, kind // 4 % 4, kind % 4]
        groups += [(names, part) for part in group.split(at_most)]
    return groups


def jitter_together(image: Tensor, rows: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """The same without asking which sample is where: at each place every change is made, with a factor
    that does nothing for the samples whose turn it is not. Made to be fused by torch.compile."""
    for place in range(4):
        for kind, change in enumerate(changes(image)):
            turn = rows & (order[:, place] == kind)
            factor = torch.where(turn, factors[:, kind], 0.0 if kind == 3 else 1.0)
            change(image, factor.view(-1, 1, 1, 1))
    return image


def luma(image: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 1 h w"]:
    r, g, b = image.split(1, dim=1)
    return (r * LUMA[0]).add_(g, alpha=LUMA[1]).add_(b, alpha=LUMA[2])


def brightness(image: Tensor, factor: Tensor) -> Tensor:
    return image.mul_(factor).clamp_(max=1)


def contrast(image: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of the luma (of all channels where there are not three)."""
    mean = image.mean((2, 3), keepdim=True)
    mean = luma(mean) if image.shape[1] == 3 else mean.mean(1, keepdim=True)
    return image.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def saturation(image: Tensor, factor: Tensor) -> Tensor:
    grey = luma(image).mul_(1 - factor)
    return image.mul_(factor).add_(grey).clamp_(0, 1)


def hue(image: Tensor, shift: Tensor) -> Tensor:
    """Turn the colour circle by `shift` turns, keeping HSV's value and chroma.

    With v the largest and m the smallest channel and c = v - m, the hue in sixths of a turn is
    sign(g - b) (1 + (g + b - r - m) / c), and a channel n sixths further on is v - c clamp(2 - d, 0, 1),
    d its distance to the place where that channel is smallest. No branches, no lookups.
    """
    r, g, b = image.split(1, dim=1)
    value = torch.maximum(torch.maximum(r, g), b)
    least = torch.minimum(torch.minimum(r, g), b)
    chroma = value - least
    angle = (g + b).sub_(r).sub_(least).div_(chroma.clamp(min=1e-12)).add_(1)
    angle = torch.copysign(angle, g - b).div_(6).add_(shift)  # in turns, -1 to 1
    away = angle + angle.new_tensor([2.0, 5 / 3, 4 / 3]).view(3, 1, 1)  # never negative
    away.frac_().sub_(0.5).abs_().mul_(-6).add_(2).clamp_(0, 1)
    return torch.sub(value, away.mul_(chroma), out=image)


CHANGES = (brightness, contrast, saturation, hue)


def changes(image: Tensor) -> tuple[Callable[[Tensor, Tensor], Tensor], ...]:
    return CHANGES if image.shape[1] == 3 else CHANGES[:2]


def solarise(image: Tensor, threshold: float) -> Tensor:
    return torch.where(image >= threshold, 1 - image, image)


def gaussian_blur(
    image: Float[Tensor, "batch chans h w"], sigma: Float[Tensor, "batch"], radius: int
) -> Float[Tensor, "batch chans h w"]:
    """Separable blur with `2 radius + 1` taps and mirrored borders."""
    batch, chans, height, width = image.shape
    radius = min(radius, height - 1, width - 1)
    if on_cpu(image):  # taps beyond 5 standard deviations weigh less than what float32 rounds away
        radius = min(radius, ceil(5 * float(sigma.max())))
    tiles, reach = overlapping(image, 3, radius)  # (B, C, H, tiles, reach)
    image = product(tiles.reshape(batch, -1, reach), blur_matrix(sigma, radius, reach))
    image = image.view(batch, chans, height, -1)[..., :width]
    tiles, reach = overlapping(image, 2, radius)  # (B, C, tiles, W, reach)
    tiles = tiles.transpose(3, 4).reshape(-1, reach, width)
    matrix = blur_matrix(sigma, radius, reach).transpose(1, 2)
    matrix = matrix.repeat_interleave(len(tiles) // batch, dim=0)  # one a tile
    return product(matrix, tiles).view(batch, chans, -1, width)[:, :, :height]


def overlapping(image: Tensor, axis: int, radius: int) -> tuple[Tensor, int]:
    """Tiles along an axis, each with what reaches into it from both sides; the last is padded with 0."""
    length = image.shape[axis]
    sides = (0, 0) * (3 - axis)
    image = F.pad(image, (*sides, radius, radius, *(0, 0) * (axis - 2)), mode="reflect")
    image = F.pad(image, (*sides, 0, -length % TILE))
    return image.unfold(axis, TILE + 2 * radius, TILE), TILE + 2 * radius


def blur_matrix(sigma: Float[Tensor, "batch"], radius: int, reach: int) -> Float[Tensor, "batch reach tile"]:
    """From the pixels that reach into a tile to the tile."""
    offset = torch.arange(reach, device=sigma.device).view(-1, 1) - (reach - TILE) // 2
    offset = offset - torch.arange(TILE, device=sigma.device)
    matrix = (-0.5 * (offset / sigma.view(-1, 1, 1)) ** 2).exp_().mul_(offset.abs() <= radius)
    return matrix / matrix.sum(1, keepdim=True)
