"""How far a handful of labels goes."""

from __future__ import annotations

import torch

from pretask.evaluation.linear import Scale, fit_logistic
from pretask.evaluation.score import Known, Score, seed_interval
from pretask.evaluation.splits import few

SHOTS = (1, 5, 10)


def fewshot(
    train: Known, test: Known, *, shots: tuple[int, ...] = SHOTS, repeats: int = 10, seed: int = 0
) -> list[Score]:
    """Logistic regression on a few labelled items of each class, drawn anew `repeats` times.

    Features are standardised by all training items (that needs no labels); the penalty is
    scikit-learn's C = 1, because a handful of items leaves nothing to choose one with. All test items
    are judged each time; the interval is Student's over the repetitions.

    Args:
        train: where the few are drawn from.
        test: what is judged.
        shots: labelled items of each class (all of a class that has fewer).
        repeats: draws of the few.
        seed: of the draws.
    """
    (x, y), (x_test, y_test) = train, test
    scale, classes, largest = Scale.of(x), int(y.max()) + 1, int(torch.bincount(y).max())
    scores = []
    for count in (count for count in shots if count <= largest):
        right = []
        for repeat in range(repeats):
            rows = few(y, count, 1000 * seed + repeat)
            model = fit_logistic(x[rows], y[rows], (1 / len(rows),), classes=classes, scale=scale)
            right.append((model(x_test)[0].argmax(1) == y_test).double())
        values = [float(items.mean()) for items in right]
        score = Score(
            "fewshot", f"accuracy@{count}", sum(values) / repeats, *seed_interval(values), repeats,
            {"shots": count, "values": values}, torch.stack(right).mean(0),
        )  # fmt: skip
        scores.append(score)
    return scores
