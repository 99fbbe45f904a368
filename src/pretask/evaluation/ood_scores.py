"""How much a sample looks like the data one knows: scores from features and a linear head.

One orientation: the larger a score, the more in-distribution. Everything is computed in float64.
The nine of MOODv2 (Li et al., 2024) follow its benchmark, which follows ViM's (Wang et al., CVPR 2022). Those of
MOOD (Li et al., CVPR 2023) on features of length 1 are in `ood_distances`; its energy and its GradNorm are MOODv2's
sample by sample (the code adds up the gradient of a batch), and what it calls softmax is the greatest logit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.errors import UsageError
from pretask.evaluation.knn import neighbours
from pretask.evaluation.ood_distances import BY_CLASS, DISTANCES, unit
from pretask.objectives.long_tail import divergence_from_uniform

REACT_QUANTILE = 0.99
NEIGHBOUR = 50  # Sun et al. (ICML 2022) for CIFAR


class Head(NamedTuple):
    """A linear classifier on features: z W^T + b."""

    weight: Float[Tensor, "classes dim"]
    bias: Float[Tensor, "classes"]

    def __call__(self, z: Float[Tensor, "items dim"]) -> Float[Tensor, "items classes"]:
        return z @ self.weight.T + self.bias

    def double(self) -> Head:
        return Head(self.weight.detach().cpu().double(), self.bias.detach().cpu().double())


class Known(NamedTuple):
    """What is known of the data: features to learn a score from, their classes, and a head.

    Args:
        features: of training samples.
        labels: their classes, 0 .. K-1.
        head: the classifier; None leaves the scores that need none.
    """

    features: Float[Tensor, "items dim"]
    labels: Int[Tensor, "items"]
    head: Head | None = None

    def double(self) -> Known:
        return Known(self.features.double(), self.labels, self.head and self.head.double())

    def classifier(self) -> Head:
        if self.head is None:
            raise UsageError(f"this score reads logits: give a head, or ask for {', '.join(HEADLESS)}")
        return self.head

    def origin(self) -> Float[Tensor, "dim"]:
        """u = -W^+ b, whose logits are nearest to zero; without a head the mean of the features."""
        if self.head is None:
            return self.features.mean(0)
        return -torch.linalg.pinv(self.head.weight) @ self.head.bias


Scorer = Callable[[Float[Tensor, "items dim"]], Float[Tensor, "items"]]


def msp(known: Known) -> Scorer:
    """max_k softmax(l)_k (Hendrycks & Gimpel, ICLR 2017)."""
    head = known.classifier()
    return lambda z: head(z).softmax(1).amax(1)


def max_logit(known: Known) -> Scorer:
    """max_k l_k (Hendrycks et al., ICML 2022)."""
    head = known.classifier()
    return lambda z: head(z).amax(1)


def energy(known: Known) -> Scorer:
    """log sum_k exp(l_k), temperature 1 (Liu et al., NeurIPS 2020)."""
    head = known.classifier()
    return lambda z: head(z).logsumexp(1)


def react(known: Known, quantile: float = REACT_QUANTILE) -> Scorer:
    """The energy of features cut off at one number, the quantile of all entries of all training features
    (Sun et al., NeurIPS 2021)."""
    head = known.classifier()
    limit = float(np.quantile(known.features.numpy(), quantile))  # torch's takes no more than 2^24 numbers
    return lambda z: head(z.clamp(max=limit)).logsumexp(1)


def principal_size(dim: int, wide: int) -> int:
    """How many principal directions are dropped: ViM's D', with `wide` from 2048 features on."""
    return wide if dim >= 2048 else 512 if dim >= 768 else dim // 2


def residual_norm(known: Known, wide: int) -> Scorer:
    """|(z - u) R|, R the eigenvectors of sum (z - u)(z - u)^T / M without the largest D'. The features are
    shifted by the origin of logit space, not by their mean."""
    origin = known.origin()
    shifted = known.features - origin
    axes = torch.linalg.eigh(shifted.T @ shifted / len(shifted)).eigenvectors  # smallest first
    dim = len(origin)
    rest = axes[:, : dim - min(principal_size(dim, wide), dim)]
    return lambda z: ((z - origin) @ rest).norm(dim=1)


def residual(known: Known) -> Scorer:
    """-|(z - u) R|, with D' = 1000 from 2048 features on."""
    norm = residual_norm(known, 1000)
    return lambda z: -norm(z)


def vim(known: Known) -> Scorer:
    """log sum_k exp(l_k) - alpha |(z - u) R|, alpha = mean max_k l_k / mean |(z - u) R| over training
    features, D' = K from 2048 features on (Wang et al., CVPR 2022)."""
    head = known.classifier()
    norm = residual_norm(known, len(head.bias))
    alpha = head(known.features).amax(1).mean() / norm(known.features).mean()
    return lambda z: head(z).logsumexp(1) - alpha * norm(z)


def grad_norm(known: Known) -> Scorer:
    """Sum of |d loss / d W| of loss = -sum_k log softmax(l)_k, whose targets are ones, not 1/K
    (Huang et al., NeurIPS 2021). In closed form |z|_1 sum_k |K p_k - 1|."""
    head = known.classifier()
    classes = len(head.bias)
    return lambda z: z.abs().sum(1) * (classes * head(z).softmax(1) - 1).abs().sum(1)


def class_means(known: Known) -> Float[Tensor, "classes dim"]:
    """The mean of each class that has samples."""
    labels = known.labels.unique(return_inverse=True)[1]
    count = torch.bincount(labels)
    total = known.features.new_zeros(len(count), known.features.shape[1]).index_add_(
        0, labels, known.features
    )
    return total / count[:, None]


def mahalanobis(known: Known) -> Scorer:
    """-min_k (z - mu_k)^T P (z - mu_k), P the pseudo-inverse of the class-centred features' one covariance
    over M (Lee et al., NeurIPS 2018). A single class is a single Gaussian."""
    means = class_means(known)
    centred = known.features - means[known.labels.unique(return_inverse=True)[1]]
    return nearest(centred, means)


def nearest(centred: Float[Tensor, "items dim"], places: Float[Tensor, "places dim"]) -> Scorer:
    """-min over places of the squared distance to one, by the pseudo-inverse of the covariance."""
    variance, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
    kept = variance > len(variance) * torch.finfo(variance.dtype).eps * variance[-1]
    white = axes[:, kept] / variance[kept].sqrt()  # P = white white^T: distances of whitened features
    exact = "donot_use_mm_for_euclid_dist"  # products would cancel where P is large
    return lambda z: -torch.cdist(z @ white, places @ white, compute_mode=exact).amin(1).square()


def of_length_one(name: str) -> Callable[[Known], Scorer]:
    """One of MOOD's scores, of features that may have any length."""

    def score(known: Known) -> Scorer:
        of_unit = DISTANCES[name](unit(known.features), known.labels)
        return lambda z: of_unit(unit(z))

    return score


def entropy(known: Known) -> Scorer:
    """sum_k p_k log p_k, minus the entropy of the softmax (MOOD)."""
    head = known.classifier()
    return lambda z: (head(z).softmax(1) * head(z).log_softmax(1)).sum(1)


def from_uniform(known: Known) -> Scorer:
    """KL(U || softmax(l)) in bits, U uniform over the classes (LoRot, Moon et al., ECCV 2022)."""
    head = known.classifier()
    return lambda z: divergence_from_uniform(head(z))


def kl_matching(known: Known) -> Scorer:
    """-min_k KL(p || q_k), q_k the mean softmax of the training features PREDICTED as k, zeros where there
    are none (Hendrycks et al., ICML 2022). Sum p log(p / q) over p != 0; infinite where only q is 0."""
    head = known.classifier()
    p = head(known.features).softmax(1)
    answer, classes = p.argmax(1), len(head.bias)
    count = torch.bincount(answer, minlength=classes).clamp(min=1)
    templates = p.new_zeros(classes, classes).index_add_(0, answer, p) / count[:, None]
    missing = (templates == 0).to(p.dtype)
    log_q = templates.log().masked_fill(templates == 0, 0)

    def score(z: Tensor) -> Tensor:
        p = head(z).softmax(1)
        divergence = torch.xlogy(p, p).sum(1, keepdim=True) - p @ log_q.T
        return -divergence.masked_fill((p != 0).to(p.dtype) @ missing.T > 0, torch.inf).amin(1)

    return score


def knn_distance(known: Known, k: int = NEIGHBOUR) -> Scorer:
    """-|z/|z| - its k-th nearest training feature of length 1| (Sun et al., ICML 2022)."""
    k = min(k, len(known.features))
    bank = F.normalize(known.features, dim=1)

    def score(z: Tensor) -> Tensor:
        farthest = neighbours(z, bank, k)[1][:, -1]
        return -(F.normalize(z, dim=1) - bank[farthest]).norm(dim=1)

    return score


SCORES: dict[str, Callable[[Known], Scorer]] = {
    "msp": msp,
    "maxlogit": max_logit,
    "energy": energy,
    "react": react,
    "kl-matching": kl_matching,
    "residual": residual,
    "vim": vim,
    "mahalanobis": mahalanobis,
    "gradnorm": grad_norm,
    "knn": knn_distance,
    "entropy": entropy,
    "kl-uniform": from_uniform,
    **{name: of_length_one(name) for name in DISTANCES},
}

HEADLESS = ("residual", "mahalanobis", "knn", *DISTANCES)
"""Scores that look at features alone."""

SINGLE = tuple(name for name in HEADLESS if name not in BY_CLASS)
"""Those that say something of a single class."""

MOOD = ("entropy", *DISTANCES)
"""MOOD's alone, which are judged as it judges them."""

PAPER = tuple(name for name in SCORES if name not in ("knn", "kl-uniform", *MOOD))
"""MOODv2's nine."""

WITHIN_A_SET = ("projection",)
"""Scores by which sets cannot be compared: they depend on how many samples are judged at once."""


def score_all(
    known: Known, parts: dict[str, Float[Tensor, "items dim"]], names: Sequence[str] | None = None
) -> dict[str, dict[str, Float[Tensor, "items"]]]:
    """Every score by which parts can be compared, or these, for every named part: {score: {part: values}}."""
    known = known.double()
    names = (HEADLESS if known.head is None else tuple(SCORES)) if names is None else names
    scorers = {name: SCORES[name](known) for name in names if name not in WITHIN_A_SET}
    return {name: {part: scorer(z.double()) for part, z in parts.items()} for name, scorer in scorers.items()}
