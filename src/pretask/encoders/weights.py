"""An encoder on disk: its library's own weights in safetensors, and in the header what rebuilds the model."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pretask import modalities
from pretask.encoders.base import Encoder
from pretask.errors import PretaskError, UsageError

FILE = "encoder.safetensors"
HEADER = "pretask"


def build_encoder(name: str, modality: str = "image", *, seed: int | None = None, **inputs: Any) -> Encoder:
    """An encoder by the name its library knows it by.

    Args:
        name: timm's name for pictures, arguments behind a colon (`vit_tiny_patch16_224:depth=4`); `raw` for
            the data themselves as features.
        modality: what it encodes.
        seed: makes the initial weights reproducible without touching the global random state.
        inputs: what the data are: a data set's `inputs`; for pictures `image_size`, `in_chans`,
            `patch_size`, `pool`, `mean`, `std` and `pretrained` (`encoders.image.build_for`).

    Raises:
        UsageError: there is no such model, or it cannot take these arguments.
    """
    build = modalities.load(modalities.find(modality).encoders)
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return build(name, **inputs)


def restore(description: dict[str, Any]) -> Encoder:
    """The encoder that `Encoder.describe` describes, with fresh weights."""
    return build_encoder(description["name"], description["modality"], **description["inputs"])


def save_encoder(encoder: Encoder, path: Path) -> None:
    """Write the weights under their library's own names; the file appears whole or not at all."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.model.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(state, partial, metadata={HEADER: json.dumps(encoder.describe())})
    os.replace(partial, path)


def read_encoder(path: Path) -> Encoder:
    """The encoder in a file written by `save_encoder`.

    Raises:
        PretaskError: the file is not one of ours or is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get(HEADER)
    except Exception as error:
        raise PretaskError(f"{path} cannot be read as safetensors: {error}") from error
    if header is None:
        raise PretaskError(f"{path} does not say which model it holds; use its own library to load it")
    encoder = restore(json.loads(header))
    encoder.model.load_state_dict(load_file(path))
    encoder.pretrained = True
    return encoder


def load_encoder(reference: str | Path, modality: str = "image", *, seed: int = 0, **inputs: Any) -> Encoder:
    """An encoder by reference.

    Args:
        reference: a run folder, an `encoder.safetensors`, `timm:NAME` (published weights), `random:NAME`
            (an untrained network) or `pixels` (or `raw`: the data themselves).
        modality: what a named one encodes.
        seed: of the random weights.
        inputs: what the data are, for a named one: a data set's `inputs`.

    Raises:
        UsageError: nothing is found under this reference.
    """
    kind, colon, name = str(reference).partition(":")
    if str(reference) in ("pixels", "raw"):
        return build_encoder("raw", modality, **inputs)
    if colon and kind == "random":
        return build_encoder(name, modality, seed=seed, **inputs)
    if colon and kind == "timm":
        return build_encoder(name, modality, pretrained=True, **inputs)
    path = Path(reference)
    if path.is_dir() and (path / FILE).is_file():
        return read_encoder(path / FILE)
    if path.is_file():
        return read_encoder(path)
    what = "has no encoder.safetensors (is the run finished?)" if path.is_dir() else "does not exist"
    raise UsageError(f"'{reference}' {what}; give a run folder, timm:NAME, random:NAME or pixels")
