"""Forecasts of tracks: how far the best of several futures is from what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pretask.encoders import Encoder
from pretask.encoders.tracks import TrackEncoder
from pretask.errors import UsageError
from pretask.evaluation.features import frozen, to_device
from pretask.evaluation.score import Score, bootstrap_interval

if TYPE_CHECKING:
    from pretask.data import Dataset


def forecast(
    encoder: Encoder,
    train_set: Dataset,
    test_set: Dataset,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """Average and final displacement error in units of the data, each of its own best candidate.

    The baseline `raw` keeps the last step's velocity.

    Raises:
        UsageError: the encoder tells no futures.
    """
    if not isinstance(encoder, TrackEncoder):
        raise UsageError(f"{type(encoder).__name__} tells no future: forecast needs a network of tracks")
    average: list[Tensor] = []
    final: list[Tensor] = []
    with frozen(encoder, device) as place:
        for rows in torch.arange(len(test_set)).split(512):
            points = encoder.relative(to_device(test_set.batch(rows), place))
            futures = encoder.forecast(points[:, : encoder.past])
            error = (futures - points[:, None, encoder.past :]).norm(dim=3)  # (B, candidates, future)
            average.append(error.mean(2).amin(1).cpu())
            final.append(error[:, :, -1].amin(1).cpu())
    detail: dict[str, object] = {"candidates": futures.shape[1], "lower is better": True}
    return [score(name, torch.cat(parts), seed, detail) for name, parts in (("ADE", average), ("FDE", final))]


def score(metric: str, errors: Tensor, seed: int, detail: dict[str, object]) -> Score:
    low, high = bootstrap_interval(errors, seed=seed)
    return Score("forecast", metric, float(errors.mean()), low, high, len(errors), dict(detail), errors)
