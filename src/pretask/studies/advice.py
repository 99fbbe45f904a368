"""Which pretext fits these data? A race with a budget: the worse half drops out, the others train longer.

Successive halving (Jamieson, Talwalkar, AISTATS 2016) over the methods that fit the data, judged by
few-shot probes where there are labels, else by scores that need none. `pretask claim advice` says how far
the latter agree with the former's truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isnan, log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask import catalog, modalities
from pretask.data import Dataset, open_data
from pretask.data.dataset import spread
from pretask.encoders import Encoder
from pretask.errors import UsageError
from pretask.evaluation.features import extract
from pretask.evaluation.fewshot import fewshot
from pretask.evaluation.label_free import alpha_req, lidar, view_features
from pretask.evaluation.protocols import test_part
from pretask.evaluation.score import known_labels
from pretask.objectives.spectrum import rankme
from pretask.pretrain import default_encoder, rows_of
from pretask.studies.compare import budget, trained

if TYPE_CHECKING:
    from pretask.pretrain import DataSource

SAMPLES, IMAGES, VIEWS = 2000, 500, 5
"""Samples that RankMe and alpha-ReQ look at; pictures, and views of each, that LiDAR looks at."""

DRAWS = 200
"""Bootstrap draws behind "how sure"."""

FINALISTS = 2
"""So many methods train for the whole budget, with several seeds."""


@dataclass(frozen=True)
class Evidence:
    """What one run leaves to be judged by.

    Args:
        features: of training samples.
        views: of several views of the same pictures, where the data are pictures.
        right: how often each test sample was recognised from a few labels, where there are labels.
    """

    features: Float[Tensor, "items dim"]
    views: Float[Tensor, "images views dim"] | None
    right: Float[Tensor, "test"] | None

    def scores(self, generator: torch.Generator | None = None) -> dict[str, float]:
        """Criteria, all such that more is better; with a generator, of samples drawn with replacement."""
        if self.right is not None:
            return {"few-shot": float(drawn(self.right, generator).mean())}
        features = drawn(self.features, generator)
        alpha, _ = alpha_req(features)
        found = {"rankme": rankme(features), "alpha_req": -abs(alpha - 1)}
        if self.views is not None:
            found["lidar"] = lidar(drawn(self.views, generator))
        return {name: value for name, value in found.items() if not isnan(value)}


def drawn(x: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return x
    rows: Int[Tensor, "items"] = torch.randint(len(x), (len(x),), generator=generator)
    return x[rows]


def look(encoder: Encoder, parts: tuple[Dataset, Dataset], labels: bool) -> Evidence:
    """What an encoder is judged by."""
    train_set, test_set = parts
    some = train_set.subset(spread(len(train_set), SAMPLES))
    features = extract(encoder, some)
    if labels:
        (*_, most) = fewshot(known_labels(features), known_labels(extract(encoder, test_set)), seed=0)
        return Evidence(features[0], None, most.items)
    views = None
    if train_set.modality == "image":
        views = view_features(encoder, some, IMAGES, VIEWS, 0, None)
    return Evidence(features[0], views, None)


def mean_ranks(scores: Sequence[dict[str, float]]) -> list[float]:
    """Of each contestant its rank, 1 the best, averaged over the criteria that all have; ties share."""
    from scipy.stats import rankdata

    shared = [name for name in scores[0] if all(name in own for own in scores)]
    ranks = [rankdata([-own[name] for own in scores]) for name in shared]
    return np.mean(ranks, axis=0).tolist() if ranks else [1.0] * len(scores)


def averaged(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([own[name] for own in scores if name in own])) for name in scores[0]}


def sureness(evidence: dict[str, list[Evidence]], pick: str, seed: int = 0) -> float:
    """Share of bootstrap draws, of seeds and of samples within them, in which the pick ranks first."""
    generator, wins = torch.Generator().manual_seed(seed), 0.0
    for _ in range(DRAWS):
        scores = []
        for trials in evidence.values():
            seeds = torch.randint(len(trials), (len(trials),), generator=generator).tolist()
            scores.append(averaged([trials[number].scores(generator) for number in seeds]))
        ranks = mean_ranks(scores)
        first = [slug for slug, rank in zip(evidence, ranks, strict=True) if rank == min(ranks)]
        wins += (pick in first) / len(first)
    return wins / DRAWS


def contestants(modality: str) -> list[str]:
    """The methods that can learn from any unlabelled data of this kind, with any encoder of its kind."""
    return [
        row.slug
        for row in catalog.TASKS
        if row.modality == modality and not row.labels and row.needs in ("any", "patches")
    ]


def rungs(count: int, max_steps: int) -> list[tuple[int, int]]:
    """(methods, steps of each) a round: half as many methods each time, twice as long, down to finalists."""
    rounds = max(ceil(log2(count / FINALISTS)), 0)
    sizes = [min(count, max(FINALISTS, ceil(count / 2**n))) for n in range(rounds + 1)]
    return [(size, max(1, round(max_steps / 2 ** (rounds - n)))) for n, size in enumerate(sizes)]


@dataclass(frozen=True)
class Race:
    """What all contestants share.

    Args:
        dataset: what they learn from.
        encoder: what they train.
        batch_size: samples a step.
        out: the folder of their runs.
        labels: judge by few-shot probes.
        overwrite: train again what is finished.
    """

    dataset: Dataset
    encoder: str
    batch_size: int
    out: Path
    labels: bool
    overwrite: bool

    def run(self, slug: str, steps: int, seed: int) -> Evidence:
        """Train a method for so many steps, with a whole schedule, and look at its encoder.

        An encoder from the middle of a longer run, its rate still high, would be judged too low.
        """
        folder = self.out / slug / f"{steps}-steps-seed-{seed}"
        shared = {"batch_size": self.batch_size, "max_steps": steps}
        done = trained(folder, slug, self.dataset, self.encoder, {}, seed, shared, self.overwrite)
        return look(done.load_encoder(), test_part(self.dataset, 0), self.labels)

    def round(
        self, slugs: list[str], steps: int, seeds: int
    ) -> tuple[dict[str, list[Evidence]], dict[str, str]]:
        """What each method leaves to be judged by; and why some cannot learn from these data."""
        found: dict[str, list[Evidence]] = {}
        unfit: dict[str, str] = {}
        for slug in slugs:
            try:
                found[slug] = [self.run(slug, steps, seed) for seed in range(seeds)]
            except UsageError as error:
                unfit[slug] = str(error)
        return found, unfit

    def all(self, slugs: list[str], max_steps: int, seeds: int) -> dict[str, Any]:
        """Round after round: the pick, how sure it is, and where each method came to.

        Raises:
            UsageError: fewer than two methods can learn from these data.
        """
        table: dict[str, dict[str, Any]] = {}
        left_out: dict[str, str] = {}
        left = slugs
        for number, (size, steps) in enumerate(rungs(len(slugs), max_steps), 1):
            evidence, unfit = self.round(left[:size], steps, seeds if steps == max_steps else 1)
            left_out |= unfit
            if len(evidence) < 2:
                reasons = "; ".join(f"{slug}: {why}" for slug, why in left_out.items())
                raise UsageError(f"fewer than two of the methods can learn from these data: {reasons}")
            scores = {slug: averaged([one.scores() for one in trials]) for slug, trials in evidence.items()}
            ranks = dict(zip(scores, mean_ranks(list(scores.values())), strict=True))
            for slug, own in scores.items():
                table[slug] = {"method": slug, "round": number, "steps": steps, "rank": ranks[slug], **own}
            left = sorted(evidence, key=lambda slug: ranks[slug])
        order = sorted(table.values(), key=lambda row: (-row["round"], row["rank"]))
        return {"pick": left[0], "sure": sureness(evidence, left[0]), "rows": order, "left_out": left_out}


def advise(
    slugs: Sequence[str] = (),
    data: DataSource | None = None,
    *,
    encoder: str | None = None,
    out: str | Path = "runs/advice",
    max_steps: int | None = None,
    batch_size: int | None = None,
    modality: str | None = None,
    image_size: int | None = None,
    reading: dict[str, Any] | None = None,
    seeds: int = 2,
    labels: bool = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Find the pretext that fits some data without training every one to the end.

    What is finished is not trained again: a race that was interrupted goes on where it stopped.

    Args:
        slugs: methods; default all that fit the kind of data.
        data: anything `open_data` takes; default an embedded set.
        encoder: what each trains; default one that fits all of them.
        out: a folder for the runs.
        max_steps: optimiser steps of a finalist; default what the first method would take of these data.
        batch_size: samples a step.
        modality: what to read the data as; default what the methods learn from, or the data's names tell.
        image_size: input side in pixels.
        reading: further settings of the data's reader.
        seeds: repetitions of the last round.
        labels: judge by few-shot probes where there are labels; False judges as if there were none.
        overwrite: train again what is finished.

    Returns:
        `pick`; `sure`, the share of bootstrap draws that it wins in the last round; `by`, what it was judged
        by (few-shot or label-free); `encoder`; `rows`, of each method the last round it was in, with its
        steps, scores and mean rank there; and `left_out`, methods that cannot learn from these data, and why.

    Raises:
        UsageError: fewer than two methods, or methods that do not fit together.
    """
    settings = dict(reading or {}) | ({} if image_size is None else {"image_size": image_size})
    kind = rows_of("+".join(slugs))[0].modality if slugs else modality
    source = modalities.find(kind or "image").embedded[0] if data is None else data
    dataset = open_data(source, modality=kind, **settings)
    chosen = list(slugs) or contestants(dataset.modality)
    if len(set(chosen)) < 2:
        names = ", ".join(chosen) or "none"
        raise UsageError(f"a race needs two methods, and of {dataset.modality} data there is: {names}")
    rows, (train_set, test_set) = rows_of("+".join(chosen)), test_part(dataset, 0)
    known = labels and train_set.labels is not None and test_set.labels is not None
    given = {"max_steps": max_steps, "batch_size": batch_size, "epochs": None}
    shared = budget({slug: (slug, {}) for slug in chosen}, len(train_set), given)
    name = encoder or default_encoder(rows)
    race = Race(dataset, name, shared["batch_size"], Path(out), known, overwrite)
    found = race.all(chosen, shared["max_steps"], seeds)
    return {**found, "by": "few-shot" if known else "label-free", "encoder": name}
