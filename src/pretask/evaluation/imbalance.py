"""What a class' frequency has to do with how well it is known, and with how its features lie (Wen et al., NeurIPS
2024; neural collapse after Papyan, Han, Donoho, PNAS 2020)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.evaluation.linear import fit_chosen
from pretask.evaluation.score import Known, Score


def confusion(
    answer: Int[Tensor, "items"], label: Int[Tensor, "items"], classes: int
) -> Int[Tensor, "classes classes"]:
    """How many items of each class (a row) were taken for each class (a column)."""
    return torch.bincount(label * classes + answer, minlength=classes**2).view(classes, classes)


def by_class(
    matrix: Int[Tensor, "classes classes"],
) -> tuple[Float[Tensor, "classes"], Int[Tensor, "classes"]]:
    """Accuracy of each class, NaN where it has no items, and how often it was the answer."""
    matrix = matrix.double()
    return matrix.diagonal() / matrix.sum(1), matrix.sum(0).long()


def spearman(a: Tensor, b: Tensor) -> float:
    """Correlation of ranks, ties by their mean rank; NaN where one has no spread or anything is NaN."""
    from scipy.stats import rankdata

    if not bool((a.isfinite() & b.isfinite()).all()):
        return float("nan")
    x, y = (rankdata(part.double().numpy()) for part in (a.cpu(), b.cpu()))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def coherence(
    vectors: Float[Tensor, "dim classes"],
) -> tuple[Float[Tensor, "classes"], Float[Tensor, "classes"]]:
    """NC2: how far the angles of each column of length 1 are from a simplex', on average and for the worst other.

    G = V'V + 1 / (C - 1) without its diagonal; the mean of |G| over the C - 1 others, and the largest."""
    classes = vectors.shape[1]
    gram = (vectors.T @ vectors + 1 / (classes - 1)).abs().fill_diagonal_(0)
    return gram.sum(1) / (classes - 1), gram.amax(1)


def collapse(
    features: Float[Tensor, "items dim"],
    label: Int[Tensor, "items"],
    classes: int,
    weight: Float[Tensor, "classes dim"] | None = None,
) -> dict[str, Float[Tensor, "classes"]]:
    """NC1, NC2 and the nearest NC2 of each class: how features vary within it in relation to between classes, and how
    class means lie; with a classifier's rows also how those lie (they are normalised and not centred). A class
    without items makes everything NaN.

    Args:
        features: of items the classifier was not trained on.
        label: their classes.
        classes: how many there are.
        weight: the rows of a classifier.
    """  # fmt: skip
    x = features.double()
    total = torch.zeros(classes, x.shape[1], dtype=x.dtype).index_add_(0, label, x)
    means = total / torch.bincount(label, minlength=classes)[:, None]
    centred = means - means.mean(0)
    nan = x.new_full((classes,), torch.nan)
    if not bool(means.isfinite().all()):
        found = {"nc1": nan, "nc2": nan, "nc2 nearest": nan}
    else:
        inverse = torch.linalg.pinv(centred.T @ centred / classes)
        apart = x - means[label]
        within = ((apart @ inverse) * apart).sum(1) / len(x)  # of all items, not of the class
        nc2, nearest = coherence(F.normalize(centred, dim=1).T)
        found = {"nc1": torch.zeros(classes, dtype=x.dtype).index_add_(0, label, within), "nc2": nc2}
        found["nc2 nearest"] = nearest
    if weight is not None:
        found["head nc2"], found["head nc2 nearest"] = coherence(F.normalize(weight.double(), dim=1).T)
    return found


def correlations(
    frequency: Int[Tensor, "classes"], matrix: Int[Tensor, "classes classes"], **of_classes: Tensor
) -> dict[str, float]:
    """Spearman's correlation of frequency with accuracy and with the number of predictions, which means what it says
    where all classes have as many test items; and of any other number of classes with frequency and with accuracy."""
    accuracy, predicted = by_class(matrix)
    found = {
        "frequency and accuracy": spearman(frequency, accuracy),
        "frequency and predictions": spearman(frequency, predicted),
    }
    for name, value in of_classes.items():
        found[f"frequency and {name}"] = spearman(frequency, value)
        found[f"accuracy and {name}"] = spearman(accuracy, value)
    return found


def imbalance(train: Known, test: Known, *, seed: int = 0) -> list[Score]:
    """By a linear classifier of frozen features: does it know classes the better the commoner they are, how often
    does it answer them, and do features collapse by frequency? What cannot be told is left out."""
    (x, y), (features, label) = train, test
    classes = int(max(y.max(), label.max())) + 1
    answer = fit_chosen((x, y), seed=seed).model(features)[0].argmax(1)
    matrix, parts = confusion(answer, label, classes), collapse(features, label, classes)
    found = correlations(torch.bincount(y, minlength=classes), matrix, **parts)
    balanced = by_class(matrix)[0].nanmean()
    scores = [Score("imbalance", "balanced accuracy", float(balanced), n=classes)]
    return scores + [Score("imbalance", k, v, n=classes) for k, v in found.items() if np.isfinite(v)]
