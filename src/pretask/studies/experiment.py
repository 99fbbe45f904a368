"""Run a claim: every arm with every seed, then the verdict."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pretask.run import write_text
from pretask.studies.bench import Bench, Desk, Trial, run_trial
from pretask.studies.claim import QUICK as IS_QUICK
from pretask.studies.claim import Arm, Claim, Comparison, Theory, find_claim
from pretask.studies.effect import RULE, effect, judge, overall
from pretask.studies.sources import library_hash, method_sources, revision

QUICK: dict[str, Any] = {"steps": 2, "batch_size": 16, "train": 64, "labelled": 60, "test": 40, "seeds": 1}
PACKAGES = ("pretask", "torch", "torchvision", "timm", "lightning", "numpy", "scikit-learn")

Trials = Mapping[str, list[Trial]]


def run_claim(
    slug: str,
    quick: bool = False,
    seeds: int | None = None,
    out: str | Path = "evidence",
    work: str | Path = "runs/claims",
    console: Console | None = None,
) -> dict[str, Any]:
    """Run a claim's experiment and write `out/SLUG.json`.

    An arm that was measured with a seed is not run again while nothing it depends on has changed; one that
    was interrupted goes on from its last checkpoint.

    Args:
        slug: the claim's name.
        quick: only show that it runs: two steps on a few samples, no verdict, no file.
        seeds: repetitions; default the claim's own number.
        out: the folder of evidence.
        work: the folder that keeps what is finished.
        console: where progress is shown; default the terminal's standard error.

    Returns:
        What the file holds; when quick only what was measured.

    Raises:
        UsageError: there is no such claim.
    """
    claim, console = find_claim(slug), console or Console(stderr=True)
    if quick:
        claim = smaller(claim)
    count = claim.seeds if seeds is None else seeds
    bench = bench_of(claim, console)
    if quick:
        token = IS_QUICK.set(True)
        try:
            with tempfile.TemporaryDirectory() as folder:
                trials = run_trials(slug, bench, count, Path(folder), console)
        finally:
            IS_QUICK.reset(token)
        return {"slug": slug, "quick": True, "data": bench.facts, "arms": values(trials)}
    trials = run_trials(slug, bench, count, Path(work), console)
    result = {
        "slug": slug,
        "statement": claim.statement,
        "data": bench.facts,
        "arms": values(trials),
        **verdicts(claim, trials),
        "seconds": round(sum(trial.seconds for arm in trials.values() for trial in arm), 1),
        "command": f"pretask claim {slug}" + (f" --seeds {seeds}" if seeds is not None else ""),
        "revision": revision(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "machine": machine(),
        "source": method_sources(slug),
    }
    Path(out).mkdir(parents=True, exist_ok=True)
    write_text(Path(out) / f"{slug}.json", json.dumps(result, indent=1) + "\n")
    console.print(f"{slug}: [bold]{result['verdict']}[/bold]")
    return result


def bench_of(claim: Claim | Theory, console: Console) -> Bench | Desk:
    return Bench.of(claim, console.print) if isinstance(claim, Claim) else Desk(claim)


def smaller(claim: Claim | Theory) -> Claim | Theory:
    """The same experiment, just large enough to run through."""
    if isinstance(claim, Theory):
        return replace(claim, seeds=1)
    arms = {
        name: replace(arm, steps=arm.steps and QUICK["steps"], batch_size=None)
        for name, arm in claim.arms.items()
    }
    return replace(claim, arms=arms, **QUICK)


def run_trials(slug: str, bench: Bench | Desk, seeds: int, work: Path, console: Console) -> Trials:
    """Every arm with every seed; seed by seed, so that a run cut short has whole comparisons."""
    folder = folder_of(slug, bench, work)
    trials: dict[str, list[Trial]] = {name: [] for name in bench.claim.arms}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(slug, total=seeds * len(trials))
        for seed in range(seeds):
            for name, found in trials.items():
                progress.update(bar, description=f"{slug}: {name}, seed {seed}")
                found.append(measured(slug, bench, name, seed, folder))
                progress.advance(bar)
                progress.console.print(line(slug, name, seed, found[-1]), highlight=False)
    return trials


def folder_of(slug: str, bench: Bench | Desk, work: Path) -> Path:
    """Where the finished arms of a claim are kept."""
    return work / slug / bench.hash[:12]


def measured(slug: str, bench: Bench | Desk, name: str, seed: int, folder: Path) -> Trial:
    """An arm with a seed: as it was kept, or else run now."""
    arm = bench.claim.arms[name]
    stem = folder / f"{re.sub('[^a-z0-9]+', '-', name)}-{arm_hash(slug, name, arm)}-seed{seed}"
    kept = stem.with_name(stem.name + ".safetensors")
    if not kept.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        run_trial(bench, arm, seed, stem).save(kept)
        shutil.rmtree(stem, ignore_errors=True)  # the run folder with its checkpoints
    return Trial.load(kept)


def arm_hash(slug: str, name: str, arm: Any) -> str:
    """Names what an arm is and all of ours that it depends on: one that joins leaves the others' runs valid."""
    method = getattr(arm, "method", None)
    methods = method.split("+") if isinstance(method, str) else []
    told = vars(arm) if isinstance(arm, Arm) else {}
    own = {key: value for key, value in told.items() if not callable(value)}
    key = f"{name} {json.dumps(own, sort_keys=True, default=str)} {library_hash(slug, methods)}"
    return hashlib.sha256(key.encode()).hexdigest()[:12]


def line(slug: str, name: str, seed: int, trial: Trial) -> str:
    found = ", ".join(f"{metric} {trial.value(metric):.4f}" for metric in trial.metrics)
    return f"{slug}: {name}, seed {seed}: {found} ({trial.seconds:.0f} s)"


def values(trials: Trials) -> dict[str, dict[str, list[float]]]:
    """{arm: {metric: [a value per seed]}}"""
    return {
        name: {metric: [trial.value(metric) for trial in arm] for metric in arm[0].metrics}
        for name, arm in trials.items()
    }


def verdicts(claim: Claim | Theory, trials: Trials) -> dict[str, Any]:
    """The headline's effect and interval, the claim's verdict, and every comparison."""
    comparisons = [compare(comparison, trials) for comparison in claim.comparisons]
    return {
        "effect": comparisons[0]["effect"],
        "interval": comparisons[0]["interval"],
        "verdict": overall([comparison["verdict"] for comparison in comparisons]),
        "comparisons": comparisons,
        "rule": RULE,
    }


def compare(comparison: Comparison, trials: Trials) -> dict[str, Any]:
    """One comparison as plain data."""
    arms = [trials[name] for name in (comparison.arm, comparison.against) if name is not None]
    stacked = [torch.stack([trial.metrics[comparison.metric] for trial in arm]) for arm in arms]
    difference = stacked[0] - stacked[1] if len(stacked) == 2 else stacked[0]
    if difference.ndim == 2:  # a value for each test item, and the same items in both arms
        found = effect(difference.mean(1), difference)
    else:
        found = effect(difference)
    return {
        "metric": comparison.metric, "arm": comparison.arm, "against": comparison.against,
        "claimed": comparison.claimed, "margin": comparison.margin,
        "effect": found.value, "interval": [found.low, found.high],
        "verdict": judge(found, comparison.claimed, comparison.margin),
    }  # fmt: skip


def machine() -> dict[str, Any]:
    """What it ran on; nothing that tells one machine of a kind from another."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        rows = (row.partition(":") for row in info.read_text().splitlines())
        cpu = next((value.strip() for key, _, value in rows if key.strip() == "model name"), cpu)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}
