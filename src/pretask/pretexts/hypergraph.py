"""Hypergraphs over samples: each sample is the centre of one hyperedge, which holds those it is made of.

An incidence matrix has a row a vertex and a column a hyperedge; both are samples here. Hyperedges weigh 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.errors import UsageError
from pretask.pretexts.homotopy import combination

CHUNK = 512  # samples at once


def attention(
    samples: Float[Tensor, "batch dim"],
    parts: Float[Tensor, "parts dim"],
    penalty: float = 0.1,
    keep: int = 10,
    own: Int[Tensor, "batch"] | None = None,
) -> Float[Tensor, "batch parts"]:
    """How much each sample looks at others, as in sparse attention hypergraph learning (reconstructed: no
    program of it is known).

    The `keep` largest absolute coefficients of the sample as a sparse combination of the others, the
    largest made 1. They are computed from the data; nothing of it is learned.

    Args:
        samples: of length 1, so that none is attended to for its size.
        parts: what they may look at.
        penalty: beta, of the absolute coefficients.
        keep: k.
        own: which part is the sample itself and must stay out.
    """
    found = []
    for rows in torch.arange(len(samples), device=samples.device).split(CHUNK):
        mine = own[rows] if own is not None else None
        weight = combination(samples[rows], parts, penalty, mine).abs()
        top = weight.topk(min(keep, len(parts)))
        kept = torch.zeros_like(weight).scatter(1, top.indices, top.values)
        largest = kept.amax(1, keepdim=True)
        found.append(kept / torch.where(largest > 0, largest, 1))
    return torch.cat(found)


def nearest(
    samples: Float[Tensor, "batch dim"],
    parts: Float[Tensor, "parts dim"],
    keep: int = 10,
    own: Int[Tensor, "batch"] | None = None,
) -> Float[Tensor, "batch parts"]:
    """1 for the `keep` parts that lie nearest to each sample, else 0: the plain alternative."""
    distance = torch.cdist(samples, parts)
    if own is not None:
        distance.scatter_(1, own[:, None], torch.inf)
    count = min(keep, len(parts) - (own is not None))
    return torch.zeros_like(distance).scatter(1, distance.topk(count, largest=False).indices, 1.0)


def incidence(weights: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Hyperedge i holds what sample i looks at, with these weights, and sample i itself with weight 1."""
    return weights.T.contiguous().fill_diagonal_(1.0)


def pair_weights(hypergraph: Float[Tensor, "n edges"]) -> Float[Tensor, "n n"]:
    """A = H D_e^-1 H^T with D_e the hyperedges' sizes, diagonal included; its rows add up to the vertices'
    degrees."""
    return (hypergraph / hypergraph.sum(0)) @ hypergraph.T


def degrees(hypergraph: Float[Tensor, "n edges"]) -> Float[Tensor, "n"]:
    """d_v, the weights of the hyperedges a vertex is in."""
    return hypergraph.sum(1)


def similarity(hypergraph: Float[Tensor, "n edges"]) -> Float[Tensor, "n n"]:
    """Theta = D_v^-1/2 H D_e^-1 H^T D_v^-1/2; I - Theta is the hypergraph's Laplacian (Zhou et al., 2006)."""
    scale = degrees(hypergraph).rsqrt()
    return scale[:, None] * pair_weights(hypergraph) * scale


def leading(hypergraph: Float[Tensor, "n edges"], count: int) -> Float[Tensor, "n count"]:
    """Rows of the leading eigenvectors of the similarity, made length 1: where a spectral clustering looks
    (Ng, Jordan, Weiss, 2002)."""
    return F.normalize(torch.linalg.eigh(similarity(hypergraph)).eigenvectors[:, -count:], dim=1)


def clusters(samples: Float[Tensor, "n dim"], count: int) -> Int[Tensor, "n"]:
    """k-means, best of ten, always the same.

    Raises:
        UsageError: there are fewer samples than clusters.
    """
    from sklearn.cluster import KMeans

    if len(samples) < count:
        raise UsageError(f"{len(samples)} samples cannot be told apart as {count} clusters")
    found = KMeans(count, n_init=10, random_state=0).fit(samples.cpu().numpy()).labels_
    return torch.from_numpy(found).long().to(samples.device)
