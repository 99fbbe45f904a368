"""The commands as Python functions. Every command of the command line is one call here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pretask import modalities
from pretask.data import Dataset, open_data
from pretask.encoders import Encoder, load_encoder
from pretask.errors import UsageError, need
from pretask.evaluation.features import as_pool, extract
from pretask.evaluation.independence import SAMPLES, Kernel, task_independence
from pretask.evaluation.protocols import evaluate as measure
from pretask.evaluation.protocols import read_alike, test_part, test_part_of
from pretask.evaluation.shortcuts import shortcuts as find_shortcuts
from pretask.export import export as export_encoder
from pretask.posttrain import reinforce
from pretask.pretrain import (
    SHEET_ROWS,
    default_encoder,
    draw_sheet,
    make_encoder,
    open_training_data,
    rows_of,
    train,
)  # fmt: skip
from pretask.puzzles.write import write_puzzles
from pretask.registry import build_task
from pretask.reports.html import write_compare_report, write_run_report
from pretask.run import Run
from pretask.studies.advice import advise
from pretask.studies.compare import compare
from pretask.task import PretextTask

if TYPE_CHECKING:
    from pretask.pretrain import DataSource

__all__ = [
    "advise", "compare", "describe_data", "embed", "evaluate", "export", "independence", "preview", "reinforce",
    "report", "shortcuts", "train", "write_puzzles",
]  # fmt: skip

PREVIEW_SAMPLES = 512  # of the data, for a picture of the puzzle


def is_run(reference: str | Path | Encoder) -> bool:
    return not isinstance(reference, Encoder) and (Path(reference) / "config.yaml").is_file()


def encoder_and_data(
    reference: str | Path | Encoder,
    data: DataSource | None,
    modality: str | None,
    reading: dict[str, Any],
) -> tuple[Encoder, Dataset]:
    """What is to be judged and what by; a run brings its own data and reads others as it read those.

    Raises:
        UsageError: nothing is found under the reference, or no data are given.
    """
    encoder = reference if isinstance(reference, Encoder) else None
    if is_run(reference):
        run = Run(reference)  # type: ignore[arg-type]
        encoder, own = run.load_encoder(), run.config["data"]
        if data is None:
            data, modality = own["source"], own["modality"]
        reading = {**own["reading"], **reading}
    elif encoder is None and Path(reference).exists():  # type: ignore[arg-type]
        encoder = load_encoder(reference)  # type: ignore[arg-type]
    if data is None:
        raise UsageError(f"which data shall '{reference}' be judged by? give --data")
    if encoder is not None:
        modality = readable(encoder, modality)
        fitting = encoder.reading
        if encoder.modality == "image":
            fitting = {"image_size": encoder.inputs["image_size"], "channels": encoder.inputs["in_chans"]}
        reading = {**fitting, **reading}
    dataset = open_data(data, modality=modality, **reading)
    if encoder is None:
        encoder = load_encoder(reference, dataset.modality, **dataset.inputs)  # type: ignore[arg-type]
    return encoder, dataset


def readable(encoder: Encoder, asked: str | None) -> str:
    """The kind of data that is asked for, where such encoders read it too (pictures of places are pictures), else
    the encoder's own."""
    own = modalities.find(encoder.modality)
    return asked if asked is not None and modalities.find(asked).encoders == own.encoders else own.name


def named(**settings: Any) -> dict[str, Any]:
    """The settings that were given."""
    return {name: value for name, value in settings.items() if value is not None}


def evaluate(
    reference: str | Path | Encoder,
    data: DataSource | None = None,
    *,
    test_data: DataSource | None = None,
    ood_data: Sequence[DataSource] = (),
    protocols: str | Sequence[str] | None = None,
    image_size: int | None = None,
    modality: str | None = None,
    reading: dict[str, Any] | None = None,
    pool: str | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measure what an encoder is worth.

    Args:
        reference: a run folder, an encoder, `timm:NAME`, `random:NAME` or `pixels`.
        data: what classifiers learn from; default what the run learned from.
        test_data: what is judged; default the data's own test or val split, or a fifth held out.
        ood_data: what `ood` should tell apart from the data; default the other embedded sets.
        protocols: names, or one string of them with commas; default those that fit the data.
        image_size: input side in pixels.
        modality: what to read the data as.
        reading: further settings of the data's reader.
        pool: `token`, `avg` or `token+avg` instead of what the encoder gives.
        seed: of splits, subsets and intervals.

    Returns:
        Scores as plain data; those of a run are also kept in its folder and its report.

    Raises:
        UsageError: something asked for does not exist or does not fit.
    """
    settings = {**(reading or {}), **named(image_size=image_size)}
    encoder, dataset = encoder_and_data(reference, data, modality, settings)
    names = protocols.split(",") if isinstance(protocols, str) else protocols
    train_set, test_set = test_part(dataset, seed)
    if test_data is not None:
        train_set = dataset.split("train") or dataset
        test_set = open_data(test_data, modality=dataset.modality, **test_settings(dataset, settings))
        test_set = test_part_of(test_set)
        same_classes(train_set, test_set)
    alike = {"modality": dataset.modality, **test_settings(dataset, settings)}
    outside = [open_data(source, **alike) for source in ood_data]
    scores = measure(
        encoder, train_set, test_set, names, seed, outside=outside, pool=as_pool(pool),
        run=Run(reference) if is_run(reference) else None,  # type: ignore[arg-type]
    )  # fmt: skip
    arm = "encoder" if is_run(reference) or isinstance(reference, Encoder) else str(reference)
    found = [{**score.to_dict(), "arm": arm, "data": test_set.name} for score in scores]
    if is_run(reference):
        Run(reference).add_scores(found)  # type: ignore[arg-type]
        write_run_report(reference)  # type: ignore[arg-type]
    return found


def test_settings(dataset: Dataset, settings: dict[str, Any]) -> dict[str, Any]:
    """Test data are read as the data they belong to."""
    return {**settings, **read_alike(dataset)}


def same_classes(train_set: Dataset, test_set: Dataset) -> None:
    """
    Raises:
        UsageError: both have labels and they mean different things.
    """
    if train_set.labels is not None and test_set.labels is not None and train_set.classes != test_set.classes:
        raise UsageError(
            f"the classes of {train_set.name} ({', '.join(train_set.classes[:5])} ...) are not those of "  # type: ignore[index]
            f"{test_set.name} ({', '.join(test_set.classes[:5])} ...)"  # type: ignore[index]
        )


def embed(
    reference: str | Path | Encoder,
    data: DataSource | None = None,
    out: str | Path = "embeddings.parquet",
    *,
    image_size: int | None = None,
    modality: str | None = None,
    reading: dict[str, Any] | None = None,
    pool: str | None = None,
) -> tuple[Path, tuple[int, int]]:
    """Write one vector a sample.

    Args:
        reference: a run folder, an encoder, `timm:NAME`, `random:NAME` or `pixels`.
        data: what to embed; default what the run learned from.
        out: `.npy` for the vectors alone; `.parquet` with names, and labels where there are any.
        image_size: input side in pixels.
        modality: what to read the data as.
        reading: further settings of the data's reader.
        pool: `token`, `avg` or `token+avg` instead of what the encoder gives.

    Returns:
        The file, and how many vectors of which width it holds.

    Raises:
        UsageError: another file type, or something asked for does not exist.
    """
    path = Path(out)
    if path.suffix not in (".npy", ".parquet"):
        raise UsageError(f"--out must end in .parquet or .npy, not '{path.name}'")
    arrow = need("pyarrow", "data") if path.suffix == ".parquet" else None
    settings = {**(reading or {}), **named(image_size=image_size)}
    encoder, dataset = encoder_and_data(reference, data, modality, settings)
    features, labels = extract(encoder, dataset, pool=as_pool(pool))
    vectors = features.numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    if arrow is None:
        np.save(path, vectors)
        return path, vectors.shape
    import pyarrow.parquet

    flat = arrow.array(vectors.reshape(-1))
    table = {
        "name": [dataset.samples.name(row) for row in dataset.rows.tolist()],
        "embedding": arrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    }
    if labels is not None:
        table["label"] = [(dataset.classes or [])[label] for label in labels.tolist()]
    pyarrow.parquet.write_table(arrow.table(table), path)
    return path, vectors.shape


def export(reference: str | Path, out: str | Path = "export", format: str = "timm") -> Path:
    """Write a run's encoder for use without pretask, with a model card; see `pretask.export.export`."""
    return export_encoder(reference, out, format)


def sample_task(
    slug: str,
    data: DataSource | None,
    options: dict[str, Any],
    reading: dict[str, Any],
    limit: int,
    seed: int,
) -> tuple[PretextTask, Dataset]:
    """An untrained task on some of the data."""
    rows = rows_of(slug)
    dataset = open_training_data(rows, data, {**reading, "limit": limit})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        task = build_task(slug, make_encoder(default_encoder(rows), dataset, seed=seed), options)
    return task, dataset


def preview(
    slug: str,
    data: DataSource | None = None,
    *,
    out: str | Path = "sheet.png",
    run: str | Path | None = None,
    image_size: int | None = None,
    reading: dict[str, Any] | None = None,
    rows: int = SHEET_ROWS,
    seed: int = 0,
    options: dict[str, Any] | None = None,
) -> Path:
    """A picture of the puzzle: what goes in, what is hidden, what is asked, and with `run` what is answered.

    Args:
        slug: a method, or several joined by `+`.
        data: anything `open_data` takes; default the run's, or the embedded set of the method's modality.
        out: the picture to write.
        run: a run folder whose task answers.
        image_size: input side in pixels.
        reading: further settings of the data's reader.
        rows: samples to show.
        seed: of the samples and of the draws.
        options: the method's constructor arguments.

    Raises:
        UsageError: something asked for does not exist or does not fit.
    """
    settings = {**(reading or {}), **named(image_size=image_size)}
    if run is None:
        task, dataset = sample_task(slug, data, options or {}, settings, PREVIEW_SAMPLES, seed)
        task.prepare(whole_batches(dataset), len(dataset))
    else:
        kept = Run(run)
        if kept.config["task"] != slug:
            raise UsageError(f"'{run}' is a run of {kept.config['task']}, not of {slug}")
        task = kept.load_task()
        own = kept.config["data"]
        settings = {**own["reading"], **settings, "limit": PREVIEW_SAMPLES}
        dataset = open_data(own["source"] if data is None else data, modality=own["modality"], **settings)
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:rows]
    picture = draw_sheet(task, dataset.batch(chosen), torch.device("cpu"), answers=run is not None, seed=seed)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    picture.save(out)
    return Path(out)


def whole_batches(dataset: Dataset, size: int = 64) -> list[dict[str, Any]]:
    return [dataset.batch(part) for part in torch.arange(len(dataset)).split(size)]


def shortcuts(
    slug: str,
    data: DataSource | None = None,
    *,
    image_size: int | None = None,
    reading: dict[str, Any] | None = None,
    seed: int = 0,
    options: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """How far trivial statistics get at a method's question; see `evaluation.shortcuts`."""
    settings = {**(reading or {}), **named(image_size=image_size)}
    task, dataset = sample_task(slug, data, options or {}, settings, 2048, seed)
    return [found._asdict() for found in find_shortcuts(task, dataset, seed)]


def independence(
    slugs: str | Sequence[str],
    data: DataSource | None = None,
    *,
    kernel: Kernel = "rbf",
    image_size: int | None = None,
    reading: dict[str, Any] | None = None,
    seed: int = 0,
    options: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """How far what methods hide is from independent of what they show, given the label.

    See `evaluation.independence`.

    Args:
        slugs: a method, or several.
        data: anything `open_data` takes that has labels; default the embedded set of the method's modality.
        kernel: of the regressions: `rbf` or `linear`.
        image_size: input side in pixels.
        reading: further settings of the data's reader.
        seed: of the split, the pretext's draws and the interval.
        options: the methods' constructor arguments.

    Raises:
        UsageError: the data have no labels, or a method does not say what it hides.
    """
    settings, found = {**(reading or {}), **named(image_size=image_size)}, []
    for slug in [slugs] if isinstance(slugs, str) else slugs:
        limit = min(settings.get("limit", SAMPLES), SAMPLES)
        task, dataset = sample_task(slug, data, options or {}, settings, limit, seed)
        task.prepare(whole_batches(dataset), len(dataset))
        found.append(task_independence(task, dataset, kernel, seed, slug)._asdict())
    return found


def describe_data(
    source: DataSource, *, modality: str | None = None, reading: dict[str, Any] | None = None, **settings: Any
) -> dict[str, Any]:
    """What a source holds, in plain types: modality, count, sizes, labels, what is broken."""
    given = {**(reading or {}), **named(**settings)}
    return open_data(source, modality=modality, max_broken=1.0, **given).describe()


def report(runs: str | Path | Sequence[str | Path], out: str | Path | None = None) -> Path:
    """One self-contained HTML page for a run, or for several side by side.

    Raises:
        UsageError: no run was given.
    """
    folders = [runs] if isinstance(runs, (str, Path)) else list(runs)
    if len(folders) == 1:
        return write_run_report(folders[0], out)
    return write_compare_report(out or "compare.html", None, folders)
