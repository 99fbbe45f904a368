"""CRATE: a transformer derived from an aim, to compress features towards few subspaces (Yu et al., 2023).

Importing this module registers `vit_crate_tiny_patch16_224`, `_small_`, `_base_` and `_large_` with timm: its
vision transformer, whose blocks are these. They take the penalty of the sparse code, too:
`vit_crate_small_patch16_224:penalty=0.1` is what is trained with labels.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

STEP, SPARSITY = 0.1, 0.5
"""Step eta and penalty lambda of the sparse coding step (CRATE-MAE's; classification takes 0.1)."""


class SubspaceAttention(nn.Module):
    """MSSA: queries, keys and values are the same projections onto a subspace a head.

    Args:
        dim: width of the tokens.
        num_heads: subspaces.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, dim, bias=False)
        self.proj = nn.Linear(dim, dim) if num_heads > 1 else nn.Identity()

    def project(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch heads tokens width"]:
        return self.qkv(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        w = self.project(x)
        return self.proj(F.scaled_dot_product_attention(w, w, w).transpose(1, 2).flatten(2))


class SparseCoding(nn.Module):
    """ISTA: one step towards a sparse, non-negative code of the tokens in a learned dictionary, from x itself:
    relu(x + eta (D'x - D'D x) - eta lambda), with tokens as rows and D' x written x D.

    Args:
        dim: width of the tokens, and atoms.
        penalty: lambda.
    """

    def __init__(self, dim: int, penalty: float = SPARSITY):
        super().__init__()
        self.penalty = penalty
        self.weight = nn.Parameter(torch.empty(dim, dim))
        nn.init.kaiming_uniform_(self.weight)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        rebuilt = F.linear(x, self.weight)
        ahead = F.linear(x - rebuilt, self.weight.T)
        return F.relu(x + STEP * ahead - STEP * self.penalty)


class CrateBlock(nn.Module):
    """Compress, then sparsify: z <- z + MSSA(norm z); z <- ISTA(norm z), without another residual.

    Args:
        dim: width of the tokens.
        num_heads: subspaces.
        penalty: lambda.
        timm: what timm's transformer tells its blocks besides; a CRATE block has none of it.
    """

    def __init__(self, dim: int, num_heads: int, penalty: float = SPARSITY, **timm: Any):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), SubspaceAttention(dim, num_heads)
        self.norm2, self.code = nn.LayerNorm(dim), SparseCoding(dim, penalty)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        x = x + self.attn(self.norm1(x))
        return self.code(self.norm2(x))


class CrateDecoderBlock(nn.Module):
    """A block run backwards: z <- D(norm z), without residual; z <- z - MSSA(norm z).

    Args:
        dim: width of the tokens.
        num_heads: subspaces.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm1, self.weight = nn.LayerNorm(dim), nn.Parameter(torch.empty(dim, dim))
        nn.init.kaiming_uniform_(self.weight)
        self.norm2, self.attn = nn.LayerNorm(dim), SubspaceAttention(dim, num_heads)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        x = F.linear(self.norm1(x), self.weight)
        return x - self.attn(self.norm2(x))


class Crate(VisionTransformer):
    """timm's vision transformer with CRATE's blocks.

    Args:
        penalty: their lambda.
        settings: timm's.
    """

    def __init__(self, penalty: float = SPARSITY, **settings: Any):
        super().__init__(**{**settings, "block_fn": partial(CrateBlock, penalty=penalty)})


def sized(width: int, heads: int, depth: int, settings: dict[str, Any]) -> Crate:
    for name in ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        settings.pop(name, None)
    return Crate(**{"embed_dim": width, "num_heads": heads, "depth": depth, **settings})


@register_model
def vit_crate_tiny_patch16_224(pretrained: bool = False, **settings: Any) -> Crate:
    return sized(384, 6, 12, settings)


@register_model
def vit_crate_small_patch16_224(pretrained: bool = False, **settings: Any) -> Crate:
    return sized(576, 12, 12, settings)


@register_model
def vit_crate_base_patch16_224(pretrained: bool = False, **settings: Any) -> Crate:
    return sized(768, 12, 12, settings)


@register_model
def vit_crate_large_patch16_224(pretrained: bool = False, **settings: Any) -> Crate:
    return sized(1024, 16, 24, settings)
