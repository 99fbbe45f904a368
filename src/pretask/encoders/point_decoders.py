"""From the encoding of visible patches to answers elsewhere: at hidden patches, or at any point in space."""

from __future__ import annotations

import torch
from jaxtyping import Float
from timm.layers import Mlp
from torch import Tensor, nn

from pretask.encoders.decoder import xavier_linear
from pretask.encoders.drop_path import DropPath
from pretask.encoders.points import Blocks, position_mlp


class MaskedPointDecoder(nn.Module):
    """A transformer over visible tokens and a mask token at the centre of each hidden patch (Point-MAE, 3.3).

    Args:
        dim: width of the tokens.
        num_outputs: values asked of each hidden patch.
        depth: blocks.
        heads: attention heads.
    """

    def __init__(self, dim: int, num_outputs: int, depth: int = 4, heads: int = 6):
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(dim))  # one-dimensional: not decayed, as in the paper
        self.position = position_mlp(dim)
        self.layers = Blocks(dim, depth, heads)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_outputs)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.layers.apply(xavier_linear)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.layers.blocks

    def forward(
        self,
        tokens: Float[Tensor, "batch visible dim"],
        visible: Float[Tensor, "batch visible 3"],
        hidden: Float[Tensor, "batch hidden 3"],
    ) -> Float[Tensor, "batch hidden num_outputs"]:
        """Answers for the hidden patches.

        Args:
            tokens: encoded visible patches.
            visible: their centres.
            hidden: the hidden patches' centres.
        """
        asked = self.mask_token.to(tokens.dtype).expand(*hidden.shape[:2], -1)
        x = torch.cat([tokens, asked], dim=1)
        x = self.layers(x, self.position(torch.cat([visible, hidden], dim=1)))
        return self.head(self.norm(x[:, -hidden.shape[1] :]))


class QueryBlock(nn.Module):
    """Queries look at one another, then at what was encoded; positions are added to what asks and what is
    asked, not to what is answered (MaskFeat3D, section 3.2).

    Args:
        dim: width.
        heads: attention heads.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.cross_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path1, self.drop_path2, self.drop_path3 = DropPath(), DropPath(), DropPath()

    def forward(
        self,
        x: Float[Tensor, "batch queries dim"],
        place: Float[Tensor, "batch queries dim"],
        key: Float[Tensor, "batch tokens dim"],
        value: Float[Tensor, "batch tokens dim"],
    ) -> Float[Tensor, "batch queries dim"]:
        """One block.

        Args:
            x: the queries' content.
            place: the queries' positions.
            key: what was encoded, with its positions.
            value: what was encoded.
        """
        content = self.norm1(x)
        asking = content + place
        x = x + self.drop_path1(self.self_attn(asking, asking, content, need_weights=False)[0])
        asking = self.norm2(x) + place
        x = x + self.drop_path2(self.cross_attn(asking, key, value, need_weights=False)[0])
        return x + self.drop_path3(self.mlp(self.norm3(x)))


class QueryDecoder(nn.Module):
    """What is at these places? Queries without any content of their own, only a position, gather the answer.

    There is no mask token: content starts at zero, so that in the first block positions alone tell queries
    apart.

    Args:
        dim: width of the tokens.
        depth: blocks.
        heads: attention heads.
    """

    def __init__(self, dim: int, depth: int = 4, heads: int = 6):
        super().__init__()
        self.position = position_mlp(dim)
        self.blocks = nn.ModuleList(QueryBlock(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.blocks.apply(xavier_linear)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        places: Float[Tensor, "batch tokens 3"],
        queries: Float[Tensor, "batch queries 3"],
    ) -> Float[Tensor, "batch queries dim"]:
        """What is found at the queries.

        Args:
            tokens: encoded visible patches.
            places: their centres.
            queries: where to look, in the same coordinates.
        """
        key, place = tokens + self.position(places), self.position(queries)
        x = torch.zeros_like(place, dtype=queries.dtype)  # sums in full, products perhaps in half
        for block in self.blocks:
            x = block(x, place, key, tokens)
        return self.norm(x)
