"""Frozen features of a whole data set, in the view every protocol judges."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.encoders.features import Features
from pretask.errors import PretaskError, UsageError
from pretask.task import Batch

if TYPE_CHECKING:
    from pretask.data import Dataset

Pool = Literal["token", "avg", "token+avg"]
Precision = Literal["32", "bf16"]
SAMPLED = 64  # samples whose content stands for a data set's


def as_pool(text: str | None) -> Pool | None:
    """A way of pooling by name.

    Raises:
        UsageError: there is none of this name.
    """
    for pool in get_args(Pool):
        if pool == text:
            return pool
    if text is None:
        return None
    raise UsageError(f"pool must be {', '.join(get_args(Pool))}, not '{text}'")


def pooled(features: Features, pool: Pool | None) -> Float[Tensor, "batch dim"]:
    """One vector a sample.

    Raises:
        UsageError: a class token is asked of an encoder without one.
    """
    if pool is None:
        return features.pooled
    if pool != "avg" and features.prefix.shape[1] == 0:
        raise UsageError(f"pool '{pool}' needs a class token and this encoder has none: use 'avg'")
    parts = {"token": lambda: features.prefix[:, 0], "avg": lambda: features.tokens.mean(1)}
    return torch.cat([parts[part]() for part in pool.split("+")], dim=1)


def pick_device(encoder: nn.Module, device: torch.device | str | None) -> tuple[torch.device, torch.device]:
    """Where the encoder lives, and where it shall work: as told, else at home unless there is a GPU."""
    home = next((tensor.device for tensor in encoder.state_dict().values()), torch.device("cpu"))
    if device is None:
        device = "cuda" if home.type == "cpu" and torch.cuda.is_available() else home
    return home, torch.device(device)


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {key: value.to(device) if hasattr(value, "to") else value for key, value in batch.items()}


@contextlib.contextmanager
def frozen(encoder: nn.Module, device: torch.device | str | None = None) -> Iterator[torch.device]:
    """The encoder in evaluation mode, without gradients, on a device; afterwards everything as it was."""
    modes = {module: module.training for module in encoder.modules()}
    home, place = pick_device(encoder, device)
    encoder.to(place).eval()
    try:
        with torch.no_grad():
            yield place
    finally:
        encoder.to(home)
        for module, training in modes.items():
            module.training = training


def compute(
    encoder: Any,
    dataset: Dataset,
    batch_size: int,
    device: torch.device | str | None,
    pool: Pool | None,
    precision: Precision,
) -> Float[Tensor, "items dim"]:
    found = []
    batch_size = min(batch_size, getattr(encoder, "at_once", None) or batch_size)
    with frozen(encoder, device) as place, torch.autocast(place.type, torch.bfloat16, precision == "bf16"):
        for rows in torch.arange(len(dataset)).split(len(dataset) if dataset.connected else batch_size):
            batch = to_device(dataset.batch(rows), place)
            found.append(pooled(encoder.encode(batch), pool).float().cpu())
    features = torch.cat(found)
    if not features.isfinite().all():
        bad = int((~features.isfinite().all(1)).sum())
        raise PretaskError(
            f"the encoder gives features that are not finite for {bad} of {len(features)} samples: "
            "did its training diverge?"
        )
    return features


def weights_hash(encoder: nn.Module) -> str:
    """Names an encoder by its architecture and every weight."""
    digest = hashlib.sha256(repr(encoder).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def data_hash(dataset: Dataset) -> str:
    """Names a data set by its description, labels and the content of samples spread over it."""
    digest = hashlib.sha256(json.dumps(dataset.describe(), sort_keys=True, default=str).encode())
    if dataset.labels is not None:
        digest.update(dataset.labels.numpy().data)
    rows = torch.linspace(0, len(dataset) - 1, min(SAMPLED, len(dataset))).long()
    for key, value in sorted(dataset.batch(rows).items()):
        inside = value.to_dict().values() if hasattr(value, "to_dict") else [value]  # a graph's tensors
        for tensor in (part for part in inside if isinstance(part, Tensor)):
            digest.update(key.encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def extract(
    encoder: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    pool: Pool | None = None,
    precision: Precision = "32",
    cache: str | Path | None = None,
) -> tuple[Float[Tensor, "items dim"], Int[Tensor, "items"] | None]:
    """Features of every sample and the labels, if there are any.

    Args:
        encoder: is put into evaluation mode meanwhile.
        dataset: what to encode; pictures are seen through `centre_view`.
        batch_size: samples at once.
        device: default the encoder's own, or the GPU if there is one.
        pool: `token`, `avg` or `token+avg`; None takes what the encoder gives.
        precision: `bf16` is faster on GPUs.
        cache: a folder that keeps features, one file for each (weights, data, pool).

    Raises:
        PretaskError: features are not finite.
        UsageError: no samples, or no class token where one is asked for.
    """
    if len(dataset) == 0:
        raise UsageError("there is nothing to evaluate on: the data set is empty")
    if cache is None:
        return compute(encoder, dataset, batch_size, device, pool, precision), dataset.labels
    from safetensors.torch import load_file, save_file

    key = f"{weights_hash(encoder)} {data_hash(dataset)} {pool} {precision}"
    path = Path(cache) / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
    if path.is_file():
        return load_file(path)["features"], dataset.labels
    features = compute(encoder, dataset, batch_size, device, pool, precision)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    save_file({"features": features.contiguous()}, partial)
    os.replace(partial, path)
    return features, dataset.labels
