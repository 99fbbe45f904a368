"""Pictures to measure with: cut from the two photographs that come with scikit-learn."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor


@cache
def photographs() -> list[Image.Image]:
    return [Image.fromarray(picture) for picture in load_sample_images().images]


def cuts(count: int, width: int, height: int, seed: int = 0) -> list[Image.Image]:
    """Random parts of the photographs, resized."""
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        whole = photographs()[number % 2]
        share = rng.uniform(0.5, 1.0)
        w = int(whole.width * share)
        h = min(int(w * height / width), whole.height)
        x, y = rng.integers(0, whole.width - w + 1), rng.integers(0, whole.height - h + 1)
        found.append(whole.crop((x, y, x + w, y + h)).resize((width, height), Image.Resampling.BICUBIC))
    return found


def jpegs(count: int, width: int = 500, height: int = 375, seed: int = 0) -> list[bytes]:
    """As files, in the size of ImageNet's average picture."""
    files = []
    for picture in cuts(count, width, height, seed):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def tensors(pictures: list[Image.Image]) -> Tensor:
    """(B, 3, H, W) of bytes."""
    return torch.from_numpy(np.stack([np.asarray(p).transpose(2, 0, 1) for p in pictures]))
