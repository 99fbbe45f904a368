"""Fixed position embeddings."""

import torch
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
