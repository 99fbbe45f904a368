"""Pictures of places at several times: classes by picture and by place, and how little a place's features change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pretask.errors import UsageError
from pretask.evaluation.features import extract, frozen, to_device
from pretask.evaluation.linear import fit_chosen
from pretask.evaluation.score import Score, accuracy_score, bootstrap_interval, known_labels
from pretask.objectives.contrastive import unit

if TYPE_CHECKING:
    from pretask.data import Dataset

ROWS = 256


def group_average(
    logits: Float[Tensor, "items classes"], group: Int[Tensor, "items"]
) -> Float[Tensor, "items classes"]:
    """The mean of the rows of each group, in the place of each of its rows."""
    _, code = group.unique(return_inverse=True)
    total = torch.zeros_like(logits).index_add_(0, code, logits)[code]
    return total / torch.bincount(code)[code, None]


def invariance(
    own: Float[Tensor, "items dim"], other: Float[Tensor, "items dim"], place: Int[Tensor, "items"]
) -> Float[Tensor, "items"]:
    """The cosine of each picture and another of its place, less its mean cosine with pictures of other places."""
    x, y = unit(own.double()), unit(other.double())
    strange = place[:, None] != place
    across = (x @ x.T * strange).sum(1) / strange.sum(1).clamp(min=1)
    return (x * y).sum(1) - across


def revisited(
    encoder: Any, dataset: Dataset, device: torch.device | str | None
) -> tuple[Float[Tensor, "items dim"], Int[Tensor, "items"], Bool[Tensor, "items"]]:
    """Features of the first other picture of each picture's place, the numbers of places, and where there is one."""
    found, place, there = [], [], []
    with frozen(encoder, device) as home:
        for rows in torch.arange(len(dataset)).split(ROWS):
            batch = dataset.batch(rows)
            again = {"image": batch["revisit"][:, 0], "size": batch["revisit_size"][:, 0]}
            found.append(encoder.encode(to_device(again, home)).pooled.float().cpu())
            place.append(batch["place"])
            there.append(batch["revisits"] > 0)
    return torch.cat(found), torch.cat(place), torch.cat(there)


def places(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """A linear classifier on frozen features is asked of each picture, and of each place with the mean of the logits
    of all its pictures; and `invariance`.

    Raises:
        UsageError: nothing is known of places, or of classes.
    """
    if test_set.modality != "place":
        raise UsageError(f"'places' judges encoders by pictures of places, not by {test_set.modality} data")
    x, y = known_labels(extract(encoder, train_set, device=device))
    features, labels = extract(encoder, test_set, device=device)
    if labels is None:
        raise UsageError("these data have no labels")
    other, place, there = revisited(encoder, test_set, device)
    logits = fit_chosen((x, y), seed=seed).model(features)[0]
    known = labels >= 0
    answer, truth = group_average(logits, place).argmax(1)[known], labels[known]
    _, code = place[known].unique(return_inverse=True)
    first = torch.stack([(code == number).nonzero()[0, 0] for number in range(int(code.max()) + 1)])
    found = [
        accuracy_score("places", "accuracy", logits.argmax(1)[known], truth, seed),
        accuracy_score("places", "by place", answer[first], truth[first], seed),
    ]
    if there.sum() > 1 and len(place[there].unique()) > 1:
        stable = invariance(features[there], other[there], place[there])
        low, high = bootstrap_interval(stable, seed=seed)
        score = Score("places", "invariance", float(stable.mean()), low, high, len(stable), items=stable)
        found.append(score)
    return found
