"""How coarse an encoder's places are."""

import torch

from pretask.encoders.image import ImageEncoder


@torch.no_grad()
def stride(encoder: ImageEncoder) -> int:
    """Pixels from one place of the encoder's last map to the next, found by trying."""
    patch = getattr(encoder, "patch_size", None)
    if patch:
        return patch
    training, like = encoder.training, next(encoder.parameters())
    size = encoder.image_size
    grid = encoder.eval()(like.new_zeros(1, encoder.in_chans, size, size)).grid
    encoder.train(training)
    return -(-size // grid[0])
