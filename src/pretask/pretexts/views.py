"""Random views of pictures: crop, flip, colour jitter, grey, blur, solarise; drawn first, then applied.

Crops are drawn in the original picture's geometry with the distribution of torchvision's
RandomResizedCrop, colours with that of its ColorJitter, each sample with an order of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pretask.data.batch import to_float
from pretask.pretexts import draw
from pretask.pretexts.photometric import gaussian_blur, jitter, luma, solarise, where
from pretask.pretexts.resample import crop

TRIES = 10  # attempts at a crop that fits, before the central one (torchvision)
SMALL_IMAGE = 64  # pixels; up to here SimCLR's recipe for CIFAR-10 holds: half the jitter, no blur


@dataclass(frozen=True)
class ViewSpec:
    """What a kind of view may look like. Probabilities are per picture.

    Args:
        size: side of the view in pixels.
        scale: area of the crop as a share of the picture's; None takes the whole picture.
        ratio: width / height of the crop, drawn log-uniformly.
        flip: probability of mirroring left and right.
        jitter: probability of the four colour changes below, in random order.
        brightness: factor from U(1-b, 1+b).
        contrast: factor from U(1-c, 1+c).
        saturation: factor from U(1-s, 1+s); only for three channels.
        hue: shift from U(-h, h) turns of the colour circle, h <= 0.5; only for three channels.
        grey: probability of dropping colour; only for three channels.
        blur: probability of a Gaussian blur.
        blur_sigma: range of its standard deviation in pixels of the view.
        blur_kernel: its taps, odd; None takes a tenth of `size` (SimCLR), at least 3.
        solarise: probability of inverting what is brighter than `solarise_from`.
        solarise_from: the threshold.
        interpolation: `bilinear` or `bicubic`, both antialiased.
        colours_first: change colours before cropping, so that contrast changes about the whole picture's mean (BEiT).
    """

    size: int
    scale: tuple[float, float] | None = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int | None = None
    solarise: float = 0.0
    solarise_from: float = 0.5
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    colours_first: bool = False

    @property
    def blur_radius(self) -> int:
        return max(1, (self.blur_kernel or self.size // 10) // 2)


class View(NamedTuple):
    """The numbers behind a batch of views; one row a sample.

    Args:
        box: x0, y0, x1, y1 of the crop as shares of the picture's width and height.
        flip: mirrored after cropping.
        jitter: whether colours change.
        order: in which order brightness (0), contrast (1), saturation (2) and hue (3) change.
        factors: of brightness, contrast, saturation, and the shift of hue.
        grey: whether colour is dropped.
        blur: whether it is blurred.
        sigma: the blur's standard deviation in pixels of the view.
        solarise: whether bright values are inverted.
    """

    box: Float[Tensor, "batch 4"]
    flip: Bool[Tensor, "batch"]
    jitter: Bool[Tensor, "batch"]
    order: Int[Tensor, "batch 4"]
    factors: Float[Tensor, "batch 4"]
    grey: Bool[Tensor, "batch"]
    blur: Bool[Tensor, "batch"]
    sigma: Float[Tensor, "batch"]
    solarise: Bool[Tensor, "batch"]

    @classmethod
    def joined(cls, views: Sequence[View]) -> View:
        """Several views of each picture of a batch as one, to be applied at once."""
        return cls(*map(torch.cat, zip(*views, strict=True)))

    def to(self, device: torch.device | str) -> View:
        return View(*(value.to(device) for value in self))


def draw_boxes(
    spec: ViewSpec, unit: Float[Tensor, "batch numbers"], size: Float[Tensor, "batch 2"]
) -> Float[Tensor, "batch 4"]:
    """Crop boxes from uniform numbers: the first of ten tries that fits, else the central crop."""
    height, width = size[:, :1], size[:, 1:]
    if spec.scale is None:
        return torch.zeros_like(unit[:, :4]) + unit.new_tensor([0.0, 0.0, 1.0, 1.0])
    shortest, longest = spec.ratio
    area = height * width * (spec.scale[0] + (spec.scale[1] - spec.scale[0]) * unit[:, :TRIES])
    ratio = (log(shortest) + (log(longest) - log(shortest)) * unit[:, TRIES : 2 * TRIES]).exp()
    w, h = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()  # (B, tries)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)
    whole_w = torch.where(width / height > longest, (height * longest).round(), width)
    whole_h = torch.where(width / height < shortest, (width / shortest).round(), height)
    found = fits.any(1, keepdim=True)
    w, h = torch.where(found, w.gather(1, first), whole_w), torch.where(found, h.gather(1, first), whole_h)
    free_x, free_y = width - w, height - h
    left = torch.minimum((unit[:, -2:-1] * (free_x + 1)).floor(), free_x)
    top = torch.minimum((unit[:, -1:] * (free_y + 1)).floor(), free_y)
    left = torch.where(found, left, (free_x / 2).floor())
    top = torch.where(found, top, (free_y / 2).floor())
    return torch.cat([left / width, top / height, (left + w) / width, (top + h) / height], dim=1)


def draw_view(
    spec: ViewSpec, batch: int, generator: torch.Generator, size: Int[Tensor, "batch 2"] | None = None
) -> View:
    """Draw the parameters of one view a sample.

    Args:
        spec: what to draw from.
        batch: samples.
        generator: the randomness; its device is where the parameters live.
        size: height and width of the original pictures; None takes them as square, `spec.size` wide.
    """
    unit = draw.uniform((batch, 2 * TRIES + 16), generator)
    if size is None:
        size = unit.new_full((batch, 2), spec.size)
    coins = unit[:, :5] < unit.new_tensor([spec.flip, spec.jitter, spec.grey, spec.blur, spec.solarise])
    spread = unit.new_tensor([spec.brightness, spec.contrast, spec.saturation, spec.hue])
    centre = unit.new_tensor([1.0, 1.0, 1.0, 0.0])
    low = torch.maximum(centre - spread, centre - 1)  # factors are not negative
    low_sigma, high_sigma = spec.blur_sigma
    return View(
        box=draw_boxes(spec, unit[:, 14:], size.to(unit)),
        flip=coins[:, 0],
        jitter=coins[:, 1],
        order=unit[:, 10:14].argsort(1),
        factors=low + (centre + spread - low) * unit[:, 5:9],
        grey=coins[:, 2],
        blur=coins[:, 3],
        sigma=low_sigma + (high_sigma - low_sigma) * unit[:, 9],
        solarise=coins[:, 4],
    )


def apply_view(spec: ViewSpec, image: Tensor, view: View) -> Float[Tensor, "views chans size size"]:
    """The views: float in [0, 1].

    Args:
        spec: the kind of view `view` was drawn for.
        image: (B, C, H, W), uint8 or float in [0, 1]; the whole picture on any canvas.
        view: what to apply; replaying it gives the same pixels. With several rows a picture (`joined`)
            there are several views of each, the first of all pictures first.
    """
    view = view.to(image.device)
    if spec.colours_first:
        whole = recolour(spec, to_float(image).clone(), view)
        return crop(whole, view.box, view.flip, spec.size, spec.interpolation)
    return recolour(spec, crop(image, view.box, view.flip, spec.size, spec.interpolation), view)


def square_boxes(
    size: Int[Tensor, "batch 2"], zoom: float, unit: Float[Tensor, "batch 2"]
) -> Float[Tensor, "batch 4"]:
    """Squares anywhere in pictures of these heights and widths, their sides the short side over `zoom`: what is left
    of pictures brought to `zoom` times a size, of which a random crop has that size. As shares, x0, y0, x1, y1.

    Args:
        size: heights and widths.
        zoom: 1 at least.
        unit: numbers from U[0, 1) that say where, across and down.
    """
    share = (size.amin(1, keepdim=True) / size).flip(1) / zoom  # of the width, of the height
    start = unit.to(share) * (1 - share)
    return torch.cat([start, start + share], dim=1)


def apply_view_to_video(
    spec: ViewSpec, video: Tensor, view: View
) -> Float[Tensor, "batch chans frames size size"]:
    """The same view of each frame of a video: float in [0, 1].

    Args:
        spec: the kind of view `view` was drawn for.
        video: (B, C, T, H, W), uint8 or float in [0, 1]; whole frames on any canvas.
        view: what to apply, a row a video.
    """
    view, frames = view.to(video.device), video.shape[2]
    out = crop(video.flatten(1, 2), view.box, view.flip, spec.size, spec.interpolation)
    pictures = out.unflatten(1, (-1, frames)).transpose(1, 2).flatten(0, 1)
    each = View(*(value.repeat_interleave(frames, 0) for value in view))
    return recolour(spec, pictures, each).unflatten(0, (-1, frames)).transpose(1, 2)


def recolour(
    spec: ViewSpec, out: Float[Tensor, "batch chans size size"], view: View
) -> Float[Tensor, "batch chans size size"]:
    """What a view does to colours and sharpness, perhaps in place."""
    if spec.jitter:
        out = jitter(out, view.jitter, view.order, view.factors)
    if spec.grey and out.shape[1] == 3:
        out = where(view.grey, out, luma)
    if spec.blur:
        out = where(view.blur, out, gaussian_blur, view.sigma, spec.blur_radius)
    if spec.solarise:
        out = where(view.solarise, out, solarise, spec.solarise_from)
    return out


def simclr_views(size: int, scale: tuple[float, float] = (0.08, 1.0)) -> ViewSpec:
    """SimCLR, appendix A; up to 64 px its recipe for CIFAR-10 (B.9): strength 0.5 and no blur."""
    small = size <= SMALL_IMAGE
    s = 0.5 if small else 1.0
    return ViewSpec(
        size, scale, flip=0.5, jitter=0.8, brightness=0.8 * s, contrast=0.8 * s, saturation=0.8 * s,
        hue=0.2 * s, grey=0.2, blur=0.0 if small else 0.5,
    )  # fmt: skip


def mae_view(size: int, scale: tuple[float, float] = (0.2, 1.0)) -> ViewSpec:
    """MAE: a large crop and a flip, nothing else."""
    return ViewSpec(size, scale, flip=0.5, interpolation="bicubic")


def dino_views(
    size: int,
    local_size: int,
    global_scale: tuple[float, float] = (0.4, 1.0),
    local_scale: tuple[float, float] = (0.05, 0.4),
) -> tuple[ViewSpec, ViewSpec, ViewSpec]:
    """DINO and iBOT: the first global view, the second, and the local ones."""
    first = ViewSpec(
        size, global_scale, flip=0.5, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1,
        grey=0.2, blur=1.0, blur_kernel=13, interpolation="bicubic",
    )  # fmt: skip
    second = replace(first, blur=0.1, solarise=0.2)
    return first, second, replace(first, size=local_size, scale=local_scale, blur=0.5)


def centre_view(
    image: Float[Tensor, "batch chans h w"], size: Int[Tensor, "batch 2"] | None, side: int
) -> Float[Tensor, "batch chans side side"]:
    """The middle square of each original picture, as large as fits, as side x side pixels.

    Args:
        image: whole pictures, each squashed to the same canvas.
        size: their true heights and widths; None means that they are what the canvas shows.
        side: of the result.
    """
    height, width = image.shape[-2:]
    if size is None:
        size = torch.tensor([[height, width]], device=image.device).expand(len(image), 2)
    box = centre_box(size)
    if height == width == side and bool((box == box.new_tensor([0, 0, 1, 1])).all()):
        return image
    straight = torch.zeros(len(box), dtype=torch.bool, device=image.device)
    return crop(image, box, straight, side, "bicubic")


def centre_box(size: Int[Tensor, "batch 2"]) -> Float[Tensor, "batch 4"]:
    """x0, y0, x1, y1 of the middle square of pictures of these heights and widths, as shares of them."""
    share = size.amin(1, keepdim=True) / size  # of the height, of the width
    return torch.cat([((1 - share) / 2).flip(1), ((1 + share) / 2).flip(1)], dim=1)


def centre_labels(
    labels: Int[Tensor, "batch h w"], size: Int[Tensor, "batch 2"] | None
) -> Int[Tensor, "batch h w"]:
    """Class numbers of places cut as `centre_view` cuts pictures, by the nearest place; as many places."""
    if size is None:
        return labels
    rows, columns = labels.shape[1:]
    x0, y0, x1, y1 = centre_box(size.to(labels.device))[:, :, None].unbind(1)
    middle = [(torch.arange(count, device=labels.device) + 0.5) / count for count in (rows, columns)]
    down = ((y0 + (y1 - y0) * middle[0]) * rows).long().clamp(max=rows - 1)
    across = ((x0 + (x1 - x0) * middle[1]) * columns).long().clamp(max=columns - 1)
    number = torch.arange(len(labels), device=labels.device).view(-1, 1, 1)
    return labels[number, down[:, :, None], across[:, None, :]]
