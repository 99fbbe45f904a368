"""Run a survey: every member under the same budget, its row in the table, and what the table shows."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pretask.errors import UsageError
from pretask.studies.bench import Bench, Trial
from pretask.studies.claim import QUICK as IS_QUICK
from pretask.studies.claim import Claim
from pretask.studies.cost import Cost, cost, steps_for
from pretask.studies.effect import Effect, effect, judge
from pretask.studies.experiment import Trials, run_trials, smaller
from pretask.studies.experiment import compare as compared
from pretask.studies.survey import Settings, Survey, Values

Row = dict[str, Any]


def tabulate(slug: str, survey: Survey, settings: Settings, console: Console | None = None) -> list[Row]:
    """The rows of the table, then the findings, then the rows of the theory.

    An arm that was measured with a seed is not run again while nothing it depends on has changed; one that was
    interrupted goes on from its last checkpoint.

    Raises:
        UsageError: the data are missing, or none of the methods can learn from them.
    """
    console = console or Console(stderr=True)
    survey, bench, costs = prepared(survey, settings, console)
    count = 1 if settings.quick else survey.claim.seeds if settings.seeds is None else settings.seeds
    token = IS_QUICK.set(settings.quick)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trials = run_trials(
                slug, bench, count, Path(folder) if settings.quick else settings.work, console
            )
    finally:
        IS_QUICK.reset(token)
    rows = members(survey, trials, costs, bench.claim)
    rows += [] if settings.quick else found(survey, trials)
    return rows + (survey.theory() if survey.theory else [])


def prepared(survey: Survey, settings: Settings, console: Console) -> tuple[Survey, Bench, dict[str, Cost]]:
    """The survey of those members that can learn from the data, its bench, and what each costs."""
    for slug in survey.absent():
        console.print(f"{slug} left out: the catalogue does not have it")
    survey = survey.of(survey.chosen(settings.only, settings.where))
    claim = survey.claim if settings.steps is None else replace(survey.claim, steps=settings.steps)
    if settings.data is not None:
        claim = replace(claim, data=settings.data, fallback="")
    bench = Bench.of(claim_of(claim, settings.quick), console.print)
    budget = 2.0 * claim.steps * claim.batch_size
    arms, costs = {}, {}
    for name, arm in claim.arms.items():
        arms[name] = arm
        if arm.method is None or arm.steps == 0:
            continue
        try:
            costs[name] = cost(bench, arm)
        except UsageError as error:
            console.print(f"{name} left out: {error}")
            del arms[name]
            continue
        if arm.steps is None and survey.alike == "pictures":
            arms[name] = replace(
                arm, steps=steps_for(budget, costs[name].seen, arm.batch_size or claim.batch_size)
            )
    if not arms:
        raise UsageError(f"none of the survey's methods can learn from {bench.facts['name']}")
    survey = survey.of(arms)
    small = claim_of(replace(survey.claim, steps=claim.steps, data=claim.data), settings.quick)
    return survey, replace(bench, claim=small), costs


def claim_of(claim: Claim, quick: bool) -> Claim:
    made = smaller(claim) if quick else claim
    assert isinstance(made, Claim)
    return made


def interval(found: Effect) -> dict[str, float | None]:
    return {"value": found.value, "low": found.low, "high": found.high}


def over_seeds(arm: list[Trial], metric: str) -> Effect:
    """A metric's mean with its interval over seeds, and test items where each has a value."""
    stacked = torch.stack([trial.metrics[metric] for trial in arm])
    if stacked.ndim == 2:
        return effect(stacked.mean(1), stacked)
    return effect(stacked)


def members(survey: Survey, trials: Trials, costs: Mapping[str, Cost], claim: Claim) -> list[Row]:
    """A row a member: what it cost and every metric, in families."""
    metrics = list(dict.fromkeys(metric for arm in trials.values() for metric in arm[0].metrics))
    rows = []
    for name, arm in trials.items():
        own, price = claim.arms[name], costs.get(name)
        steps = claim.steps if own.steps is None else own.steps
        row: Row = {
            "family": survey.family(name), "member": name,
            "encoder": (own.encoder or claim.encoder).partition(":")[0],
            "steps": None if own.method is None else steps,
            "seen": None if price is None else round(price.seen, 3),
            "kept KB": None if price is None else price.kept // 1000,
            "seconds": round(sum(trial.seconds for trial in arm) / len(arm), 1),
        }  # fmt: skip
        for metric in metrics:
            known = metric in arm[0].metrics
            row[metric] = interval(over_seeds(arm, metric)) if known else None
        rows.append(row)
    return rows


def found(survey: Survey, trials: Trials) -> list[Row]:
    """A row a finding: the number, its interval over seeds, and what follows."""
    rows = []
    for comparison in survey.claim.comparisons:
        if all(
            comparison.metric in trials[arm][0].metrics for arm in (comparison.arm, comparison.against) if arm
        ):
            one = compared(comparison, trials)
            low, high = one["interval"]
            value = {"value": one["effect"], "low": low, "high": high}
            rows.append({"finding": str(comparison), "effect": value, "verdict": one["verdict"]})
    seeds = range(min(len(arm) for arm in trials.values()))
    tables: list[Values] = [
        {
            name: {metric: float(x.mean()) for metric, x in arm[seed].metrics.items()}
            for name, arm in trials.items()
        }
        for seed in seeds
    ]
    for finding in survey.findings:
        numbers = [number for table in tables if (number := finding.of(table)) is not None]
        if numbers:
            total = effect(numbers)
            verdict = judge(total, finding.claimed, finding.margin)
            rows.append({"finding": str(finding), "effect": interval(total), "verdict": verdict})
    return rows
