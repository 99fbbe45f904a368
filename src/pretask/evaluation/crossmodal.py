"""Samples found by what is said of them, and the other way round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.encoders import Encoder
from pretask.encoders.towers import Towers
from pretask.errors import UsageError
from pretask.evaluation.features import frozen, to_device
from pretask.evaluation.score import Score, bootstrap_interval
from pretask.objectives.contrastive import unit

if TYPE_CHECKING:
    from pretask.data import Dataset

KS = (1, 5, 10)
BATCH = 64


def rank_of_own(
    query: Float[Tensor, "items dim"], gallery: Float[Tensor, "items dim"]
) -> Int[Tensor, "items"]:
    """How many others are at least as near to each query by cosine as its own counterpart."""
    similar = unit(query) @ unit(gallery).T
    return (similar >= similar.diagonal()[:, None]).sum(1) - 1


def crossmodal(
    encoder: Encoder,
    train_set: Dataset,
    test_set: Dataset,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """Each kind of data against the text, in the space they share: is the counterpart among the 1, 5 or 10 nearest
    of all the test set's, both ways; and the median rank, from 1.

    Raises:
        UsageError: the encoder has no towers, or none of text.
    """
    if not isinstance(encoder, Towers) or "text" not in encoder.kinds or len(encoder.kinds) < 2:
        raise UsageError(
            f"{type(encoder).__name__} has no text beside something else: crossmodal needs an encoder such as "
            "'video=space_time_vit;text=distilbert'"
        )
    if len(test_set) < 2:
        return []  # there is nothing to choose from
    found: dict[str, list[Tensor]] = {kind: [] for kind in encoder.kinds}
    with frozen(encoder, device) as place:
        for rows in torch.arange(len(test_set)).split(min(BATCH, encoder.at_once or BATCH)):
            batch = to_device(test_set.batch(rows), place)
            for kind, parts in found.items():
                parts.append(encoder.embed(batch, kind).float().cpu())
    vectors = {kind: torch.cat(parts) for kind, parts in found.items()}
    text, scores = vectors.pop("text"), list[Score]()
    for kind, own in vectors.items():
        for way, rank in (
            (f"text to {kind}", rank_of_own(text, own)), (f"{kind} to text", rank_of_own(own, text)),
        ):  # fmt: skip
            detail: dict[str, object] = {"median rank": float(rank.double().median() + 1)}
            for k in KS:
                items = (rank < k).double()
                low, high = bootstrap_interval(items, seed=seed)
                known = {**detail, "chance": min(1.0, k / len(rank))}
                scores.append(Score("crossmodal", f"{way} recall@{k}", float(items.mean()), low, high,
                                    len(items), known, items))  # fmt: skip
    return scores
