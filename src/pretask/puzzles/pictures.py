"""Tensors as pictures and back."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pretask.errors import DataError


def to_picture(image: Tensor) -> Image.Image:
    """A tensor (C, H, W), bytes or floats in [0, 1], as a grey picture or one in red, green and blue.

    Raises:
        DataError: it has neither one channel nor three.
    """
    if image.shape[0] not in (1, 3):
        raise DataError(f"a picture of {image.shape[0]} channels cannot be shown to a vision-language model")
    if image.dtype.is_floating_point:
        image = (image * 255).round().clamp(0, 255).byte()
    array = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array))


def to_tensor(image: Image.Image) -> Tensor:
    """A picture as bytes (C, H, W)."""
    array = np.array(image)
    return torch.from_numpy(array).view(*array.shape[:2], -1).permute(2, 0, 1)


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture (C, H, W) brought to a height and width, bicubically as Pillow does, as bytes."""
    return to_tensor(to_picture(image).resize((size[1], size[0])))
