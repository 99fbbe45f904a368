"""Which place has each of several texts in a video? A transformer on both (TVTS, Zeng et al., CVPR 2023)."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn


class Sorter(nn.Module):
    """Pre-norm blocks over all tokens of the video and one of each text, a vector for either kind added, which starts
    at zero; behind them a norm and, of the texts alone, a linear layer. Texts have no positions: in whatever order
    they are given, the answers are. Linear layers start as torch's do: the official class defines another start and
    does not call it.

    Args:
        dim: width of the tokens.
        places: to choose from.
        depth: blocks.
        heads: of attention.
    """

    def __init__(self, dim: int, places: int, depth: int = 2, heads: int = 12):
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.type_embed = nn.Parameter(torch.zeros(2, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))  # type: ignore[arg-type]
        self.norm = norm(dim)
        self.head = nn.Linear(dim, places)

    def forward(
        self, video: Float[Tensor, "batch tokens dim"], texts: Float[Tensor, "batch texts dim"]
    ) -> Float[Tensor, "batch texts places"]:
        video, texts = video + self.type_embed[0], texts + self.type_embed[1]
        x = torch.cat([video, texts.to(video.dtype)], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, video.shape[1] :]))
