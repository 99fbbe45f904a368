"""Things in parts: words of a caption, frames of a film, slices of a sound; what fine comparisons are made of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Parts(NamedTuple):
    """Things in parts; what is one vector is a single part.

    Args:
        feature: of each part, of length 1.
        weight: how much each counts, before the softmax over the parts of a thing.
        there: which parts there are; the others fill up.
    """

    feature: Float[Tensor, "things parts dim"]
    weight: Float[Tensor, "things parts"]
    there: Bool[Tensor, "things parts"]


def joined(*groups: Parts) -> Parts:
    """Things whose parts are those of several, with one softmax over all their weights."""
    return Parts(*(torch.cat(columns, dim=1) for columns in zip(*groups, strict=True)))
