"""How coarse an encoder's places are, and sizes of patches and crops that suit it."""

import torch

from pretask.encoders.image import ImageEncoder
from pretask.errors import UsageError
from pretask.pretexts.patches import SIDE
from pretask.pretexts.views import SMALL_IMAGE


@torch.no_grad()
def places(encoder: ImageEncoder) -> tuple[int, int]:
    """Rows and columns of the encoder's last map, found by trying."""
    training, like = encoder.training, next(encoder.parameters())
    size = encoder.image_size
    grid = encoder.eval()(like.new_zeros(1, encoder.in_chans, size, size)).grid
    encoder.train(training)
    return grid[0], grid[1]


def stride(encoder: ImageEncoder) -> int:
    """Pixels from one place of the encoder's last map to the next."""
    patch = getattr(encoder, "patch_size", None)
    return patch or -(-encoder.image_size // places(encoder)[0])


def patch_geometry(encoder: ImageEncoder) -> tuple[int, int, int]:
    """Sides of the crop, of a cell and of a patch: 255, 85 and 64 for 224 pixels, 33, 11 and 8 for 32.

    Raises:
        UsageError: no whole patch of the transformer fits into a cell.
    """
    size, whole = encoder.image_size, getattr(encoder, "patch_size", 1)
    cell = -(-size // SIDE) if size <= SMALL_IMAGE else round(size * 255 / 224 / SIDE)
    patch = max(round(0.75 * cell / whole), 1) * whole
    if patch >= cell:
        raise UsageError(f"a cell of {cell} pixels holds no patch of {whole}: use a smaller --patch-size")
    return SIDE * cell, cell, patch


def overlap_geometry(encoder: ImageEncoder, places: int = 7) -> tuple[int, int, int]:
    """Sides of the crop and of a patch, and pixels from one patch to the next, half a patch: 256, 64 and 32 for 256
    pixels, 32, 8 and 4 for 32.

    Args:
        encoder: of the patches; a transformer gets whole patches of its own.
        places: patches a row and a column.
    """
    whole = getattr(encoder, "patch_size", 1)
    patch = max(round(2 * encoder.image_size / (places + 1) / whole), 1) * whole
    step = max(patch // 2, 1)
    return patch + (places - 1) * step, patch, step


def local_side(encoder: ImageEncoder, size: int | None) -> int:
    """Side of a local crop: 3/7 of the picture's (half up to 64 pixels), in whole patches.

    Raises:
        UsageError: the given size has no whole patches.
    """
    patch = getattr(encoder, "patch_size", 1)
    if size is None:
        share = 1 / 2 if encoder.image_size <= SMALL_IMAGE else 3 / 7
        return max(round(encoder.image_size * share / patch), 1) * patch
    if size % patch:
        raise UsageError(f"local_size {size} is not a multiple of the encoder's patch size {patch}")
    return size
