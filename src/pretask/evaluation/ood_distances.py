"""How far features of length 1 lie from what is known, as MOOD measures it (Li et al., CVPR 2023).

Each function takes known features u = z / (|z| + 1e-10) and their classes, and gives a score of further ones. The
larger a score, the more in-distribution: a distance counts negatively, a likeness positively. (The official code
scores likenesses as if they were distances, takes the greatest cosine over the judged samples for each known one,
and calls some functions with arguments that they do not take; none of that is followed.)
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Known = Float[Tensor, "items dim"]
Labels = Int[Tensor, "items"]
Scorer = Callable[[Float[Tensor, "samples dim"]], Float[Tensor, "samples"]]

SMALLEST = 1e-15  # singular values below this share of the largest count as 0 (numpy's pinv)
TINY = torch.finfo(torch.float64).tiny
ROWS = 1024  # judged at once, where each is compared with all that is known


def unit(z: Float[Tensor, "items dim"]) -> Float[Tensor, "items dim"]:
    return z / (z.norm(dim=1, keepdim=True) + 1e-10)


def squared_distance(
    mean: Float[Tensor, "dim"], covariance: Float[Tensor, "dim dim"]
) -> tuple[Scorer, Float[Tensor, "dim dim"]]:
    """(u - mu)^T P (u - mu), and P, the pseudo-inverse of the covariance."""
    precision = torch.linalg.pinv(covariance, rtol=SMALLEST)
    return lambda u: ((u - mean) @ precision * (u - mean)).sum(1), precision


def gaussian(u: Known) -> Scorer:
    """The squared Mahalanobis distance from one Gaussian: the features' mean, and their covariance over M."""
    centred = u - u.mean(0)
    return squared_distance(u.mean(0), centred.T @ centred / len(u))[0]


def one_gaussian(u: Known, labels: Labels) -> Scorer:
    """-(u - mu)^T P (u - mu), one Gaussian of all that is known, whatever its labels: MOOD's own score."""
    distance = gaussian(u)
    return lambda z: -distance(z)


def of_classes(u: Known, labels: Labels) -> Callable[[Tensor], Float[Tensor, "samples classes"]]:
    """The squared distance from each class's own Gaussian."""
    found = [gaussian(u[labels == k]) for k in labels.unique()]
    return lambda z: torch.stack([distance(z) for distance in found], dim=1)


def nearest_gaussian(u: Known, labels: Labels) -> Scorer:
    """-min_k (u - mu_k)^T P_k (u - mu_k), with each class's own covariance (`cc`)."""
    distances = of_classes(u, labels)
    return lambda z: -distances(z).amin(1)


def mean_gaussian(u: Known, labels: Labels) -> Scorer:
    """The same, the mean over the classes (`avgcc`)."""
    distances = of_classes(u, labels)
    return lambda z: -distances(z).mean(1)


def from_mean(order: float) -> Callable[[Known, Labels], Scorer]:
    """-|u - mu| in the norm of this order: 2 `euclidean`, 1 `minkowski`, infinity `chebyshev`."""

    def score(u: Known, labels: Labels) -> Scorer:
        mean = u.mean(0)
        return lambda z: -torch.linalg.vector_norm(z - mean, order, dim=1)

    return score


def cosine(u: Known, labels: Labels) -> Scorer:
    """The greatest cosine with a known sample."""
    bank = F.normalize(u, dim=1)
    return lambda z: torch.cat([(rows @ bank.T).amax(1) for rows in F.normalize(z, dim=1).split(ROWS)])


def projection(u: Known, labels: Labels) -> Scorer:
    """The greatest cosine times the squared length of ALL judged features together: within a set of samples it is
    `cosine`, and sets of unequal numbers cannot be compared by it."""
    likeness = cosine(u, labels)
    return lambda z: likeness(z) * z.square().sum()


def gauss(u: Known, labels: Labels) -> Scorer:
    """log k - (u - mu)^T P (u - mu) / 2 with Ledoit and Wolf's covariance and k = (2 pi)^(-D/2) |P|_F^(-1/2), as
    the code has it. The code scores by the density itself, which from some 500 dimensions on is 0 in float64. Of a
    single sample, whose P is 0, the logarithm of its smallest number is taken."""
    from sklearn.covariance import ledoit_wolf

    covariance = torch.from_numpy(ledoit_wolf(u.numpy())[0]).to(u)
    distance, precision = squared_distance(u.mean(0), covariance)
    log_k = -(u.shape[1] * log(2 * pi) + float(precision.norm().clamp(min=TINY).log())) / 2
    return lambda z: log_k - distance(z) / 2


def kmeans(u: Known, labels: Labels) -> Scorer:
    """- the distance to the nearest of as many centres as there are classes."""
    from sklearn.cluster import KMeans

    found = KMeans(len(labels.unique()), max_iter=100_000, n_init=1, random_state=0).fit(u.numpy())
    centres = torch.from_numpy(found.cluster_centers_).to(u)
    exact = "donot_use_mm_for_euclid_dist"  # products would cancel
    return lambda z: -torch.cdist(z, centres, compute_mode=exact).amin(1)


DISTANCES: dict[str, Callable[[Known, Labels], Scorer]] = {
    "one-gaussian": one_gaussian,
    "nearest-gaussian": nearest_gaussian,
    "mean-gaussian": mean_gaussian,
    "euclidean": from_mean(2),
    "minkowski": from_mean(1),
    "chebyshev": from_mean(torch.inf),
    "cosine": cosine,
    "gauss": gauss,
    "kmeans": kmeans,
    "projection": projection,
}

BY_CLASS = ("nearest-gaussian", "mean-gaussian", "kmeans")
"""Of a single class they are `one-gaussian`, twice, and `euclidean`."""
