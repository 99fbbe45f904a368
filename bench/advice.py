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
SETS = ("cifar10_subset", "clothing_small/images", "grocery_store/images")
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
        rows.append(
            {**on(dataset, methods, steps, batch, seeds, work / name), "data": name.partition("/")[0]}
        )
    result = {
        "case": "advice", "encoder": SMALL_VIT, "steps": steps, "batch_size": batch, "seeds": seeds,
        "machine": machine(), "threads": torch.get_num_threads(), "sets": rows,
    }  # fmt: skip
    results.mkdir(parents=True, exist_ok=True)
    (results / "advice.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


PAGE = Path(__file__).parents[1] / "docs" / "advice.md"
COLUMNS = ("data", "Spearman: mean rank", "RankMe", "alpha-ReQ", "LiDAR", "pick", "best by a linear probe",
           "the pick falls short by", "and beats the average method by")  # fmt: skip


def write_page(result: dict[str, Any], page: Path = PAGE) -> None:
    """Put the results between the two comments of a page."""
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    for row in result["sets"]:
        rho, linear = row["spearman"], {slug: own["linear"] for slug, own in row["methods"].items()}
        cells = [
            row["data"], *(f"{rho[name]:+.2f}" for name in ("mean rank", "rankme", "alpha_req", "lidar")),
            f"{row['pick']} ({linear[row['pick']]:.1%})", f"{row['best']} ({linear[row['best']]:.1%})",
            f"{row['short of the best']:.1%}", f"{row['better than the average method']:+.1%}",
        ]  # fmt: skip
        lines.append(" | ".join(cells))
    table = "\n".join(f"| {line} |" for line in lines)
    how = (
        f"\n\n{len(result['sets'][0]['methods'])} methods ({', '.join(result['sets'][0]['methods'])}), "
        f"`{result['encoder']}`, {result['steps']} steps of {result['batch_size']}, {result['seeds']} seed(s), "
        f"{result['machine']['cpu']}, {result['threads']} thread(s)."
    )
    start, end = "<!-- results -->", "<!-- /results -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(start)
    page.write_text(f"{before}{start}\n{table}{how}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--data", nargs="*", default=SETS)
    given = parser.parse_args()
    found = run(tuple(given.data), steps=given.steps, seeds=given.seeds)
    write_page(found)
    for row in found["sets"]:
        print(json.dumps({key: value for key, value in row.items() if key != "methods"}))
