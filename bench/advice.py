"""How far advice without labels agrees with the truth that labels tell, on three data sets.

Every method trains with the same encoder and budget. What `pretask advise` would say without looking at
labels is then held against a linear probe: rank correlations, and the accuracy that its pick falls short of
the best. `python -m bench.advice --steps 300 --seeds 2`; what is trained is kept and not trained again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr

from bench.harness import RESULTS, machine
from pretask.data import Dataset, open_data
from pretask.data.dataset import spread
from pretask.evaluation.protocols import evaluate, test_part
from pretask.studies.advice import Race, averaged, look, mean_ranks
from pretask.studies.bench import find_data
from pretask.studies.claim import SMALL_VIT
from pretask.studies.compare import trained

METHODS = ("rotation", "simclr", "mae", "colorization", "dino", "ibot", "pirl")
SETS = ("cifar10_subset", "clothing_small", "grocery_store")
EMBEDDED = "digits-on-textures"
MOST = 5000  # samples with labels


def one(race: Race, slug: str, steps: int, seed: int) -> tuple[dict[str, float], float]:
    """What a run is worth by scores without labels, and by a linear probe."""
    folder = race.out / slug / f"{steps}-steps-seed-{seed}"
    shared = {"batch_size": race.batch_size, "max_steps": steps}
    encoder = trained(folder, slug, race.dataset, race.encoder, {}, seed, shared, False).load_encoder()
    parts = test_part(race.dataset, 0)
    known = tuple(part.subset(spread(len(part), MOST)) for part in parts)
    (linear,) = [score for score in evaluate(encoder, *known, ["linear"], 0) if score.metric == "accuracy"]
    return look(encoder, parts, labels=False).scores(), linear.value


def correlations(scores: dict[str, dict[str, float]], truth: dict[str, float]) -> dict[str, Any]:
    """Of the mean rank, and of each criterion alone, with the truth; both the better the higher."""
    right = [truth[slug] for slug in scores]
    ranks = dict(zip(scores, mean_ranks(list(scores.values())), strict=True))
    by = {"mean rank": [-ranks[slug] for slug in scores]}
    for name in next(iter(scores.values())):
        by[name] = [own[name] for own in scores.values()]
    pick = min(ranks, key=lambda slug: ranks[slug])
    return {
        "spearman": {name: round(float(spearmanr(given, right)[0]), 3) for name, given in by.items()},
        "kendall": round(float(kendalltau(by["mean rank"], right)[0]), 3),
        "pick": pick,
        "best": max(truth, key=lambda slug: truth[slug]),
        "short of the best": round(max(right) - truth[pick], 4),
        "better than the average method": round(truth[pick] - float(np.mean(right)), 4),
    }


def on(
    dataset: Dataset, methods: tuple[str, ...], steps: int, batch: int, seeds: int, out: Path
) -> dict[str, Any]:
    """One data set: every method with every seed."""
    race = Race(replace(dataset), SMALL_VIT, batch, out, False, False)
    scores, truth = {}, {}
    for slug in methods:
        found = [one(race, slug, steps, seed) for seed in range(seeds)]
        scores[slug] = averaged([own for own, _ in found])
        truth[slug] = float(np.mean([value for _, value in found]))
        print(f"{dataset.name}: {slug}: linear {truth[slug]:.3f} {scores[slug]}", flush=True)
    methods_rows = {slug: {"linear": round(truth[slug], 4), **scores[slug]} for slug in methods}
    return {"data": dataset.name, "methods": methods_rows, **correlations(scores, truth)}


def run(
    sets: tuple[str, ...] = SETS, methods: tuple[str, ...] = METHODS, steps: int = 300, batch: int = 64,
    seeds: int = 2, work: Path = Path("runs/bench-advice"), results: Path = RESULTS,
) -> dict[str, Any]:  # fmt: skip
    """All data sets; writes `advice.json`."""
    rows = []
    for name in sets:
        place = name if name == EMBEDDED else find_data(name)
        if place is None:
            print(f"{name} is not among the data sets: left out", flush=True)
            continue
        dataset = open_data(place, image_size=32)
        rows.append({**on(dataset, methods, steps, batch, seeds, work / name), "data": name})
    result = {
        "case": "advice", "encoder": SMALL_VIT, "steps": steps, "batch_size": batch, "seeds": seeds,
        "machine": machine(), "threads": torch.get_num_threads(), "sets": rows,
    }  # fmt: skip
    results.mkdir(parents=True, exist_ok=True)
    (results / "advice.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--data", nargs="*", default=SETS)
    given = parser.parse_args()
    for row in run(tuple(given.data), steps=given.steps, seeds=given.seeds)["sets"]:
        print(json.dumps({key: value for key, value in row.items() if key != "methods"}))
