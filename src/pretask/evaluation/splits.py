"""Parts of a data set: a share held out, a few of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

if TYPE_CHECKING:
    from pretask.data import Dataset


def rank_in_class(labels: Int[Tensor, "items"], seed: int) -> Int[Tensor, "items"]:
    """Each item's place in a random order of its class: 0, 1, 2 ..."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    order = shuffled[labels[shuffled].argsort(stable=True)]  # class by class, at random within
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(len(labels)) - starts[labels[order]]
    return rank


def stratified(
    labels: Int[Tensor, "items"], share: float, seed: int
) -> tuple[Int[Tensor, "kept"], Int[Tensor, "held"]]:
    """Rows to keep and rows to hold out: `share` of every class, and never a whole class."""
    counts = torch.bincount(labels)
    wanted = torch.minimum((counts * share).round().long(), (counts - 1).clamp(min=0))
    held = rank_in_class(labels, seed) < wanted[labels]
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def few(labels: Int[Tensor, "items"], shots: int, seed: int) -> Int[Tensor, "few"]:
    """Rows of `shots` random items of every class (all of a class that has fewer)."""
    return (rank_in_class(labels, seed) < shots).nonzero().flatten()


def holdout(dataset: Dataset, share: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
    """A data set without a test split in two: stratified by label where there are labels."""
    labels = dataset.labels
    if labels is None:
        labels = torch.zeros(len(dataset), dtype=torch.long)
    kept, held = stratified(labels - labels.min(), share, seed)
    return dataset.subset(kept), dataset.subset(held)
