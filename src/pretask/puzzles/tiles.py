"""Cutting one picture into tiles, to the pixel."""

import torch.nn.functional as F
from torch import Tensor

from pretask.errors import UsageError


def edges(length: int, parts: int) -> list[int]:
    """Where parts begin and the last one ends; what is left over goes to the first parts, a pixel each.

    Raises:
        UsageError: there are not as many pixels as parts.
    """
    if not 0 < parts <= length:
        raise UsageError(f"{length} pixels cannot be cut into {parts} parts")
    size, extra = divmod(length, parts)
    return [i * size + min(i, extra) for i in range(parts + 1)]


def slice_tiles(image: Tensor, rows: int, columns: int) -> list[Tensor]:
    """The picture's tiles (..., h, w), row by row from the top left; together they are the picture.

    Where the sides cannot be divided evenly the first rows and columns are a pixel larger.
    """
    tops, lefts = edges(image.shape[-2], rows), edges(image.shape[-1], columns)
    return [
        image[..., tops[row] : tops[row + 1], lefts[column] : lefts[column + 1]]
        for row in range(rows)
        for column in range(columns)
    ]


def centre_crop(image: Tensor, height: int, width: int) -> Tensor:
    """The middle of a picture (..., H, W); rounded to the top left, and black where it reaches beyond."""
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    bottom, right = top + height - image.shape[-2], left + width - image.shape[-1]
    return F.pad(image, (-left, right, -top, bottom))
