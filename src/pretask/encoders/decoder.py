"""A light decoder: from the encoding of the visible patches to an answer for each hidden one."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pretask.encoders.attention import attend
from pretask.encoders.image import PatchEncoder
from pretask.encoders.positions import sincos_2d
from pretask.errors import UsageError
from pretask.pretexts.masks import Shuffle

HEAD_DIM = 32  # MAE's decoder: 512 wide, 16 heads
BASE = 768  # width of a ViT-B
layer_norm: Any = partial(nn.LayerNorm, eps=1e-6)


def decoder_shape(encoder_dim: int, dim: int | None = None, depth: int | None = None) -> tuple[int, int]:
    """Width and depth of a decoder: MAE's 8 blocks of 512 from a ViT-B on; below, 2 blocks of about
    half the encoder's width, because 8 of 512 would cost several times what a small encoder does.

    Raises:
        UsageError: the width is not a multiple of 32, or there is no block.
    """
    if dim is None:
        dim = 512 if encoder_dim >= BASE else max(round(encoder_dim / 2 / HEAD_DIM), 1) * HEAD_DIM
    if dim % HEAD_DIM:
        raise UsageError(f"decoder_dim must be a multiple of {HEAD_DIM} (the width of a head), not {dim}")
    if depth is not None and depth < 1:
        raise UsageError(f"decoder_depth must be at least 1, not {depth}")
    return dim, depth or (8 if encoder_dim >= BASE else 2)


class LastBlock(Block):
    """A block of which only the last tokens are needed: they alone ask, of all."""

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "batch tokens dim"], needed: int
    ) -> Float[Tensor, "batch needed dim"]:
        everyone, x = self.norm1(x), x[:, -needed:]
        x = x + attend(self.attn, everyone[:, -needed:], everyone)
        return x + self.mlp(self.norm2(x))


class CrossBlock(Block):
    """A block in which some tokens ask and others are asked, both normalised by the same layer (CIM)."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__(dim, num_heads, qkv_bias=True, norm_layer=layer_norm)
        self.apply(xavier_linear)
        weight: Any = self.attn.qkv.weight  # type: ignore[union-attr]
        for part in (weight[:dim], weight[dim:]):  # two layers in the official code
            nn.init.xavier_uniform_(part)

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "batch asking dim"], others: Float[Tensor, "batch asked dim"]
    ) -> Float[Tensor, "batch asking dim"]:
        x = x + attend(self.attn, self.norm1(x), self.norm1(others))
        return x + self.mlp(self.norm2(x))


class TokenDecoder(nn.Module):
    """Transformer over visible tokens and mask tokens (He et al., CVPR 2022, section 3).

    Hidden places stand behind the visible ones instead of being put back in raster order: attention
    does not know the order, positions are looked up, and only hidden places are answered. The last
    block spares itself the others, a fifth of its work.

    Args:
        encoder_dim: width of the tokens it reads.
        num_outputs: values asked of each hidden patch.
        grid: rows and columns of patches.
        dim: width; None follows `decoder_shape`.
        depth: blocks; None follows `decoder_shape`.
    """

    positions: Tensor

    def __init__(
        self,
        encoder_dim: int,
        num_outputs: int,
        grid: tuple[int, int],
        dim: int | None = None,
        depth: int | None = None,
    ):
        super().__init__()
        dim, depth = decoder_shape(encoder_dim, dim, depth)
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("positions", sincos_2d(dim, grid), persistent=False)
        kinds = [Block] * (depth - 1) + [LastBlock]
        self.blocks = nn.ModuleList(
            kind(dim, dim // HEAD_DIM, qkv_bias=True, norm_layer=layer_norm) for kind in kinds
        )
        self.norm = layer_norm(dim)
        self.head = nn.Linear(dim, num_outputs)
        nn.init.normal_(self.mask_token, std=0.02)
        self.apply(xavier_linear)

    def forward(
        self,
        tokens: Float[Tensor, "batch visible encoder_dim"],
        prefix: Float[Tensor, "batch prefix encoder_dim"],
        order: Shuffle,
    ) -> Float[Tensor, "batch hidden num_outputs"]:
        """Answers for the hidden patches, in the order of `order.hidden`.

        Args:
            tokens: encoded visible patches, in the order of `order.visible`.
            prefix: encoded class tokens; they have no position.
            order: which patches are visible and which hidden.
        """
        visible = self.embed(tokens) + self.positions[order.visible]
        hidden = self.mask_token + self.positions[order.hidden]
        x = torch.cat([self.embed(prefix), visible, hidden.to(visible.dtype)], dim=1)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.head(self.norm(self.blocks[-1](x, order.hidden.shape[1])))


def xavier_linear(module: nn.Module) -> None:
    """MAE's initialisation of a linear layer; for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def start_as_mae(encoder: PatchEncoder) -> None:
    """MAE's start (He et al., CVPR 2022): fixed positions, Xavier-uniform weights, class token from N(0, 0.02)."""
    encoder.use_fixed_positions()
    encoder.model.apply(xavier_linear)
    kernel = encoder.model.patch_embed.proj.weight
    nn.init.xavier_uniform_(kernel.data.view(len(kernel), -1))
    if encoder.model.cls_token is not None:
        nn.init.normal_(encoder.model.cls_token, std=0.02)
