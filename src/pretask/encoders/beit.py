"""BEiT's transformer in timm: positions as a bias between every two places, in every block."""

from __future__ import annotations

from math import sqrt

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pretask.encoders.features import Features
from pretask.encoders.image import PatchEncoder
from pretask.errors import UsageError

STD = 0.02


class BeitEncoder(PatchEncoder):
    """A timm `beit...`: relative positions, so that all places must be there and pictures keep their size."""

    def embed(
        self,
        image: Float[Tensor, "batch chans h w"],
        hidden: Bool[Tensor, "batch tokens"] | None = None,
        mask_token: Float[Tensor, "dim"] | None = None,
    ) -> tuple[Float[Tensor, "batch prefix_tokens dim"], tuple[int, int]]:
        """Patches behind the class token, and the grid they lie on."""
        if tuple(image.shape[-2:]) != (self.image_size, self.image_size):
            raise UsageError(
                f"this encoder's relative positions are for pictures of {self.image_size} pixels, not "
                f"{tuple(image.shape[-2:])}"
            )
        patches = self.model.patch_embed(self.normalise(image))  # (B, N, D)
        if hidden is not None:
            assert mask_token is not None
            patches = torch.where(hidden.unsqueeze(-1), mask_token.to(patches.dtype), patches)
        x = torch.cat([self.model.cls_token.expand(len(patches), -1, -1).to(patches.dtype), patches], dim=1)
        if self.model.pos_embed is not None:
            x = x + self.model.pos_embed
        return self.model.pos_drop(x), self.grid

    def forward(
        self,
        image: Float[Tensor, "batch chans h w"],
        visible: Int[Tensor, "batch visible"] | None = None,
        hidden: Bool[Tensor, "batch tokens"] | None = None,
        mask_token: Float[Tensor, "dim"] | None = None,
    ) -> Features:
        """Encode; see `PatchEncoder.forward`.

        Raises:
            UsageError: patches shall be dropped, or the picture has another size.
        """
        if visible is not None:
            raise UsageError("a BEiT cannot drop patches: its positions are a bias between all of them")
        x, grid = self.embed(image, hidden, mask_token)
        shared = self.model.rel_pos_bias() if self.model.rel_pos_bias is not None else None
        for block in self.model.blocks:
            x = block(x, shared_rel_pos_bias=shared)
        x = self.model.norm(x)
        return Features(self.model.forward_head(x, pre_logits=True), x[:, 1:], x[:, :1], grid)


def small_(tensor: Tensor, std: float = STD) -> None:
    """BEiT's random numbers: a normal of deviation `std`, cut at one deviation."""
    nn.init.trunc_normal_(tensor, std=std, a=-std, b=std)


def see_symmetrically(encoder: PatchEncoder) -> None:
    """Let pictures be seen in [-1, 1], as BEiT does (BEiT v2 takes ImageNet's mean and deviation)."""
    encoder.mean.fill_(0.5)
    encoder.std.fill_(0.5)


@torch.no_grad()
def start_as_beit(encoder: PatchEncoder, std: float = STD) -> None:
    """BEiT's start (Bao et al., ICLR 2022): small weights (see `small_`), class token and absolute positions,
    biases of 0; in block i, counted from 1, what is added to the stream is divided by sqrt(2 i)."""
    for module in encoder.model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            small_(module.weight, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for single in (encoder.model.cls_token, encoder.model.pos_embed):
        if single is not None:
            small_(single, std)
    for number, block in enumerate(encoder.model.blocks, 1):
        block.attn.proj.weight.div_(sqrt(2 * number))
        block.mlp.fc2.weight.div_(sqrt(2 * number))
