"""Give an encoder back to the library it came from, with a card that says what it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pretask import __version__
from pretask.encoders.base import Encoder
from pretask.encoders.denoiser import Denoiser
from pretask.encoders.image import ConvEncoder, ImageEncoder
from pretask.encoders.lens import LensedEncoder
from pretask.encoders.weights import FILE, load_encoder, save_encoder
from pretask.errors import UsageError, need
from pretask.run import Run, write_text

Format = Literal["timm", "transformers", "diffusers", "safetensors", "onnx", "torch"]
FORMATS: tuple[Format, ...] = ("timm", "transformers", "diffusers", "safetensors", "onnx", "torch")


class Embedder(nn.Module):
    """Pictures in [0, 1] in, one vector each out: the graph that onnx and torch.export hold."""

    def __init__(self, encoder: ImageEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        return self.encoder(image).pooled


def export(reference: str | Path, out: str | Path, format: str = "timm") -> Path:
    """Write the encoder of a run for use without pretask.

    Args:
        reference: a run folder, or anything `load_encoder` takes.
        out: the folder to write into.
        format: `timm` (a folder `timm.create_model("local-dir:...")` reads), `transformers` (one that
            `AutoModel.from_pretrained` reads), `diffusers` (one that `UNet2DModel.from_pretrained` reads),
            `safetensors` (the weights with a header that rebuilds them here), `onnx`, or `torch` (a
            torch.export program).

    Raises:
        UsageError: an unknown format, or one that does not fit what is encoded.
        PretaskError: a package the format needs is missing.
    """
    if format not in FORMATS:
        raise UsageError(f"format '{format}': one of {', '.join(FORMATS)}")
    encoder = load_encoder(reference).eval().cpu()
    fitting = fits(encoder)
    if format not in fitting:
        raise UsageError(
            f"a {encoder.modality} encoder is exported as {' or '.join(fitting)}, not as {format}"
        )
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    writers: dict[str, Callable[[Any, Path], str]] = {
        "timm": write_timm, "transformers": write_transformers, "diffusers": write_diffusers,
        "safetensors": write_weights, "onnx": write_onnx, "torch": write_program,
    }  # fmt: skip
    usage = writers[format](encoder, folder)
    write_text(folder / "README.md", model_card(encoder, Path(reference), usage))
    return folder


def fits(encoder: Encoder) -> list[Format]:
    """The formats there are for an encoder; weights of any can be kept."""
    if isinstance(encoder, ImageEncoder) and type(encoder.model).__module__.startswith("pretask."):
        return ["safetensors", "onnx", "torch"]  # a network of ours, which no other library knows
    if isinstance(encoder, ImageEncoder):
        return ["diffusers" if isinstance(encoder, Denoiser) else "timm", "safetensors", "onnx", "torch"]
    return ["transformers", "safetensors"] if hasattr(encoder.model, "save_pretrained") else ["safetensors"]


def write_transformers(encoder: Encoder, folder: Path) -> str:
    encoder.model.save_pretrained(folder)
    return f'from transformers import AutoModel\n\nmodel = AutoModel.from_pretrained("{folder.resolve()}").eval()\n'


def write_diffusers(encoder: Denoiser, folder: Path) -> str:
    encoder.model.save_pretrained(folder)
    return (
        "from diffusers import UNet2DModel\n\n"
        f'model = UNet2DModel.from_pretrained("{folder.resolve()}").eval()\n'
        "noise = model(noisy, level).sample  # of pictures in [-1, 1]; learned variances stand behind it\n"
    )


def write_timm(encoder: ImageEncoder, folder: Path) -> str:
    from timm.models import save_for_hf

    if isinstance(encoder, LensedEncoder):
        alone = write_timm(encoder.inner, folder)
        return f"{alone}# without the lens before it, which timm does not know: the other formats hold both\n"
    mean, std = encoder.mean.flatten().tolist(), encoder.std.flatten().tolist()
    shape = (encoder.in_chans, encoder.image_size, encoder.image_size)
    data = {"mean": mean, "std": std, "input_size": shape, "crop_pct": 1.0}
    save_for_hf(encoder.model, str(folder), safe_serialization=True, data_config=data)
    if not small_stem(encoder):
        return (
            "import timm\n\n"
            f'model = timm.create_model("local-dir:{folder.resolve()}", pretrained=True).eval()\n'
            "config = timm.data.resolve_model_data_config(model)  # mean and std of the input\n"
        )
    kwargs = "".join(f", {key}={value!r}" for key, value in encoder.spec.kwargs.items())
    width, name = encoder.model.conv1.out_channels, encoder.spec.name
    return (
        "import timm\nfrom safetensors.torch import load_file\nfrom torch import nn\n\n"
        f'model = timm.create_model("{name}", num_classes=0, in_chans={encoder.in_chans}{kwargs})\n'
        "# the stem was made for small pictures: 3x3, stride 1, no pooling\n"
        f"model.conv1 = nn.Conv2d({encoder.in_chans}, {width}, 3, stride=1, padding=1, bias=False)\n"
        "model.maxpool = nn.Identity()\n"
        f'model.load_state_dict(load_file("{folder.resolve() / "model.safetensors"}"))\n'
        "model.eval()\n"
    )


def small_stem(encoder: ImageEncoder) -> bool:
    return isinstance(encoder, ConvEncoder) and isinstance(
        getattr(encoder.model, "maxpool", None), nn.Identity
    )


def write_weights(encoder: Encoder, folder: Path) -> str:
    save_encoder(encoder, folder / FILE)
    return f'import pretask\n\nencoder = pretask.load_encoder("{folder.resolve()}").eval()\n'


def write_onnx(encoder: ImageEncoder, folder: Path) -> str:
    need("onnx", "onnx")
    need("onnxscript", "onnx")
    file, model = folder / "encoder.onnx", Embedder(encoder).eval()
    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(
        model, (example(encoder),), file, dynamo=True, external_data=False, verbose=False,
        input_names=["image"], output_names=["embedding"], dynamic_shapes=({0: batch},),
    )  # fmt: skip
    return (
        "import onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{file.resolve()}")\n'
        '(embedding,) = session.run(None, {"image": image})  # float32 pictures in [0, 1]\n'
    )


def write_program(encoder: ImageEncoder, folder: Path) -> str:
    file = folder / "encoder.pt2"
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(Embedder(encoder).eval(), (example(encoder),), dynamic_shapes=({0: batch},))
    torch.export.save(program, file)
    return (
        "import torch\n\n"
        f'model = torch.export.load("{file.resolve()}").module()\n'
        "embedding = model(image)  # float32 pictures in [0, 1]\n"
    )


def example(encoder: ImageEncoder) -> Tensor:
    return torch.rand(2, encoder.in_chans, encoder.image_size, encoder.image_size)


def model_card(encoder: Encoder, reference: Path, usage: str) -> str:
    """What the encoder is, how it was made, what it was measured to be worth, how to load it."""
    library = "timm" if isinstance(encoder, ImageEncoder) else "pretask"
    if isinstance(encoder, Denoiser):
        library = "diffusers"
    lines = [
        "---", f"library_name: {library}", "tags: [self-supervised, pretask]", "---", "",
        f"# {encoder.name}", "", f"- input: {input_words(encoder)}",
        f"- output: {encoder.dim} features",
        f"- parameters: {sum(p.numel() for p in encoder.model.parameters()):,}",
        f"- written by pretask {__version__}",
    ]  # fmt: skip
    if (reference / "config.yaml").is_file():
        run = Run(reference)
        config = run.config
        lines += ["", "## How it was trained", "", f"- pretext: `{config['task']}`"]
        lines += [f"- {key}: `{json.dumps(config[key])}`" for key in ("options", "data", "plan", "seed")]
        lines += ["", "## What it was measured to be worth", ""]
        lines += [
            f"- {score.get('arm', 'encoder')}: {score['protocol']} {score['metric']} {score['value']:.4f} "
            f"{interval(score)}on {score.get('data', 'its data')}"
            for score in run.scores
        ] or ["Nothing was measured yet: `pretask evaluate` does."]
    return "\n".join([*lines, "", "## Use", "", "```python", usage.rstrip(), "```", ""])


def input_words(encoder: Encoder) -> str:
    """What the encoder is given."""
    if isinstance(encoder, ImageEncoder):
        return (
            f"{encoder.in_chans} x {encoder.image_size} x {encoder.image_size}, pictures in [0, 1] "
            f"normalised with mean {rounded(encoder.mean)} and std {rounded(encoder.std)}"
        )
    plain = {key: value for key, value in encoder.inputs.items() if isinstance(value, int | float | bool)}
    return f"{encoder.modality} data" + "".join(f", {key} {value}" for key, value in plain.items())


def interval(score: dict[str, Any]) -> str:
    return "" if score["low"] is None else f"[{score['low']:.4f}, {score['high']:.4f}] "


def rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.flatten().tolist()]
