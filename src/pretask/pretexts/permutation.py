"""Shuffling and putting back. One convention: `order[i]` is the item that comes to stand at place i.

So a shuffle is `items[order]`, the inverse `invert(order)[j]` is the place where item j went, and
shuffling with the inverse undoes it. For the 3-cycle order = (1, 2, 0): abc becomes bca, and its inverse
is (2, 0, 1). `draw.permutations` draws orders.
"""

from functools import lru_cache
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.errors import UsageError
from pretask.pretexts import draw

MOST_ITEMS = 9  # 9! = 362,880 permutations are looked through; 10! would take gigabytes


def shuffle(
    items: Float[Tensor, "batch n *rest"], order: Int[Tensor, "batch n"]
) -> Float[Tensor, "batch n *rest"]:
    """Put item order[b, i] at place i."""
    sample = torch.arange(len(items), device=items.device)[:, None]
    return items[sample, order.to(items.device)]


def invert(order: Int[Tensor, "*batch n"]) -> Int[Tensor, "*batch n"]:
    """The order that undoes this one."""
    return order.argsort(dim=-1)


def unshuffle(
    items: Float[Tensor, "batch n *rest"], order: Int[Tensor, "batch n"]
) -> Float[Tensor, "batch n *rest"]:
    """Put every item back where it was before `shuffle(items, order)`."""
    return shuffle(items, invert(order))


def tiles(
    image: Float[Tensor, "batch chans height width"], rows: int, columns: int
) -> Float[Tensor, "batch rows*columns chans h w"]:
    """The picture as tiles, row by row.

    Raises:
        UsageError: the tiles would not be equal.
    """
    batch, chans, height, width = image.shape
    if height % rows or width % columns:
        raise UsageError(f"a picture of {height} x {width} pixels has no {rows} x {columns} equal tiles")
    parts = image.reshape(batch, chans, rows, height // rows, columns, width // columns)
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def from_tiles(
    parts: Float[Tensor, "batch tiles chans h w"], rows: int, columns: int
) -> Float[Tensor, "batch chans height width"]:
    """The picture that `tiles` was made from."""
    batch, _, chans, h, w = parts.shape
    grid = parts.reshape(batch, rows, columns, chans, h, w)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(batch, chans, rows * h, columns * w)


def shuffle_tiles(
    image: Float[Tensor, "batch chans height width"], order: Int[Tensor, "batch tiles"], side: int
) -> Float[Tensor, "batch chans height width"]:
    """Pictures whose side x side tiles change places, at their full size: tile order[b, i] comes to stand at
    place i.

    A picture that cannot be divided is filled up with zeros at the top and the left; as many rows and
    columns are cut off there afterwards, whatever has come to lie in them (CLER).
    """
    top, left = -image.shape[2] % side, -image.shape[3] % side
    parts = tiles(F.pad(image, (left, 0, top, 0)), side, side)
    return from_tiles(shuffle(parts, order), side, side)[:, :, top:, left:]


def draw_moves(
    batch: int, items: int, moved: int, generator: torch.Generator
) -> Int[Tensor, "batch items"]:
    """Orders that leave all but `moved` random items where they are; those change places at random, which
    may put them back."""
    here = draw.permutations(batch, items, generator)[:, :moved]
    there = here.gather(1, draw.permutations(batch, moved, generator))
    return torch.arange(items, device=here.device).repeat(batch, 1).scatter(1, there, here)


@lru_cache(maxsize=8)
def far_apart(items: int, count: int, seed: int = 0) -> Int[Tensor, "count items"]:
    """Permutations that differ in as many places as possible (Noroozi & Favaro, ECCV 2016): the first is
    random, each next one has the largest summed Hamming distance to those before it.

    Do not write into the result: it is shared.

    Args:
        items: length of a permutation.
        count: permutations.
        seed: of the first one.

    Raises:
        UsageError: too many items to look through all permutations, or more asked for than there are.
    """
    if items > MOST_ITEMS:
        raise UsageError(
            f"far-apart permutations are found among all: at most {MOST_ITEMS} items, not {items}"
        )
    every = np.array(list(permutations(range(items))), dtype=np.uint8)
    if count > len(every):
        raise UsageError(f"{items} items have {len(every)} permutations, not {count}")
    distance = np.zeros(len(every), dtype=np.int64)
    chosen = [int(np.random.default_rng(seed).integers(len(every)))]
    while len(chosen) < count:
        distance += (every != every[chosen[-1]]).sum(1)
        distance[chosen[-1]] = -1 - count * items  # below all others for good
        chosen.append(int(distance.argmax()))
    return torch.from_numpy(every[chosen].astype(np.int64))
