"""A second top on an encoder: the lower stages are shared, from there on it has layers of its own."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pretask.encoders.image import ImageEncoder, PatchEncoder
from pretask.errors import UsageError

Shared = Literal[3, 4]


class Branch(nn.Module):
    """A copy of the last of four stages, with the weights it has now and independent from then on.

    The stages of a ResNet are its `layer1` to `layer4`; those of a vision transformer are quarters of its
    blocks (the last one is never empty), with the last norm.

    Args:
        encoder: whose stages are shared and copied; it is given anew at each call and not held.
        shared: stages below the branch: 3, or 4 to branch off the finished features.

    Raises:
        UsageError: the encoder has no such stages.
    """

    def __init__(self, encoder: ImageEncoder, shared: Shared = 3):
        super().__init__()
        self.shared, self.own = shared, nn.Sequential()
        model = encoder.model
        if isinstance(encoder, PatchEncoder):
            self.first_own = len(model.blocks) - max(1, len(model.blocks) // 4)  # block
            if shared == 3:
                self.own = copy.deepcopy(nn.Sequential(*model.blocks[self.first_own :], model.norm))
        elif all(hasattr(model, f"layer{number}") for number in range(1, 5)):
            if shared == 3:
                self.own = copy.deepcopy(model.layer4)
        else:
            raise UsageError(
                f"a branch needs the four stages of a ResNet or the blocks of a vision transformer; "
                f"'{encoder.name}' has neither"
            )

    def lower(self, encoder: ImageEncoder, image: Float[Tensor, "batch chans h w"]) -> Tensor:
        """What the shared stages make of pictures in [0, 1]: a map, or tokens with their grid behind."""
        if isinstance(encoder, PatchEncoder):
            x, _ = encoder.embed(image)
            x = encoder.model.norm_pre(x)
            if self.shared == 4:
                return encoder.model.norm(encoder.model.blocks(x))
            for block in encoder.model.blocks[: self.first_own]:
                x = block(x)
            return x
        image = encoder.normalise(image).contiguous(memory_format=torch.channels_last)
        return encoder.model.forward_intermediates(
            image, indices=[self.shared], stop_early=True, intermediates_only=True
        )[0]

    def forward(
        self, encoder: ImageEncoder, image: Float[Tensor, "batch chans h w"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        """The features at each place, `encoder.dim` of them."""
        x = self.own(self.lower(encoder, image))
        if not isinstance(encoder, PatchEncoder):
            return x
        rows, columns = (side // encoder.patch_size for side in image.shape[2:])
        return x[:, encoder.num_prefix :].transpose(1, 2).unflatten(2, (rows, columns))
