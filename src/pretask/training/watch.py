"""The collapse watch: looks at features and losses now and then, says in words what goes wrong, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import exp, log
from statistics import median
from typing import Any

import torch
from torch import nn

from pretask.data import Dataset
from pretask.objectives.spectrum import collapse_std, rankme
from pretask.training.feed import to_device

SAMPLES, AT_ONCE, LOOKS = 256, 64, 20
"""Samples that are looked at, and at once; times a run is looked at, at most."""

SHARE = 0.02
"""Of a run's computing that looking may take; one look, at the end, there always is."""

FEW_DIRECTIONS, ALIKE, AT_CHANCE = 2.0, 1e-3, 0.02
"""A collapse: RankMe below, or spread below. At chance: a loss within this share of its chance level."""

EARLY, PATIENCE, ROWS = 0.05, 0.25, 5
"""Shares of a run before which features, and losses, are not judged; rows of the log a judgement needs."""


REST = (
    "the loss '{name}' rests at {level}, the value of an encoder that only guesses, while the features did "
    "not collapse. Likely the puzzle needs more steps or another learning rate; else look at the contact "
    "sheets whether it can be solved at all."
)


@contextmanager
def looking(task: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards modes and torch's randomness are as they were."""
    modes = {module: module.training for module in task.modules()}
    device = next((p.device for p in task.parameters()), torch.device("cpu"))
    task.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def spread_over(steps: int, count: int) -> set[int]:
    """So many numbers of steps, evenly spread over a run; the last one is the last step."""
    return {round(steps * (number + 1) / count) for number in range(count)}


class Watch:
    """Features of always the same samples, and whether the run goes wrong.

    Args:
        dataset: what the samples are taken from, evenly spread.
        encoder: what is watched.
        batch_size: of the run, to know what looking costs in relation to it.
        steps: of the run.
    """

    def __init__(self, dataset: Dataset, encoder: nn.Module, batch_size: int, steps: int):
        self.encoder, self.total = encoder, steps
        count = min(SAMPLES, len(dataset.rows))
        places = torch.linspace(0, len(dataset.rows) - 1, count).long()
        self.samples = dataset.subset(places)
        looks = int(SHARE * 3 * batch_size * steps / count)  # a step costs three times what a look at it does
        self.steps = spread_over(steps, min(max(looks, 1), LOOKS)) if hasattr(encoder, "encode") else set()
        self.said: set[str] = set()

    def look(self, device: torch.device) -> dict[str, float]:
        """RankMe and spread of the features, as columns of the log."""
        encode: Any = self.encoder.encode
        share = len(self.samples) if self.samples.connected else AT_ONCE
        with looking(self.encoder):
            parts = [
                encode(to_device(self.samples.batch(rows), device)).pooled.float().cpu()
                for rows in torch.arange(len(self.samples)).split(share)
            ]
        x = torch.cat(parts)
        if len(x) < 2 or not x.isfinite().all():
            return {}
        return {"watch/rankme": rankme(x), "watch/feature_std": collapse_std(x)}

    def judge(self, rows: Sequence[dict[str, float]]) -> list[str]:
        """What is wrong by the last row of the log and those before it; each complaint is made once.

        Args:
            rows: of the log so far, with losses and their chance levels.
        """
        last, share = rows[-1], rows[-1]["step"] / self.total
        resting = resting_losses(rows) if share >= PATIENCE else {}
        directions, alike = last.get("watch/rankme"), last.get("watch/feature_std")
        if directions is None or alike is None:
            return []
        if share >= EARLY and (directions < FEW_DIRECTIONS or alike < ALIKE):
            numbers, cause = f"RankMe {directions:.2f}, spread {alike:.1e}", cause_of_collapse(rows, resting)
            found = {"collapse": f"the features collapsed ({numbers}): all samples look the same. {cause}"}
        else:
            found = {name: REST.format(name=name, level=named(level)) for name, level in resting.items()}
        fresh = {kind: words for kind, words in found.items() if kind not in self.said}
        self.said |= set(fresh)
        return [f"step {last['step']:.0f}: {words}" for words in fresh.values()]


def resting_losses(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Losses whose last rows, a quarter of all, lie at their chance level; with that level."""
    recent = rows[-max(ROWS, len(rows) // 4) :]
    if len(recent) < ROWS:
        return {}
    found = {}
    for key, level in recent[-1].items():
        if not key.startswith("chance/"):
            continue
        name = key.removeprefix("chance/")
        values = [row[f"loss/{name}"] for row in recent if f"loss/{name}" in row]
        if level and values and abs(median(values) - level) <= AT_CHANCE * abs(level):
            found[name] = level
    return found


def cause_of_collapse(rows: Sequence[dict[str, float]], resting: dict[str, float]) -> str:
    """The likely cause, by what the losses do meanwhile."""
    if resting:
        name, level = next(iter(resting.items()))
        return (
            f"The loss '{name}' rests at {named(level)}: it gets the same answer to everything. Likely the "
            "learning rate is too high, or a teacher's answers are too even (its temperature too high, its "
            "centre too strong)."
        )
    totals = [row["loss/total"] for row in rows if "loss/total" in row]
    if totals and totals[0] > 0 and totals[-1] < 0.5 * totals[0]:
        return (
            "The loss falls all the same: it can be satisfied without telling samples apart. Likely nothing "
            "keeps them apart: too few negatives (a larger batch), no centring, no stop-gradient, or a term "
            "against collapse that weighs too little."
        )
    return "Likely the learning rate or the weight decay is too high, or the batch too small."


def named(level: float) -> str:
    """A chance level as a number, and as the logarithm of a whole one where it is that."""
    if 0 < level < 16:
        whole = round(exp(level))
        if whole > 1 and abs(log(whole) - level) < 1e-6 * level:
            return f"{level:.4g} (ln {whole})"
    return f"{level:.4g}"
