"""Runs of whole numbers, for rows that lie together in one long tensor."""

import torch
from jaxtyping import Int
from torch import Tensor


def ranges(start: Int[Tensor, "some"], length: Int[Tensor, "some"]) -> Int[Tensor, "total"]:
    """start, start + 1, ... start + length - 1 of each, one run after the other."""
    ends = length.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    return torch.arange(total, device=start.device) + (start - ends + length).repeat_interleave(length)
