"""An encoder on disk: timm's own weights in safetensors, with what rebuilds the model in the header."""

import json
import os
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pretask.encoders.image import EncoderSpec, ImageEncoder, build
from pretask.errors import PretaskError, UsageError

FILE = "encoder.safetensors"
HEADER = "pretask"


def describe(encoder: ImageEncoder) -> dict:
    """Everything `restore` needs besides the weights, as plain data."""
    return {
        "encoder": encoder.spec.to_dict(),
        "mean": encoder.mean.flatten().tolist(),
        "std": encoder.std.flatten().tolist(),
    }


def restore(description: dict) -> ImageEncoder:
    """The encoder a description stands for, with fresh weights."""
    spec = EncoderSpec(**description["encoder"])
    return build(spec, tuple(description["mean"]), tuple(description["std"]))


def save_encoder(encoder: ImageEncoder, path: Path) -> None:
    """Write the weights under timm's own names; the file appears whole or not at all."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.model.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(state, partial, metadata={HEADER: json.dumps(describe(encoder))})
    os.replace(partial, path)


def read_encoder(path: Path) -> ImageEncoder:
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
        raise PretaskError(f"{path} does not say which model it holds; use timm to load it")
    encoder = restore(json.loads(header))
    encoder.model.load_state_dict(load_file(path))
    encoder.pretrained = True
    return encoder


def load_encoder(
    reference: str | Path,
    *,
    image_size: int | None = None,
    in_chans: int = 3,
    seed: int = 0,
) -> ImageEncoder:
    """An encoder by reference.

    Args:
        reference: a run folder, an `encoder.safetensors`, `timm:NAME` (published weights), `random:NAME`
            (an untrained network) or `pixels` (the picture itself).
        image_size: input side in pixels for `timm:`, `random:` and `pixels`.
        in_chans: channels for the same.
        seed: of the random weights.

    Raises:
        UsageError: nothing is found under this reference.
    """
    import torch

    kind, colon, name = str(reference).partition(":")
    if str(reference) == "pixels":
        from pretask.encoders.pixels import PixelEncoder

        return PixelEncoder(image_size or 32, in_chans)
    if colon and kind in ("timm", "random"):
        spec = EncoderSpec(name, in_chans, image_size or 224)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build(spec, pretrained=kind == "timm")
    path = Path(reference)
    if path.is_dir() and (path / FILE).is_file():
        return read_encoder(path / FILE)
    if path.is_file():
        return read_encoder(path)
    what = "has no encoder.safetensors (is the run finished?)" if path.is_dir() else "does not exist"
    raise UsageError(f"'{reference}' {what}; give a run folder, timm:NAME, random:NAME or pixels")


def build_encoder(
    name: str,
    *,
    image_size: int = 224,
    in_chans: int = 3,
    patch_size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    pretrained: bool = False,
    seed: int | None = None,
) -> ImageEncoder:
    """A timm model as an encoder, in one call.

    Args:
        name: timm's name, keyword arguments behind a colon (`vit_tiny_patch16_224:depth=4`).
        image_size: input side in pixels.
        in_chans: input channels.
        patch_size: side of a patch, for vision transformers.
        mean: per channel, of pictures in [0, 1].
        std: per channel.
        pretrained: start from timm's published weights.
        seed: makes the initial weights reproducible without touching the global random state.
    """
    import torch

    spec = EncoderSpec(name, in_chans, image_size, patch_size)
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return build(spec, mean, std, pretrained)
