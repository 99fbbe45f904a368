"""Graphs without a download: neighbours among real digits, a real club, and blocks with planted features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pretask.data.embedded import divided
from pretask.data.graph_files import Found
from pretask.errors import need

NEIGHBOURS = 5
BLOCKS, SIZE, WORDS = 6, 150, 60  # of `blocks`: classes, nodes of each, features


def digit_neighbours(seed: int = 0) -> Found:
    """scikit-learn's 1,797 handwritten digits, each joined with its 5 nearest by cosine similarity of the
    lower half; the features are the 32 pixels of the upper half, so that edges say what features do not."""
    from sklearn.datasets import load_digits
    from sklearn.neighbors import kneighbors_graph

    digits = load_digits()
    pixels = digits.data.astype(np.float32)
    edges = np.stack(kneighbors_graph(pixels[:, 32:], NEIGHBOURS, metric="cosine").nonzero())
    parts = divided(digits.target, seed)
    return Found("digit-neighbours", edges, len(pixels), pixels[:, :32], digits.target.tolist(), parts)


def karate(seed: int = 0) -> Found:
    """Zachary's karate club (1977), from networkx: 34 members, friendships, and whom they followed when it
    split. Nodes have no features."""
    club = need("networkx", "graph").karate_club_graph()
    labels = [club.nodes[node]["club"] for node in club]
    return Found("karate", np.array(list(club.edges)).T, club.number_of_nodes(), labels=labels)


def blocks(seed: int = 0) -> Found:
    """A stochastic block graph: 6 classes of 150 nodes, about 8 neighbours a node, two thirds of them of its
    own class. A node has words, out of 60, mostly of the 10 its class prefers; neither edges nor words tell
    all."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(BLOCKS), SIZE)
    count = len(labels)
    same = labels[:, None] == labels
    chance = np.where(same, 2 / 3 * 8 / SIZE, 1 / 3 * 8 / (count - SIZE))
    edges = np.stack(np.nonzero(np.triu(rng.random((count, count)) < chance, 1)))
    liked = labels[:, None] == np.arange(WORDS) // (WORDS // BLOCKS)
    words = rng.random((count, WORDS)) < np.where(liked, 0.18, 0.08)
    order = rng.permutation(count)  # the number of a node says nothing
    place = np.argsort(order)
    return Found("blocks", place[edges], count, words[order].astype(np.float32), labels[order].tolist())


EMBEDDED: dict[str, Callable[[], Found]] = {
    "digit-neighbours": digit_neighbours,
    "blocks": blocks,
    "karate": karate,
}
