"""Scores that need no labels: how many directions the features use, how they are spread.

They rank encoders of one width on one data set; across widths or numbers of samples they do not compare.
"""

from __future__ import annotations

from math import exp, isnan
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.errors import UsageError
from pretask.evaluation.features import frozen, to_device
from pretask.evaluation.score import Labelled, Score
from pretask.objectives.spectrum import collapse_std, directions, rankme, singular_values, stable_rank
from pretask.pretexts.views import apply_view, draw_view, simclr_views

if TYPE_CHECKING:
    from pretask.data import Dataset

LIMIT = 25_600  # samples: RankMe's number
PAIRS = 4096  # samples whose pairs are all looked at
SHARES, SHOWN = (0.9, 0.99), 64  # of the variance; singular values that are kept


def subset(x: Float[Tensor, "items dim"], limit: int, seed: int) -> Float[Tensor, "kept dim"]:
    """At most `limit` random rows."""
    if len(x) <= limit:
        return x
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:limit]]


def alpha_req(
    x: Float[Tensor, "items dim"], first: int = 11, last: int = 100
) -> tuple[float, tuple[int, int]]:
    """Decay exponent of the eigenspectrum: lambda_i ~ i^-alpha (Agrawal et al., NeurIPS 2022).

    A least-squares line through (log i, log lambda_i) with weights 1/i, over the eigenvalues of the
    centred covariance number `first` .. `last`-1 counted from 0 (Stringer et al., 2019). Fewer
    dimensions shorten the window; it starts at 0 when fewer than 10 eigenvalues would remain.

    Returns:
        alpha and the window that was used.
    """
    eigenvalues = singular_values(x - x.mean(0)) ** 2 / max(len(x) - 1, 1)
    usable = int((eigenvalues > 1e-12 * eigenvalues[0]).sum()) if eigenvalues[0] > 0 else 0
    last = min(last, usable)
    first = first if last - first >= 10 else 0
    if last - first < 2:
        return float("nan"), (first, last)
    i = np.arange(first, last) + 1.0
    log_i, log_value = np.log(i), eigenvalues[first:last].log().numpy()
    slope = np.polyfit(log_i, log_value, 1, w=i**-0.5)[0]  # polyfit squares its weights
    return -float(slope), (first, last)


def uniformity(x: Float[Tensor, "items dim"]) -> float:
    """log mean exp(-2 |z_i - z_j|^2) over pairs of L2-normalised features (Wang & Isola, ICML 2020)."""
    return float(torch.pdist(F.normalize(x.double(), dim=1)).square().mul(-2).exp().mean().log())


def alignment(first: Float[Tensor, "items dim"], second: Float[Tensor, "items dim"]) -> float:
    """mean |z1 - z2|^2 over pairs of views, L2-normalised (Wang & Isola, ICML 2020)."""
    difference = F.normalize(first.double(), dim=1) - F.normalize(second.double(), dim=1)
    return float(difference.square().sum(1).mean())


def lidar(views: Float[Tensor, "images views dim"], delta: float = 1e-4, eps: float = 1e-8) -> float:
    """Effective rank of the linear discriminant of images against their views (Thilak et al., ICLR 2024).

    Sb is the covariance of the images' means (over images-1), Sw the scatter of views within images over
    images*(views-1), plus delta I; exp(entropy) of the eigenvalues of Sw^-1/2 Sb Sw^-1/2 with
    p = (lambda + eps) / sum.
    """
    views = views.double()
    images, count, dim = views.shape
    means = views.mean(1)
    within = (views - means[:, None]).flatten(0, 1)
    centred = means - means.mean(0)
    between = centred.T @ centred / (images - 1)
    spread = within.T @ within / (images * (count - 1)) + delta * torch.eye(dim, dtype=views.dtype)
    values, axes = torch.linalg.eigh(spread)
    whitening = axes * values.rsqrt() @ axes.T
    eigenvalues = torch.linalg.eigvalsh(whitening @ between @ whitening).clamp(min=0) + eps
    p = eigenvalues / eigenvalues.sum()
    return exp(-float((p * p.log()).sum()))


def view_features(
    encoder: Any,
    dataset: Dataset,
    images: int,
    views: int,
    seed: int,
    device: torch.device | str | None,
) -> Float[Tensor, "images views dim"]:
    """Features of several random views (SimCLR's) of the same random pictures.

    Raises:
        UsageError: the data are not pictures.
    """
    if dataset.modality != "image":
        raise UsageError(f"views are drawn of pictures, not of {dataset.modality} data")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(dataset), generator=generator)[:images]
    spec, found = simclr_views(encoder.image_size), []
    with frozen(encoder, device) as place:
        for rows in chosen.split(256):
            batch = to_device(dataset.batch(rows), place)
            drawn = [draw_view(spec, len(rows), generator, batch["size"].cpu()) for _ in range(views)]
            seen = [encoder(apply_view(spec, batch["image"], view)).pooled.float().cpu() for view in drawn]
            found.append(torch.stack(seen, dim=1))
    return torch.cat(found)


def lidar_score(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    images: int = 1000,
    views: int = 10,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """LiDAR from `views` random views of `images` training pictures."""
    x = view_features(encoder, train_set, images, views, seed, device)
    if len(x) < 2:
        return []
    detail = {"views": views, "most": min(x.shape[0] - 1, x.shape[2])}
    return [Score("lidar", "rank", lidar(x), n=len(x), detail=detail)]


def alignment_score(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    images: int = 1000,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """How close two random views of a training picture lie, and two different pictures for comparison."""
    x = view_features(encoder, train_set, images, 2, seed, device)
    detail = {"different": alignment(x[:, 0], x[:, 1].roll(1, 0))}
    return [Score("alignment", "alignment", alignment(x[:, 0], x[:, 1]), n=len(x), detail=detail)]


def rankme_score(train: Labelled, test: Labelled, *, limit: int = LIMIT, seed: int = 0) -> list[Score]:
    """RankMe of at most `limit` training samples."""
    x = subset(train[0], limit, seed)
    return [Score("rankme", "rank", rankme(x), n=len(x), detail={"most": min(x.shape)})]


def alpha_req_score(train: Labelled, test: Labelled, *, limit: int = LIMIT, seed: int = 0) -> list[Score]:
    """alpha-ReQ of at most `limit` training samples; nothing when the features have no spectrum."""
    x = subset(train[0], limit, seed)
    alpha, window = alpha_req(x)
    if isnan(alpha):
        return []
    return [Score("alpha_req", "alpha", alpha, n=len(x), detail={"window": list(window), "good": 1.0})]


def uniformity_score(train: Labelled, test: Labelled, *, limit: int = PAIRS, seed: int = 0) -> list[Score]:
    """Uniformity over all pairs of at most `limit` training samples."""
    x = subset(train[0], limit, seed)
    return [Score("uniformity", "uniformity", uniformity(x), n=len(x))] if len(x) > 1 else []


def collapse_score(train: Labelled, test: Labelled, *, limit: int = LIMIT, seed: int = 0) -> list[Score]:
    """Spread of normalised training features. `detail` says what a healthy encoder has, how the single dimensions
    fare, and which share of them is dead (less than a hundredth of the healthy spread)."""
    x = subset(train[0], limit, seed)
    if len(x) < 2:
        return []
    healthy, each = x.shape[1] ** -0.5, F.normalize(x.double(), dim=1).std(0)
    detail = {
        "healthy": healthy,
        "dimensions": {"least": float(each.min()), "median": float(each.median()), "most": float(each.max())},
        "dead": float((each < healthy / 100).double().mean()),
    }
    return [Score("collapse", "std", collapse_std(x), n=len(x), detail=detail)]


def spectrum_score(train: Labelled, test: Labelled, *, limit: int = LIMIT, seed: int = 0) -> list[Score]:
    """Stable rank, and directions that hold 90 and 99 % of the variance, of at most `limit` training samples;
    `detail` has the singular values of the centred features in relation to the largest: a cliff in them is a
    dimensional collapse."""
    x = subset(train[0], limit, seed)
    if len(x) < 2:
        return []
    s = singular_values(x - x.mean(0))
    shown = torch.linspace(0, len(s) - 1, min(SHOWN, len(s))).long()
    detail = {
        "most": min(x.shape),
        "ranks": (shown + 1).tolist(),
        "singular values": (s[shown] / s[0].clamp(min=torch.finfo(s.dtype).tiny)).tolist(),
    }
    found = {"stable rank": stable_rank(x)} | {
        f"directions@{100 * share:.0f}": float(directions(x, share)) for share in SHARES
    }
    return [Score("spectrum", name, value, n=len(x), detail=detail) for name, value in found.items()]
