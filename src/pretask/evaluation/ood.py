"""Is what an encoder does not know told apart from what it knows? Every score on the same features.

The features of training and test samples are in-distribution; other data sets, or other classes, are not.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.errors import UsageError
from pretask.evaluation.detection import (
    aupr,
    auroc_interval,
    average_precision,
    false_positives,
    mood_false_positives,
    mood_threshold,
    placements,
    threshold_at,
)
from pretask.evaluation.linear import Classifier, fit_chosen
from pretask.evaluation.ood_scores import MOOD, PAPER, SINGLE, Head, Known, score_all
from pretask.evaluation.score import Labelled, Score

Values = dict[str, Float[Tensor, "items"]]
"""A score's value for each sample, by data set."""


def head_of(model: Classifier) -> Head:
    """The classifier as one linear layer on raw features, its standardisation folded in."""
    weight = (model.weight[0] / model.scale.std[:, None]).T
    return Head(weight, model.bias[0] - weight @ model.scale.mean)


def told_apart(
    protocol: str, name: str, inside: Float[Tensor, "items"], outside: Values, **detail: object
) -> list[Score]:
    """AUROC and FPR95 of one score, as means over the sets it should reject; FPR95 and the areas under
    precision and recall as MOOD's code has them for its own scores, and otherwise as MOODv2's.

    `threshold` in the detail is the score's 5th percentile over what is known: at or above it a sample
    counts as known. `items` are the placements of the known samples: their mean is the AUROC.
    """
    pairs = [placements(inside, values) for values in outside.values()]
    area, wrong, limit = (
        (average_precision, mood_false_positives, mood_threshold)
        if name in MOOD
        else (aupr, false_positives, threshold_at)
    )
    by_set = {
        other: {
            "auroc": float(pair[0].mean()),
            "fpr95": wrong(inside, values),
            "aupr_in": area(inside, values),
            "aupr_out": area(-values, -inside),
        }
        for (other, values), pair in zip(outside.items(), pairs, strict=True)
    }
    items = torch.stack([pair[0] for pair in pairs]).mean(0)
    count = len(inside) + sum(map(len, outside.values()))
    finite = inside.nan_to_num(neginf=torch.finfo(inside.dtype).min)
    detail |= {"by set": by_set, "threshold": float(torch.quantile(finite, 0.05))}
    rate = sum(found["fpr95"] for found in by_set.values()) / len(by_set)
    return [
        Score(
            protocol, f"auroc {name}", float(items.mean()), *auroc_interval(pairs), count, dict(detail), items
        ),
        Score(protocol, f"fpr95 {name}", rate, n=count, detail={"at": limit(inside)}),
    ]


def summary(protocol: str, scores: list[Score]) -> list[Score]:
    """Mean and range (largest less smallest) of the AUROC over the paper's scores among these."""
    wanted = {f"auroc {name}" for name in PAPER}
    found = [score for score in scores if score.metric in wanted]
    values = [score.value for score in found]
    items = torch.stack([score.items for score in found if score.items is not None]).mean(0)
    return [
        Score(protocol, "auroc mean", float(items.mean()), n=len(found), items=items),
        Score(protocol, "auroc range", max(values) - min(values), n=len(found)),
    ]


def ood(
    train: Labelled,
    test: Labelled,
    outside: dict[str, Float[Tensor, "items dim"]],
    *,
    head: Head | None = None,
    seed: int = 0,
) -> list[Score]:
    """Scores of `ood_scores`, each as AUROC and FPR95; then MOODv2's summary, their mean and range.

    Args:
        train: features and labels of what is known.
        test: more of what is known.
        outside: features of what should be rejected, by data set.
        head: the classifier behind all scores; default logistic regression on the frozen training
            features. The detail says which it was.
        seed: of the choice of its penalty.

    Raises:
        UsageError: there is nothing to reject.
    """
    if not outside:
        raise UsageError("there is nothing to reject: name other data sets with --ood-data")
    x, y = train
    assert y is not None
    source = "the one given"
    if head is None:
        chosen = fit_chosen((x, y), seed=seed)
        head, source = head_of(chosen.model), f"logistic regression on frozen features, L2 {chosen.penalty:g}"
    values = score_all(Known(x, y, head), {"known": test[0], **outside})
    scores: list[Score] = []
    for name, by_set in values.items():
        inside = by_set.pop("known")
        scores += told_apart("ood", name, inside, by_set, head=source)
    return scores + summary("ood", scores)


def one_class(train: Labelled, test: Labelled, *, seed: int = 0) -> list[Score]:
    """Each class in turn is all that is known, and each other class is to be rejected; means over both.

    A single class has no classifier: this judges by the scores that look at features alone, with the
    features' mean as origin (Mahalanobis is a single Gaussian then), less those that look at classes.

    Args:
        train: features and labels; of each class its own samples are learned from.
        test: what is judged.
        seed: unused, nothing is drawn.

    Raises:
        UsageError: fewer than two classes have test samples.
    """
    (x, y), (x_test, y_test) = train, test
    assert y is not None and y_test is not None
    classes = sorted(set(y.tolist()) & set(y_test.tolist()))
    if len(classes) < 2:
        raise UsageError("one class against the others needs test samples of at least two classes")
    found: dict[str, list[list[Score]]] = {}
    for known in classes:
        parts = {str(other): x_test[y_test == other] for other in classes}
        rows = y == known
        for name, values in score_all(Known(x[rows], torch.zeros_like(y[rows])), parts, SINGLE).items():
            inside = values.pop(str(known))
            found.setdefault(name, []).append(told_apart("one-class", name, inside, values))
    scores = []
    for name, by_class in found.items():
        for place, metric in enumerate(("auroc", "fpr95")):
            each = [pair[place].value for pair in by_class]
            detail = {"by class": dict(zip(map(str, classes), each, strict=True))}
            scores.append(
                Score("one-class", f"{metric} {name}", sum(each) / len(each), None, None, len(each), detail)
            )
    return scores
