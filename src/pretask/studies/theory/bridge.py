"""From theory to data: which of a data set's label tasks could one prompt solve?

Objects are clusters of features. There is an arrow from X to Y where a chain of nearest neighbours leads from X
to Y; that is a category with one arrow at most between two objects, and a label task is a presheaf on it if
whatever leads to a cluster of the class is of the class itself. A prompt P answers "yes" for all that leads to
it, as a class prototype does.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pretask.pretexts.hypergraph import clusters


def chains(centres: Float[Tensor, "clusters dim"]) -> Bool[Tensor, "clusters clusters"]:
    """Whether a chain of nearest neighbours leads from the row's cluster to the column's."""
    count = len(centres)
    distance = torch.cdist(centres, centres).fill_diagonal_(torch.inf)
    leads = torch.eye(count, dtype=torch.bool)
    leads[torch.arange(count), distance.argmin(1)] = True
    for middle in range(count):
        leads |= leads[:, middle, None] & leads[middle]
    return leads


def label_tasks(
    features: Float[Tensor, "items dim"], labels: Int[Tensor, "items"], count: int = 50
) -> dict[str, Any]:
    """How many classes are tasks of this category, and how many of these one prompt solves.

    Args:
        features: of a trained model, one vector an item.
        labels: classes, 0 and up.
        count: clusters; each is of the class that most of its items have.
    """
    found = clusters(features, count)
    votes = torch.zeros(count, int(labels.max()) + 1, dtype=torch.long)
    votes.index_put_((found, labels), torch.tensor(1), accumulate=True)
    sums = torch.zeros(count, features.shape[1], dtype=features.dtype).index_add(0, found, features)
    leads = chains(sums / votes.sum(1, keepdim=True))
    yes = votes.argmax(1)[:, None] == torch.arange(votes.shape[1])  # (clusters, classes)
    yes = yes[:, yes.any(0)]
    task = ~(leads[:, :, None] & yes[None] & ~yes[:, None]).any((0, 1))
    prompted = (leads[:, :, None] == yes[:, None]).all(0).any(0)
    return {
        "classes with a cluster": yes.shape[1],
        "tasks": int(task.sum()),
        "solved by one prompt": int(prompted.sum()),
        "purity": float(votes.amax(1).sum() / len(labels)),
    }
