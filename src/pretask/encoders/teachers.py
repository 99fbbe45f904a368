"""Frozen image encoders to learn from: features of each place, of the whole picture, of chosen blocks.

A teacher stands beside the task that asks it, not in it: its weights are no part of the task's state, so
checkpoints stay small and no optimiser sees them. Whoever builds the task again names the same teacher.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.encoders.features import Features
from pretask.encoders.image import ImageEncoder, PatchEncoder
from pretask.encoders.weights import load_encoder
from pretask.errors import PretaskError, UsageError, need

Grid = tuple[int, int]
Places = Float[Tensor, "batch places dim"]


class Teacher(nn.Module):
    """A frozen network with one face: pictures in [0, 1] of any size in, `Features` on one grid out.

    Args:
        network: what is asked; it stays in evaluation mode and goes where the teacher goes.
        dim: width of the features of a place.
        image_size: height and width the network sees.
        grid: rows and columns of places it is asked for; features on another grid are resampled.
        mean: per channel, of pictures in [0, 1].
        std: per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        dim: int,
        image_size: Grid,
        grid: Grid,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        super().__init__()
        self.held = (network.requires_grad_(False).eval(),)  # in a tuple: no child, no state
        self.dim, self.image_size, self.grid = dim, image_size, grid
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Teacher:
        super()._apply(fn, recurse)
        self.held[0]._apply(fn)
        return self

    @property
    def network(self) -> Any:
        return self.held[0]

    def see(self, image: Float[Tensor, "batch chans h w"]) -> Float[Tensor, "batch own_chans rows columns"]:
        """Pictures as the network was built to see them; grey ones in all its channels.

        Raises:
            UsageError: they have another number of channels.
        """
        chans = len(self.mean)
        if image.shape[1] not in (1, chans):
            raise UsageError(f"the teacher takes {chans} channels and was given {image.shape[1]}")
        image = image.expand(-1, chans, -1, -1)
        if tuple(image.shape[-2:]) != self.image_size:
            image = F.interpolate(image, self.image_size, mode="bicubic", antialias=True).clamp(0, 1)
        return (image - self.mean) / self.std

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "batch chans h w"]) -> Features:
        """The last features, as the network gives them to whatever is built on it."""
        features = self.read(self.see(image))
        tokens = on_grid(features.tokens, (features.grid[0], features.grid[1]), self.grid)
        return Features(features.pooled, tokens, features.prefix, self.grid)

    @torch.no_grad()
    def taps(
        self, image: Float[Tensor, "batch chans h w"], blocks: Sequence[int], norm: bool = True
    ) -> list[Places]:
        """Features of each place after these blocks, counted from 0, without class and register tokens.

        Args:
            image: pictures in [0, 1].
            blocks: which, in rising order; of a network without blocks its stages.
            norm: pass each through the network's last normalisation.
        """
        found = self.read_taps(self.see(image), list(blocks), norm)
        return [on_grid(tokens, grid, self.grid) for tokens, grid in found]

    def read(self, image: Tensor) -> Features:
        raise NotImplementedError

    def read_taps(self, image: Tensor, blocks: list[int], norm: bool) -> list[tuple[Places, Grid]]:
        raise NotImplementedError


def on_grid(tokens: Places, own: Grid, wanted: Grid) -> Places:
    """The features of places that lie on one grid, resampled to another."""
    if own == wanted:
        return tokens
    maps = tokens.transpose(1, 2).unflatten(2, own)
    maps = F.interpolate(maps, wanted, mode="bilinear", align_corners=False, antialias=True)
    return maps.flatten(2).transpose(1, 2)


class OwnTeacher(Teacher):
    """An encoder of this library: one of our runs, or any timm model."""

    def __init__(self, encoder: ImageEncoder, image_size: Grid, grid: Grid):
        mean, std = encoder.mean.flatten().tolist(), encoder.std.flatten().tolist()
        with torch.no_grad():
            dim = encoder.eval()(torch.zeros(1, encoder.in_chans, *image_size)).tokens.shape[2]
        super().__init__(encoder, dim, image_size, grid, mean, std)

    def read(self, image: Tensor) -> Features:
        return self.network(image * self.std + self.mean)  # the encoder normalises itself

    def read_taps(self, image: Tensor, blocks: list[int], norm: bool) -> list[tuple[Places, Grid]]:
        model = self.network.model
        if not hasattr(model, "forward_intermediates"):
            raise UsageError(f"{type(model).__name__} does not give the features of its blocks")
        maps = model.forward_intermediates(image, indices=blocks, norm=norm, intermediates_only=True)
        return [(part.flatten(2).transpose(1, 2), (part.shape[2], part.shape[3])) for part in maps]


class OpenClipTeacher(Teacher):
    """The image tower of an open_clip model: patches through the last norm and the projection, as EVA
    (Fang et al., CVPR 2023) asks CLIP."""

    def project(self, tokens: Tensor) -> Tensor:
        visual = self.network
        tokens = visual.ln_post(tokens)
        return tokens if visual.proj is None else tokens @ visual.proj

    def read(self, image: Tensor) -> Features:
        visual = self.network
        x = visual.transformer(visual._embeds(image))
        pooled = visual._pool(x)[0]
        tokens = self.project(x)
        own = (image.shape[2] // visual.patch_size[0], image.shape[3] // visual.patch_size[1])
        return Features(
            pooled if visual.proj is None else pooled @ visual.proj, tokens[:, 1:], tokens[:, :1], own
        )

    def read_taps(self, image: Tensor, blocks: list[int], norm: bool) -> list[tuple[Places, Grid]]:
        found = self.network.forward_intermediates(
            image, indices=blocks, normalize_intermediates=norm, intermediates_only=True
        )
        return [
            (part.flatten(2).transpose(1, 2), (part.shape[2], part.shape[3]))
            for part in found["image_intermediates"]
        ]


class TransformersTeacher(Teacher):
    """An image model of transformers (CLIP, SigLIP, DINOv2, ViT, BEiT ...); CLIP's patches go through the
    last norm and the projection."""

    def __init__(self, model: nn.Module, image_size: Grid, grid: Grid, mean: Any, std: Any):
        vision = getattr(model, "vision_model", model)
        config: Any = vision.config
        projection = getattr(model, "visual_projection", None)
        dim = config.hidden_size if projection is None else projection.out_features
        super().__init__(model, dim, image_size, grid, mean, std)
        self.patch = int(config.patch_size)
        names = [name for name, _ in vision.named_modules() if name.rpartition(".")[2] in FINAL_NORMS]
        self.norm_name = min(names, key=lambda name: name.count("."), default="")
        self.resampled = (image_size[0], image_size[1]) != (config.image_size, config.image_size)

    @property
    def vision(self) -> Any:
        return getattr(self.network, "vision_model", self.network)

    def ask(self, image: Tensor, **wanted: bool) -> Any:
        if self.resampled and "interpolate_pos_encoding" in inspect.signature(self.vision.forward).parameters:
            wanted["interpolate_pos_encoding"] = True
        return self.vision(pixel_values=image, return_dict=True, **wanted)

    def split(self, tokens: Tensor, image: Tensor) -> tuple[Tensor, Places, Grid]:
        """Class and register tokens, places, and the places' grid."""
        own = (image.shape[2] // self.patch, image.shape[3] // self.patch)
        prefix = tokens.shape[1] - own[0] * own[1]
        return tokens[:, :prefix], tokens[:, prefix:], own

    def normed(self, tokens: Tensor) -> Tensor:
        return self.vision.get_submodule(self.norm_name)(tokens) if self.norm_name else tokens

    def read(self, image: Tensor) -> Features:
        out = self.ask(image)
        tokens, pooled = out.last_hidden_state, getattr(out, "pooler_output", None)
        projection = getattr(self.network, "visual_projection", None)
        if projection is not None:  # CLIP's: the last state is not normalised yet
            tokens, pooled = projection(self.normed(tokens)), projection(pooled)
        prefix, places, own = self.split(tokens, image)
        if pooled is None:
            pooled = prefix[:, 0] if prefix.shape[1] else places.mean(1)
        return Features(pooled, places, prefix, own)

    def read_taps(self, image: Tensor, blocks: list[int], norm: bool) -> list[tuple[Places, Grid]]:
        states = self.ask(image, output_hidden_states=True).hidden_states[1:]  # the first are the embeddings
        chosen = [self.normed(states[block]) if norm else states[block] for block in blocks]
        return [self.split(tokens, image)[1:] for tokens in chosen]


FINAL_NORMS = ("post_layernorm", "layernorm", "norm")


def load_teacher(reference: str, grid: Grid, in_chans: int = 3) -> Teacher:
    """A frozen encoder by reference.

    Args:
        reference: `open_clip:MODEL@WEIGHTS` (a published tag, or a safetensors file; a file of OpenAI's
            weights needs a model such as `ViT-L-14-quickgelu`, which a tag brings about by itself),
            `transformers:NAME` (on the hub, or a folder), `timm:NAME` (published weights),
            `timm:NAME@FILE` (a safetensors file), `random:NAME`, a run folder or an
            `encoder.safetensors`.
        grid: rows and columns of places that will be asked for; a transformer is shown pictures so large
            that its patches lie on this grid.
        in_chans: channels of the pictures, for `random:`.

    Raises:
        UsageError: nothing is found under this reference.
        PretaskError: the weights do not fit, or a package is missing.
    """
    kind, _, name = reference.partition(":")
    if kind == "open_clip":
        return from_open_clip(*name.partition("@")[::2], grid)
    if kind == "transformers":
        return from_transformers(name, grid)
    if kind in ("timm", "random"):
        return from_timm(kind, *name.partition("@")[::2], grid, in_chans)
    encoder = load_encoder(reference)
    if not isinstance(encoder, ImageEncoder):
        raise UsageError(f"'{reference}' encodes {encoder.modality} data; a teacher of pictures is needed")
    side = (encoder.image_size,) * 2
    if type(encoder) is PatchEncoder:  # others know one size only
        side = (grid[0] * encoder.patch_size, grid[1] * encoder.patch_size)
    return OwnTeacher(encoder, side, grid)


def weights_file(name: str) -> Path:
    """
    Raises:
        UsageError: there is no such file, or it would have to be unpickled.
    """
    path = Path(name)
    if not path.is_file() or path.suffix != ".safetensors":
        raise UsageError(f"'{name}' is not a safetensors file that is there; nothing else is read")
    return path


def from_timm(kind: str, name: str, weights: str, grid: Grid, in_chans: int) -> Teacher:
    import timm
    from safetensors.torch import load_file

    found = re.search(r"patch(\d+)", name)
    patch = int(found.group(1)) if found else None
    known = timm.models.get_pretrained_cfg(name.partition(":")[0]) if kind == "timm" else None
    inputs: dict[str, Any] = {"in_chans": 3 if kind == "timm" else in_chans, "patch_size": patch}
    size = (grid[0] * patch, grid[1] * patch) if patch else (known.input_size[1:] if known else (224, 224))
    if known is not None:
        inputs |= {"mean": known.mean, "std": known.std}
    source = f"random:{name}" if weights else f"{kind}:{name}"
    encoder: Any = load_encoder(source, image_size=size[0], **inputs)
    if weights:
        state = load_file(weights_file(weights))
        spare = str((known.classifier if known else None) or "head") + "."
        own = encoder.model.state_dict()
        state = {key: value for key, value in state.items() if key in own or not key.startswith(spare)}
        try:
            encoder.model.load_state_dict(state)
        except RuntimeError as error:
            raise PretaskError(
                f"{weights} does not fit {name}: {' '.join(str(error).split())[:300]}"
            ) from error
    return OwnTeacher(encoder, size, grid)


def from_open_clip(name: str, weights: str, grid: Grid) -> Teacher:
    open_clip = need("open_clip", "teachers")
    config = open_clip.get_model_config(name)
    patch = (config or {}).get("vision_cfg", {}).get("patch_size")
    if patch is None:
        raise UsageError(f"open_clip has no vision transformer '{name}'; `open_clip.list_models()` lists all")
    if not weights:
        raise UsageError(f"open_clip:{name} needs weights behind an @: a published tag or a safetensors file")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights not in tags:
        weights_file(weights)
    size = (grid[0] * patch, grid[1] * patch)
    # OpenAI's weights learned with a quick GELU under names of exact ones, of which open_clip merely warns
    quick = weights in tags and open_clip.get_pretrained_cfg(name, weights).get("quick_gelu", False)
    model = open_clip.create_model(name, pretrained=weights, force_image_size=size, force_quick_gelu=quick)
    visual = model.visual
    dim = visual.output_dim if visual.proj is not None else visual.ln_post.normalized_shape[0]
    return OpenClipTeacher(visual, dim, size, grid, visual.image_mean, visual.image_std)


def from_transformers(name: str, grid: Grid) -> Teacher:
    transformers = need("transformers", "teachers")
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name)
        model = transformers.AutoModel.from_pretrained(name, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"transformers:{name}: {' '.join(str(error).split())[:300]}") from error
    config = getattr(model.config, "vision_config", model.config)
    if not isinstance(getattr(config, "patch_size", None), int):
        raise UsageError(f"transformers:{name} is no vision transformer")
    size = (grid[0] * config.patch_size, grid[1] * config.patch_size)
    return TransformersTeacher(model, size, grid, processor.image_mean, processor.image_std)
