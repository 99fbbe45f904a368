"""Fixed position embeddings."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def sincos_1d(dim: int, position: Float[Tensor, "*positions"]) -> Float[Tensor, "positions dim"]:
    """[sin(p w) | cos(p w)] with w_i = 10000^(-i / (dim/2)), computed in float64."""
    omega = 10000 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angle = position.double().reshape(-1, 1) * omega
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def sincos_2d(dim: int, grid: tuple[int, int]) -> Float[Tensor, "places dim"]:
    """Sine-cosine table of a grid, row by row: the first half of `dim` encodes the column, the second
    the row (He et al., CVPR 2022; the official code's comment has the two the other way round).

    Raises:
        ValueError: `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"a 2-D sine-cosine table needs a width divisible by 4, not {dim}")
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    return torch.cat([sincos_1d(dim // 2, columns), sincos_1d(dim // 2, rows)], dim=1).float()


def resized(
    table: Float[Tensor, "places dim"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "new_places dim"]:
    """Positions for another grid, bicubic and not antialiased, with DINO's 0.1 in the scale (official code of
    DINO and CIM): it shifts what is looked up a little."""
    if old == new:
        return table
    scale = ((new[0] + 0.1) / old[0], (new[1] + 0.1) / old[1])
    grid = table.T.view(1, -1, *old)
    return F.interpolate(grid, scale_factor=scale, mode="bicubic")[0].flatten(1).T
