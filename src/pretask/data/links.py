"""Edges held out of a graph, and pairs of nodes that are no edges: what link prediction is judged by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

VAL, TEST = 0.1, 0.2  # shares of the edges (Kipf & Welling's split as ParetoGNN's link_gen sets it)
DENSE = 4  # pairs are listed rather than tried where only so many times more exist than are wanted


class Links(NamedTuple):
    """A graph without some of its edges, and these.

    Args:
        graph: the edges that stay, in both directions, sorted.
        val: edges taken away to choose by, each once, the smaller node first.
        test: edges taken away to judge by.
    """

    graph: Int[Tensor, "2 edges"]
    val: Int[Tensor, "2 val"]
    test: Int[Tensor, "2 test"]


def split_links(edge_index: Int[Tensor, "2 edges"], count: int, seed: int = 0) -> Links:
    """Take a tenth and a fifth of the edges away, in both directions; which is a matter of the seed alone.

    Args:
        edge_index: edges in both directions, without self-loops.
        count: nodes.
        seed: of the choice.
    """
    once = edge_index[:, edge_index[0] < edge_index[1]]
    total = once.shape[1]
    order = torch.from_numpy(np.random.default_rng([seed, 0]).permutation(total))
    val, test, kept = order.split(
        [int(total * VAL), int(total * TEST), total - int(total * VAL) - int(total * TEST)]
    )
    stay = once[:, kept]
    flat = torch.cat([stay[0] * count + stay[1], stay[1] * count + stay[0]]).sort().values
    return Links(torch.stack([flat // count, flat % count]), once[:, val], once[:, test])


def non_links(
    edge_index: Int[Tensor, "2 edges"], count: int, number: int, seed: int = 0
) -> Int[Tensor, "2 found"]:
    """Random pairs of different nodes that are no edges, each once, the smaller node first.

    Fewer than `number` where the graph has no more.

    Args:
        edge_index: all edges there are, in any direction.
        count: nodes.
        number: how many are wanted.
        seed: of the choice.
    """
    rng = np.random.default_rng([seed, 1])
    low, high = edge_index.min(0).values.numpy(), edge_index.max(0).values.numpy()
    edges = np.unique(low * count + high)
    pairs = count * (count - 1) // 2
    if pairs < DENSE * (number + len(edges)):
        row, column = np.triu_indices(count, 1)
        flat = np.setdiff1d(row * count + column, edges)
        return to_pairs(rng.permutation(flat)[:number], count)
    found = np.empty(0, dtype=np.int64)
    while len(found) < number:
        one, other = rng.integers(count, size=(2, 2 * number + 16))
        flat = np.minimum(one, other) * count + np.maximum(one, other)
        flat = flat[(one != other) & ~np.isin(flat, edges)]
        both = np.concatenate([found, flat])
        found = both[np.sort(np.unique(both, return_index=True)[1])]  # in the order of their drawing
    return to_pairs(found[:number], count)


def to_pairs(flat: np.ndarray, count: int) -> Int[Tensor, "2 pairs"]:
    return torch.from_numpy(np.stack([flat // count, flat % count]).astype(np.int64))
