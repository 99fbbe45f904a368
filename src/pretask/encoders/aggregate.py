"""A token that gathers others by attention, at large or around each place (SelfPatch, Yun et al., CVPR 2022)."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pretask.encoders.attention import attend
from pretask.encoders.decoder import layer_norm


def neighbours(grid: tuple[int, int], device: torch.device | str | None = None) -> Int[Tensor, "places 8"]:
    """The eight places around each, in ascending order; what leaves the grid on one side comes in on the other."""
    rows, columns = grid
    row, column = torch.meshgrid(*(torch.arange(side, device=device) for side in grid), indexing="ij")
    around = [
        (row + down) % rows * columns + (column + right) % columns
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
        if down or right
    ]
    return torch.stack([place.flatten() for place in around], dim=1).sort(dim=1).values


def most_alike(
    tokens: Float[Tensor, "batch places dim"], grid: tuple[int, int], count: int
) -> Float[Tensor, "batch places count dim"]:
    """Of each place's eight neighbours those most like it by cosine, itself left out."""
    around = neighbours(grid, tokens.device)
    unit = F.normalize(tokens, dim=-1)
    likeness = torch.einsum("bpd,bpnd->bpn", unit, unit[:, around])
    best = around.expand(len(tokens), -1, -1).gather(2, likeness.topk(count, dim=2).indices)
    return tokens[torch.arange(len(tokens), device=tokens.device)[:, None, None], best]


class Aggregation(nn.Module):
    """Class-attention blocks over tokens, then a norm of what was gathered and of the tokens.

    Args:
        dim: width of the tokens.
        num_heads: of the attention.
        depth: blocks.
    """

    def __init__(self, dim: int, num_heads: int, depth: int = 2):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, qkv_bias=True, norm_layer=layer_norm) for _ in range(depth)
        )
        self.norm = layer_norm(dim)
        nn.init.trunc_normal_(self.token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def gather(self, tokens: Float[Tensor, "sets tokens dim"]) -> Float[Tensor, "sets dim"]:
        """What the class token makes of each set of tokens: it alone asks, and it alone changes."""
        x = self.token.expand(len(tokens), -1, -1)
        block: Any
        for block in self.blocks:
            y = block.norm1(torch.cat([x, tokens], dim=1))
            x = x + attend(block.attn, y[:, :1], y)
            x = x + block.mlp(block.norm2(x))
        return x[:, 0]

    def forward(
        self, tokens: Float[Tensor, "batch places dim"], grid: tuple[int, int], alike: int = 0
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch places dim"]]:
        """What is gathered of all tokens, and the tokens; with `alike`, for each of them what is gathered of
        so many of its neighbours instead."""
        whole, each = self.gather(tokens), tokens
        if alike:
            sets = most_alike(tokens, grid, alike)
            each = self.gather(sets.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        return self.norm(whole), self.norm(each)
