"""The vocabulary of a batch: one name, one meaning, in every reader, task and protocol.

| key | tensor | meaning |
|---|---|---|
| `image` | (B, C, H, W) uint8, or float in [0, 1] | the whole picture, resampled to a square canvas |
| `size` | (B, 2) int64 | height and width in pixels before resampling: undoes the canvas' distortion |
| `where` | (B, 2) | latitude and longitude in degrees of where `image` was taken |
| `place` | (B,) int64 | the same number where the same place is seen |
| `revisit`, `revisit_size` | (B, K, C, H, W), (B, K, 2) | other pictures of the same place, as `image` and `size` |
| `revisits` | (B,) int64 | how many of `revisit` are there, at its beginning; behind them stands anything |
| `index` | (B,) int64 | the sample's row in the data set |
| `label` | (B,) int64 | present only where the data carry labels; never read by a self-supervised loss |
| `video` | (B, C, T, H, W) uint8, or float in [0, 1] | frames on a square canvas, with `size` |
| `audio` | (B, S) | samples in [-1, 1] |
| `tokens` | (B, L) int64 | a text with the tokens that stand around it, padded at the end |
| `attention` | (B, L) bool | where `tokens` are no padding |
| `lang` | (B,) int64 | the language of `tokens`: its place in the data set's list |
| `pair`, `pair_attention`, `pair_lang` | as above | the same text in another language, where there is one |
| `script`, `script_attention` | (B, K, L) as above | K texts that tell what happens, one behind the other |
| `points` | (B, N, 3+F) | clouds of equally many points: coordinates, then what a point carries besides |
| `normals` | (B, N, 3) | of `points`, of length 1: which way the surface faces |
| `oriented` | (B,) bool | whether the signs of a cloud's `normals` are known; absent means that they are |
| `variation` | (B, N, 1) | of `points`: 0 where the surface is flat, 1/3 where points scatter evenly |
| `volume` | (B, C, D, H, W) in [0, 1] | axes run right, to the front and up where that is known; `size` is (B, 3) |
| `segmentation` | (B, D, H, W), (B, H, W) integers | what is where: 0 background, -1 unknown; not for losses |
| `pose` | (B, T, J, D) | where joints are; those of several persons stand one person behind the other |
| `frames` | (B,) int64 | frames of `pose` that are there; the others, at its end, are zeros. Absent: all |
| `track` | (B, A, T, 2) | metres |
| `graph` | PyG `Data`: `x`, `edge_index` | the graph of which samples are nodes; or the samples, joined |
| `node` | (B,) int64 | where the samples stand in `graph`; absent where samples are graphs |

Edges stand in both directions, without self-loops. Where samples are the nodes of one graph, every batch in
every process holds all of it, the same object; where they are graphs, a batch holds its own, joined as PyG's
`Batch` joins them (`ptr`, `batch`).
"""

from typing import Any

import torch
from torch import Tensor

from pretask.errors import UsageError
from pretask.task import Batch


def to_float(image: Tensor) -> Tensor:
    """A picture as float in [0, 1], whatever it was stored as."""
    return image.float().div_(255) if image.dtype.is_floating_point is False else image


def single(x: Tensor) -> Tensor:
    """In float32 at least, where half precision is too coarse."""
    return x if x.dtype == torch.float64 else x.float()


def require(batch: Batch, key: str, ndim: int) -> Tensor:
    """The batch's entry `key` with its number of dimensions checked.

    Raises:
        UsageError: the key is missing or has another number of dimensions.
    """
    if key not in batch:
        raise UsageError(f"the batch has no '{key}' (it has: {', '.join(sorted(batch))})")
    if batch[key].ndim != ndim:
        raise UsageError(f"batch['{key}'] must have {ndim} dimensions, not shape {tuple(batch[key].shape)}")
    return batch[key]


def require_graph(batch: Batch) -> Any:
    """The batch's graph, with as much as a network needs of it.

    Raises:
        UsageError: there is none, or it has no features or no edges that fit its nodes.
    """
    graph = batch.get("graph")
    if graph is None:
        raise UsageError(f"the batch has no 'graph' (it has: {', '.join(sorted(batch))})")
    x, edges = getattr(graph, "x", None), getattr(graph, "edge_index", None)
    if not isinstance(x, Tensor) or x.ndim != 2 or not x.is_floating_point():
        raise UsageError("batch['graph'] must have features: x, a float tensor (nodes, features)")
    if not isinstance(edges, Tensor) or edges.ndim != 2 or len(edges) != 2 or edges.dtype != torch.long:
        raise UsageError("batch['graph'] must have edges: edge_index, an int64 tensor (2, edges)")
    return graph


def take(batch: Batch, rows: slice | Tensor) -> Batch:
    """Some samples of a batch. The one graph that all samples are nodes of stays whole."""

    def some(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[rows]
        if getattr(value, "ptr", None) is None:
            return value
        from pretask.data.graph import select

        return select(value, rows)

    return {key: some(value) for key, value in batch.items()}
