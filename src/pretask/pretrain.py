"""`pretask.train`: from data and a method's name to a run folder with a measured encoder and a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pretask import catalog, modalities
from pretask.data import Dataset, open_data
from pretask.data.dataset import spread
from pretask.encoders import Encoder, build_encoder, load_encoder
from pretask.errors import UsageError
from pretask.evaluation.features import extract
from pretask.evaluation.protocols import evaluate as measure
from pretask.evaluation.protocols import test_part
from pretask.registry import build_task
from pretask.reports.html import write_run_report
from pretask.reports.map import MOST, write_features
from pretask.reports.sheet import render
from pretask.reports.thumbs import small
from pretask.run import Run
from pretask.task import PretextTask, Step
from pretask.training.loop import fit
from pretask.training.plan import Plan, make_plan
from pretask.training.watch import looking

if TYPE_CHECKING:
    import numpy as np

    DataSource = str | Path | Dataset | np.ndarray | torch.Tensor | torch.utils.data.Dataset

SHEET_ROWS = 8  # samples on a contact sheet
LEARNED_FROM, JUDGED = 20_000, 5_000  # samples at most of the measurement that ends a training


def rows_of(slugs: str) -> list[catalog.Row]:
    """The catalogue's rows of one method, or of several joined by `+`.

    Raises:
        UsageError: an unknown method, or methods that learn from different kinds of data.
    """
    rows = [catalog.find(slug) for slug in slugs.split("+")]
    kinds = sorted({row.modality for row in rows})
    if len(kinds) > 1:
        raise UsageError(f"{slugs}: these learn from different kinds of data ({', '.join(kinds)})")
    return rows


def default_encoder(rows: Sequence[catalog.Row]) -> str:
    """The encoder that fits all of these methods: a vision transformer if any of them needs patches."""
    return next((row.encoder for row in rows if row.needs != "any"), rows[0].encoder)


def check_encoder(rows: Sequence[catalog.Row], encoder: Encoder) -> None:
    """Refuse a convolutional encoder where a method needs patches.

    Raises:
        UsageError: the encoder does not fit.
    """
    for row in rows:
        if row.needs in ("patches", "bare") and not hasattr(encoder, "num_patches"):
            raise UsageError(
                f"{row.slug} needs a vision transformer; '{encoder.name}' has no patches to drop"
            )


def make_encoder(
    name: str | Encoder,
    dataset: Dataset,
    *,
    patch_size: int | None = None,
    init: str | Path | None = None,
    seed: int = 0,
) -> Encoder:
    """A fresh encoder for these data, or the one `init` names.

    Pictures of three channels are normalised with ImageNet's statistics, others with their own.
    """
    if isinstance(name, Encoder):
        return name
    inputs = dict(dataset.inputs)
    if dataset.modality == "image" and dataset.channels != 3:
        inputs["mean"], inputs["std"] = dataset.channel_stats()
    if patch_size is not None:
        inputs["patch_size"] = patch_size
    if init is not None:
        return load_encoder(init, dataset.modality, **inputs)
    return build_encoder(name, dataset.modality, seed=seed, **inputs)


def open_training_data(
    rows: Sequence[catalog.Row], data: DataSource | None, settings: dict[str, Any]
) -> Dataset:
    """What methods of one kind learn from: all of it; labels only where a method may read them."""
    kind = rows[0].modality if rows and rows[0].modality != "any" else None
    if data is None:
        data = modalities.find(kind or "image").embedded[0]
    return open_data(data, modality=kind, **settings)


def without_labels(dataset: Dataset) -> Dataset:
    """The same samples; no batch of them carries a label."""
    hidden = replace(dataset, targets=None) if not dataset.stream else dataset
    hidden.skipped = dataset.skipped  # what breaks during training is known to both
    return hidden


@dataclass
class Job:
    """All that a training is made of.

    Args:
        name: of the method, for the record.
        task: what is trained.
        dataset: all data, with their splits and labels, to measure by.
        train_set: what is learned from.
        plan: how long and how.
        config: what config.yaml keeps.
    """

    name: str
    task: PretextTask
    dataset: Dataset
    train_set: Dataset
    plan: Plan
    config: dict[str, Any]


def prepare_job(
    task: str | PretextTask,
    data: DataSource | None,
    encoder: str | Encoder | None,
    options: dict[str, Any],
    reading: dict[str, Any],
    patch_size: int | None,
    init: str | Path | None,
    seed: int,
    planned: dict[str, Any],
) -> Job:
    """Open the data, build the encoder and the task, plan the run.

    Raises:
        UsageError: something asked for does not exist or does not fit.
    """
    rows = rows_of(task) if isinstance(task, str) else []
    if init is not None and (Path(init) / "config.yaml").is_file():
        inputs = Run(init).config["encoder"]["inputs"]
        reading = {name: inputs.get(name) for name in ("image_size", "tokenizer", "max_length")} | reading
    dataset = open_training_data(rows, data, reading)
    train_set = dataset.pretraining_part
    if isinstance(task, str):
        model = make_encoder(
            encoder or default_encoder(rows), train_set, patch_size=patch_size, init=init, seed=seed
        )
        check_encoder(rows, model)
        name = task
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            task = build_task(name, model, options)
        if not any(row.labels for row in rows):
            train_set = without_labels(train_set)
    else:
        name = type(task).__name__.lower()
    count = 0 if train_set.stream else len(train_set)
    plan = make_plan(task.recipe, count, **planned)
    source = str(data) if isinstance(data, (str, Path)) else dataset.name
    config = {
        "task": name,
        "options": options,
        "data": {"source": source, "modality": dataset.modality, "samples": count, "reading": reading},
        "encoder": task.encoder.describe() if isinstance(task.encoder, Encoder) else repr(task.encoder),
        "init": None if init is None else str(init),
        "plan": {**plan.describe(), "lr asked": planned["lr"]},
        "seed": seed,
        "chance": task.chance(plan.batch_size),
    }
    return Job(name, task, dataset, train_set, plan, config)


def train(
    task: str | PretextTask | None = None,
    data: DataSource | None = None,
    encoder: str | Encoder | None = None,
    out: str | Path | None = None,
    *,
    options: dict[str, Any] | None = None,
    epochs: int | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    accumulate: int = 1,
    lr: float | str = "auto",
    image_size: int | None = None,
    patch_size: int | None = None,
    channels: int | None = None,
    reading: dict[str, Any] | None = None,
    init: str | Path | None = None,
    precision: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    strategy: str = "auto",
    compile: bool = False,
    seed: int = 0,
    checkpoint_every: int = 500,
    workers: int | None = None,
    loggers: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    evaluate: bool = True,
) -> Run:
    """Train an encoder on unlabelled data, measure it, and leave a run folder.

    Args:
        task: a method's slug, several joined by `+`, or a task object; None to resume what `out` holds.
        data: anything `open_data` takes; default the embedded set of the method's modality.
        encoder: a model's name, or an encoder; default the method's.
        out: the run folder; default `runs/SLUG`.
        options: the method's constructor arguments.
        epochs: passes over the data; default by the rule of `training.plan`.
        max_steps: optimiser steps, instead of epochs.
        batch_size: samples a step over all devices.
        accumulate: parts a batch is computed in.
        lr: learning rate for this batch, or `auto`.
        image_size: input side in pixels; default from the data.
        patch_size: side of a patch, for transformers.
        channels: channels to read pictures as.
        reading: further settings of the data's reader.
        init: a run folder, or `timm:NAME`, to start from.
        precision: as Lightning names them; `auto` is 32-true on CPU and bf16-mixed on GPU.
        devices: devices a node.
        nodes: how many nodes.
        strategy: as Lightning names them.
        compile: torch.compile the task.
        seed: of weights, batches and pretexts.
        checkpoint_every: steps between checkpoints.
        workers: decoding processes when data do not fit in memory.
        loggers: `tensorboard`; metrics.csv is always written.
        resume: continue the run in `out`, with the settings it was started with.
        overwrite: delete the run in `out` first.
        evaluate: measure the encoder, an untrained one and the raw data at the end, by at most 20,000 samples with
            labels and 5,000 that are judged; `pretask evaluate` takes all.

    Raises:
        UsageError: something asked for does not exist or does not fit.
    """
    options, reading = dict(options or {}), dict(reading or {})
    asked = {"image_size": image_size, "channels": channels, "workers": workers}
    reading |= {name: value for name, value in asked.items() if value is not None}
    planned = {"epochs": epochs, "max_steps": max_steps, "batch_size": batch_size, "lr": lr}
    planned["shares"] = devices * nodes * accumulate
    if resume and out is not None and (Path(out) / "config.yaml").is_file():
        kept = Run(out).config
        check_same(kept, task, data, out)
        task = task if isinstance(task, PretextTask) else kept["task"]
        data = kept["data"]["source"] if data is None else data
        if not isinstance(encoder, Encoder):
            encoder, patch_size = kept["encoder"]["name"], kept["encoder"]["inputs"].get("patch_size")
        options, reading, seed, init = kept["options"], kept["data"]["reading"], kept["seed"], kept["init"]
        plan = kept["plan"]
        planned |= {"batch_size": plan["batch_size"], "max_steps": plan["steps"], "lr": plan["lr asked"]}
    if task is None:
        raise UsageError("which method? `pretask list` shows them")
    job = prepare_job(task, data, encoder, options, reading, patch_size, init, seed, planned)
    folder = Path(out or f"runs/{job.name}")
    if first_process():
        Run.create(folder, job.config, resume, overwrite)
    fit(
        job.task, job.train_set, job.plan, folder, seed=seed, resume=resume, precision=precision,
        devices=devices, nodes=nodes, strategy=strategy, compile=compile, accumulate=accumulate,
        checkpoint_every=checkpoint_every, workers=workers, loggers=loggers, sheets=sheet_writer(job, folder),
    )  # fmt: skip
    run = Run(folder)
    if evaluate and first_process():
        judge(job, run)
        write_run_report(folder)
    return run


def first_process() -> bool:
    """Whether this is the process that writes, of those a launcher started."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0


def check_same(kept: dict[str, Any], task: Any, data: Any, out: str | Path) -> None:
    """
    Raises:
        UsageError: the run that is to be resumed is of another method or other data.
    """
    if isinstance(task, str) and task != kept["task"]:
        raise UsageError(f"'{out}' is a run of {kept['task']}, not of {task}: choose another --out")
    if isinstance(data, (str, Path)) and str(data) != kept["data"]["source"]:
        raise UsageError(
            f"'{out}' learned from {kept['data']['source']}, not from {data}: choose another --out"
        )


def sheet_writer(job: Job, folder: Path):
    """A function that draws what a task asks and answers after so many steps, always of the same samples."""
    head = job.dataset.subset(range(SHEET_ROWS)) if job.dataset.stream else job.train_set
    count = min(SHEET_ROWS, len(head))

    def write(task: PretextTask, step: int) -> None:
        rows = torch.linspace(0, len(head) - 1, count).long()
        device = next((p.device for p in task.parameters()), torch.device("cpu"))
        path = folder / "preview" / f"step-{step}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_sheet(task, head.batch(rows), device, answers=step > 0, seed=job.config["seed"]).save(path)

    return write


def draw_sheet(task: PretextTask, batch: dict[str, Any], device: torch.device, answers: bool, seed: int = 0):
    """The task's contact sheet of a batch; the task is left as it was."""
    batch = {key: value.to(device) if hasattr(value, "to") else value for key, value in batch.items()}
    with looking(task):
        sheet = task.preview(batch, Step.at(0, 1, 1, seed, device))
    return render(sheet, answers=answers, max_rows=SHEET_ROWS)


def judge(job: Job, run: Run) -> None:
    """Measure the encoder beside an untrained one and the raw data; keep scores, and features for the map."""
    if job.dataset.stream:
        return
    encoder = run.load_encoder()
    parts = test_part(job.dataset, job.config["seed"])
    train_set, test_set = (few(part, most) for part, most in zip(parts, (LEARNED_FROM, JUDGED), strict=True))
    for arm, model in arms(encoder, job.config["seed"]).items():
        scores = measure(model, train_set, test_set, seed=job.config["seed"])
        run.add_scores([{**score.to_dict(), "arm": arm, "data": job.dataset.name} for score in scores])
    shown = test_set.subset(torch.linspace(0, len(test_set) - 1, min(MOST, len(test_set))).long())
    features, labels = extract(encoder, shown)
    images, words = small(shown)
    write_features(run.folder, features, labels, images, shown.classes, words)


def few(dataset: Dataset, most: int) -> Dataset:
    """At most so many samples, spread evenly; a graph is whole or nothing."""
    return (
        dataset if dataset.connected or len(dataset) <= most else dataset.subset(spread(len(dataset), most))
    )


def arms(encoder: Encoder, seed: int) -> dict[str, Encoder]:
    """The encoder and what it must beat: the same network untrained, and the raw data."""
    inputs = dict(encoder.inputs)
    fresh = build_encoder(encoder.name, encoder.modality, seed=seed, **inputs)
    raw = "pixels" if encoder.modality == "image" else "raw"
    return {
        "encoder": encoder,
        f"random:{encoder.name}": fresh,
        raw: build_encoder("raw", encoder.modality, **inputs),
    }
