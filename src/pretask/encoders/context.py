"""What the rows of a map say up to each place: a masked convolutional network without blind spots below."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class RowsAbove(nn.Module):
    """Residual blocks through which a place sees its own row and those above, and nothing below (CPC v2, Henaff et
    al., ICML 2020, appendix): 1x1, 1x3 along the row, 2x1 down the rows with a row of zeros on top, 1x1.

    Args:
        dim: channels.
        blocks: residual blocks; each sees one row further up.
        hidden: channels within a block.
    """

    def __init__(self, dim: int, blocks: int = 5, hidden: int = 256):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(dim, hidden, 1),
                nn.ReLU(),
                nn.Conv2d(hidden, hidden, (1, 3), padding=(0, 1)),
                nn.ZeroPad2d((0, 0, 1, 0)),
                nn.Conv2d(hidden, hidden, (2, 1)),
                nn.ReLU(),
                nn.Conv2d(hidden, dim, 1),
            )
            for _ in range(blocks)
        )

    def forward(self, x: Float[Tensor, "batch rows columns dim"]) -> Float[Tensor, "batch rows columns dim"]:
        x = x.movedim(3, 1)
        for block in self.blocks:
            x = x + block(x)
        return F.relu(x).movedim(1, 3)
