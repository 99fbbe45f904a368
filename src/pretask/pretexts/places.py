"""Places on a grid as classes: how near they are to each other."""

import torch
from jaxtyping import Float
from torch import Tensor


def squared_distances(
    places: int, columns: int, device: torch.device | str | None = None
) -> Float[Tensor, "places places"]:
    """Between every two places numbered row by row, in steps of the grid."""
    number = torch.arange(places, device=device)
    row, column = number // columns, number % columns
    return (row[:, None] - row).square() + (column[:, None] - column).square().float()


def smoothed_places(
    places: int, columns: int, sigma: float, device: torch.device | str | None = None
) -> Float[Tensor, "places places"]:
    """A distribution around each place, exp(-d^2 / sigma^2) with each row summing to 1; for sigma 0 the place
    itself (DropPos, Wang et al., NeurIPS 2023, equation 5)."""
    if sigma <= 0:
        return torch.eye(places, device=device)
    near = (-squared_distances(places, columns, device) / sigma**2).exp()
    return near / near.sum(1, keepdim=True)
