"""The commands as Python functions. Every command of the command line is one call here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from pretask import __version__, catalog, config
from pretask.data import Dataset, open_data
from pretask.encoders import EncoderSpec, ImageEncoder, load_encoder, save_encoder
from pretask.encoders.image import build
from pretask.encoders.weights import describe
from pretask.errors import UsageError
from pretask.export import Format
from pretask.export import export as export_encoder
from pretask.registry import build_task
from pretask.run import Run
from pretask.task import PretextTask, Step

if TYPE_CHECKING:
    import numpy as np

    DataSource = str | Path | Dataset | np.ndarray | torch.Tensor | torch.utils.data.Dataset

DEFAULT_DATA = {"image": "digits-on-textures"}


def default_data(slugs: str) -> str:
    """The embedded data set of a method's modality."""
    modality = catalog.find(slugs.split("+")[0]).modality
    if modality not in DEFAULT_DATA:
        raise UsageError(f"{slugs} learns from {modality} data and none are embedded: give --data")
    return DEFAULT_DATA[modality]


def default_encoder(slugs: Sequence[str]) -> str:
    """The encoder that fits all of these methods: a vision transformer if any of them needs patches."""
    rows = [catalog.find(slug) for name in slugs for slug in name.split("+")]
    return next((row.encoder for row in rows if row.needs == "patches"), rows[0].encoder)


def check_encoder(slugs: str, encoder: ImageEncoder) -> None:
    """Refuse a convolutional encoder where a method needs patches.

    Raises:
        UsageError: the encoder does not fit.
    """
    for slug in slugs.split("+"):
        if catalog.find(slug).needs == "patches" and not hasattr(encoder, "num_patches"):
            raise UsageError(f"{slug} needs a vision transformer; '{encoder.spec.name}' has no patches to drop")


def make_encoder(
    name: str | ImageEncoder,
    dataset: Dataset,
    *,
    patch_size: int | None = None,
    init: str | Path | None = None,
    seed: int = 0,
) -> ImageEncoder:
    """A fresh encoder for these data, or the one `init` names.

    Three-channel pictures are normalised with ImageNet's statistics, others with their own.
    """
    if isinstance(name, ImageEncoder):
        return name
    if init is not None:
        return load_encoder(init, image_size=dataset.image_size, in_chans=dataset.channels)
    mean, std = (None, None) if dataset.channels == 3 else dataset.channel_stats()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(EncoderSpec(name, dataset.channels, dataset.image_size, patch_size), mean, std)


def train(
    task: str | PretextTask | None,
    data: DataSource | None = None,
    encoder: str | ImageEncoder | None = None,
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
        encoder: a timm model's name, or an encoder; default the method's.
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
        init: a run folder, or `timm:NAME`, to start from.
        precision: as Lightning names them; `auto` is 32-true on CPU and bf16-mixed on GPU.
        devices: devices a node.
        nodes: how many nodes.
        strategy: as Lightning names them.
        compile: torch.compile the encoder.
        seed: of weights, batches and pretexts.
        checkpoint_every: steps between checkpoints.
        workers: decoding processes when data do not fit in memory.
        loggers: `tensorboard`; metrics.csv is always written.
        resume: continue the run in `out`.
        overwrite: delete the run in `out` first.
        evaluate: measure the encoder, an untrained one and raw pixels at the end.

    Raises:
        UsageError: something asked for does not exist or does not fit.
    """
    from pretask.training.loop import fit
    from pretask.training.plan import make_plan

    settings: dict[str, Any] = {}
    if resume and out is not None and (Path(out) / "config.yaml").is_file():
        settings = Run(out).config
        task, data = task or settings["task"], data or settings["data"]["source"]
    if task is None:
        raise UsageError("which method? `pretask list` shows them")
    slug = task if isinstance(task, str) else type(task).__name__.lower()
    if isinstance(task, str):
        for name in task.split("+"):
            catalog.find(name)
    dataset = open_data(data or default_data(slug), image_size=image_size, channels=channels, workers=workers)
    train_set = dataset.split("train") or dataset
    if isinstance(task, str):
        model = make_encoder(
            encoder or default_encoder([task]), train_set, patch_size=patch_size, init=init, seed=seed
        )
        check_encoder(task, model)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            task = build_task(task, model, options)
    raise NotImplementedError(fit, make_plan)
