"""The same data, encoder, budget and seeds for several methods, beside what they must beat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pretask.config import check
from pretask.data import Dataset
from pretask.errors import UsageError
from pretask.evaluation.protocols import evaluate as measure
from pretask.evaluation.protocols import test_part
from pretask.evaluation.score import Score
from pretask.pretrain import (
    default_encoder,
    make_encoder,
    open_training_data,
    rows_of,
    train,
)  # fmt: skip
from pretask.registry import task_class
from pretask.reports.html import write_compare_report
from pretask.run import Run
from pretask.studies.effect import effect
from pretask.training.plan import make_plan

if TYPE_CHECKING:
    from pretask.pretrain import DataSource

Arm = tuple[str, dict[str, Any]]  # a method and its options


def arms_of(slugs: Sequence[str], vary: str | None, options: dict[str, Any]) -> dict[str, Arm]:
    """What is compared, by name: methods, or one method with several values of an option.

    Raises:
        UsageError: `vary` is not `option=a,b,c`, the option does not take one of these, or there is more than one
            method to vary.
    """
    if vary is None:
        if len(set(slugs)) < len(slugs):
            raise UsageError(f"a method is named twice: {', '.join(slugs)}")
        own = {slug: {} for slug in slugs} if len(slugs) > 1 else dict.fromkeys(slugs, options)
        if len(slugs) > 1 and options:
            raise UsageError("--set would mean something else for each method: use --vary with one method")
        return {slug: (slug, own[slug]) for slug in slugs}
    name, equals, values = vary.partition("=")
    if not equals or len(slugs) != 1:
        raise UsageError("--vary takes option=a,b,c and one method")
    arms = {f"{slugs[0]} {name}={v}": (slugs[0], {**options, name: v}) for v in values.split(",")}
    for slug, own in arms.values() if "+" not in slugs[0] else ():
        check(slug, own)  # before the first is trained, which may take hours
    return arms


def budget(arms: dict[str, Arm], count: int, given: dict[str, Any]) -> dict[str, Any]:
    """The same batch and number of steps for all: what is not given is what the first method would take."""
    recipe = task_class(next(iter(arms.values()))[0].split("+")[0]).recipe
    plan = make_plan(recipe, count, **given)
    return {"batch_size": plan.batch_size, "max_steps": plan.steps}


def compare(
    slugs: str | Sequence[str],
    data: DataSource | None = None,
    *,
    encoder: str | None = None,
    out: str | Path = "runs/compare",
    epochs: int | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    reading: dict[str, Any] | None = None,
    seeds: int = 2,
    protocols: str | Sequence[str] | None = None,
    vary: str | None = None,
    overwrite: bool = False,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train each method alike, measure all on the same test samples, and rank them.

    What is finished is not trained again: a comparison that was interrupted goes on where it stopped.

    Args:
        slugs: methods.
        data: anything `open_data` takes; default the embedded set of the methods' modality.
        encoder: what each trains; default one that fits all of them.
        out: a folder for the runs and the page.
        epochs: passes over the data of each; default what the first method would take.
        max_steps: optimiser steps of each, instead of epochs.
        batch_size: samples a step.
        image_size: input side in pixels.
        reading: further settings of the data's reader.
        seeds: repetitions with other weights, batches and pretexts.
        protocols: names, or one string of them with commas; default those that fit the data.
        vary: `option=a,b,c`: one method with several values of an option instead of several methods.
        overwrite: train again what is finished.
        options: the method's constructor arguments, where there is one method.

    Returns:
        `rows` (a row an arm and measure: mean over seeds with its 95 % interval over seeds and test
        samples) and the `report`'s path.

    Raises:
        UsageError: methods that do not fit together, or something asked for does not exist.
    """
    slugs = [slugs] if isinstance(slugs, str) else list(slugs)
    arms, names = arms_of(slugs, vary, options or {}), protocols
    if isinstance(protocols, str):
        names = protocols.split(",")
    rows = rows_of("+".join(slugs))
    settings = dict(reading or {}) | ({} if image_size is None else {"image_size": image_size})
    dataset = open_training_data(rows, data, settings)
    parts = test_part(dataset, 0)
    count = len(dataset.split("train") or dataset)
    given = {"epochs": epochs, "max_steps": max_steps, "batch_size": batch_size}
    shared = budget(arms, count, given)
    chosen = encoder or default_encoder(rows)
    found: dict[str, list[list[Score]]] = {}
    folders = []
    for name, (slug, own) in arms.items():
        for seed in range(seeds):
            folder = Path(out) / re.sub("[^A-Za-z0-9.=-]+", "-", name) / f"seed-{seed}"
            run = trained(folder, slug, dataset, chosen, own, seed, shared, overwrite)
            found.setdefault(name, []).append(measure(run.load_encoder(), *parts, names, 0))
        folders.append(folder)
    for name, model in (("random", chosen), ("raw", "raw")):
        repeats = seeds if name == "random" else 1
        found["pixels" if name == "raw" and dataset.modality == "image" else name] = [
            measure(make_encoder(model, dataset, seed=seed), *parts, names, 0) for seed in range(repeats)
        ]
    board = [row for name, trials in found.items() for row in board_rows(name, trials, dataset.name)]
    page = write_compare_report(Path(out) / "report.html", board, folders)
    return {"rows": board, "report": str(page), "budget": shared, "encoder": chosen}


def trained(
    folder: Path, slug: str, dataset: Dataset, encoder: str, options: dict[str, Any], seed: int,
    shared: dict[str, Any], overwrite: bool,
) -> Run:  # fmt: skip
    """A finished run of this arm: the one in the folder, or a new one."""
    used = (folder / "config.yaml").is_file() and not overwrite
    if used:
        kept = Run(folder).config
        asked = (slug, options, shared["max_steps"], shared["batch_size"])
        if (kept["task"], kept["options"], kept["plan"]["steps"], kept["plan"]["batch_size"]) != asked:
            raise UsageError(
                f"'{folder}' holds another comparison's run: choose another --out, or --overwrite"
            )
    return train(
        slug, dataset, encoder, folder, options=options, seed=seed, **shared,
        resume=used, overwrite=overwrite, evaluate=False,
    )  # fmt: skip


def board_rows(name: str, trials: list[list[Score]], data: str) -> list[dict[str, Any]]:
    """Mean over seeds of each measure, with an interval over seeds and, where they are known, test items."""
    rows = []
    for scores in zip(*trials, strict=True):
        first = scores[0]
        items = None
        if all(score.items is not None for score in scores):
            items = torch.stack([score.items for score in scores if score.items is not None])
        total = effect([score.value for score in scores], items)
        rows.append({
            "arm": name, "protocol": first.protocol, "metric": first.metric, "value": total.value,
            "low": total.low, "high": total.high, "n": first.n, "seeds": len(scores), "data": data,
        })  # fmt: skip
    return rows
