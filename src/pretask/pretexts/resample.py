"""Cutting boxes out of pictures and bringing them to one size, antialiased."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

SMALL_CANVAS = 48  # pixels; up to here one product for the whole batch beats a kernel call a picture


def crop(
    image: Tensor,
    box: Float[Tensor, "views 4"],
    flip: Bool[Tensor, "views"],
    size: int,
    interpolation: str = "bilinear",
) -> Float[Tensor, "views chans size size"]:
    """Resample boxes to squares of `size` pixels, mirrored where `flip`; as torchvision's resized_crop
    with antialiasing.

    On a CPU the boxes of larger pictures are rounded to whole pixels of the canvas: that allows torch's
    8-bit kernels, five times as fast as anything that starts between two pixels.

    Args:
        image: (B, C, H, W), uint8 or float in [0, 1].
        box: x0, y0, x1, y1 as shares of width and height: one a picture; or several, the first of all
            pictures first.
        flip: mirror left and right.
        size: side of the result.
        interpolation: `bilinear` or `bicubic`.
    """
    if image.device.type == "cpu" and min(image.shape[2:]) > SMALL_CANVAS:
        return crop_each(image, box, flip, size, interpolation)
    return crop_batch(image.repeat(len(box) // len(image), 1, 1, 1), box, flip, size, interpolation)


def crop_batch(
    image: Tensor, box: Tensor, flip: Tensor, size: int, interpolation: str
) -> Float[Tensor, "batch chans size size"]:
    """All pictures in a few batched products with the weights of `resampling`."""
    batch, chans, height, width = image.shape
    across = resampling(box[:, 0], box[:, 2], size, width, interpolation)
    across = torch.where(flip.view(-1, 1, 1), across.flip(1), across).transpose(1, 2)  # (B, W, size)
    down = resampling(box[:, 1], box[:, 3], size, height, interpolation)  # (B, size, H)
    if not image.dtype.is_floating_point:
        down = down / 255
    rows = image.transpose(1, 2).contiguous().to(down.dtype)  # (B, H, C, W)
    rows = product(down, rows.view(batch, height, chans * width))
    out = product(rows.view(batch, size * chans, width), across)
    out = out.view(batch, size, chans, size).transpose(1, 2).contiguous()
    return out.clamp_(0, 1) if interpolation == "bicubic" else out


def product(
    one: Float[Tensor, "batch n m"], other: Float[Tensor, "batch m k"]
) -> Float[Tensor, "batch n k"]:
    """A batched matrix product in the operands' own precision: autocast would round pictures to 8 bits."""
    with torch.autocast(one.device.type, enabled=False):
        return torch.bmm(one, other)


def crop_each(
    image: Tensor, box: Tensor, flip: Tensor, size: int, interpolation: str
) -> Float[Tensor, "views chans size size"]:
    """One call of torch's resizing kernel a view."""
    chans, height, width = image.shape[1:]
    out = torch.empty(len(box), chans, size, size, dtype=torch.float32)
    start = (box[:, :2] * box.new_tensor([width, height])).round()
    end = torch.maximum((box[:, 2:] * box.new_tensor([width, height])).round(), start + 1)
    corners = torch.cat([start, end], dim=1).long().tolist()
    for row, ((x0, y0, x1, y1), mirrored) in enumerate(zip(corners, flip.tolist(), strict=True)):
        part = image[row % len(image), None, :, y0:y1, x0:x1]
        part = F.interpolate(part, (size, size), mode=interpolation, antialias=True)[0]
        if mirrored:
            part = part.flip(2)
        if image.dtype.is_floating_point:
            out[row] = part
        else:
            torch.div(part, 255, out=out[row])
    return out.clamp_(0, 1) if interpolation == "bicubic" and image.dtype.is_floating_point else out


def resampling(
    start: Float[Tensor, "batch"], end: Float[Tensor, "batch"], size: int, length: int, interpolation: str
) -> Float[Tensor, "batch size length"]:
    """Weights that resample [start, end) of an axis of `length` pixels to `size` pixels.

    The filter widens with the reduction (antialiasing) and sees only pixels that touch the box: a
    crop followed by torch's antialiased interpolate.
    """
    start, end = (start * length).view(-1, 1, 1), (end * length).view(-1, 1, 1)
    step = (end - start) / size
    centre = start + step * (torch.arange(size, device=start.device).view(-1, 1) + 0.5)
    pixel = torch.arange(length, device=start.device).view(1, 1, -1)
    inside = (pixel + 1 > start + 1e-4) & (pixel < end - 1e-4)  # 1e-4: rounding of the box
    x = ((pixel + 0.5 - centre) / step.clamp(min=1)).abs_()
    weight = (cubic(x) if interpolation == "bicubic" else (1 - x).clamp_(min=0)).mul_(inside)
    return weight.div_(weight.sum(2, keepdim=True))


def cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5, as antialiased resizing uses it."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
