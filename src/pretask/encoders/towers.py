"""Several encoders side by side, one a kind of data, and a space they share: for samples with video, text, sound."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask import modalities
from pretask.encoders.base import Encoder
from pretask.encoders.features import Features
from pretask.encoders.image import IMAGENET_MEAN, ImageEncoder
from pretask.errors import UsageError
from pretask.pretexts.text import read_texts
from pretask.task import Batch

SHARED = 256  # width of the space all towers share
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TOLD = {
    "video": ("in_chans", "image_size"),
    "image": ("in_chans", "image_size"),
    "text": ("tokenizer", "max_length"),
    "audio": ("rate",),
}
"""By kind of data: what its encoder must be told of a data set."""


class Towers(Encoder):
    """Encoders by kind of data, the first of which is judged where one is; a linear head behind each leads to a space
    in which vectors of one sample shall be near. Text is read by the token that stands for the whole of it, and
    rectified before its head.

    Args:
        towers: by kind of data.
        name: what `build` was given.
        inputs: what `build` was told of the data.
    """

    modality: ClassVar[str] = "multimodal"

    def __init__(self, towers: dict[str, Encoder], name: str, inputs: dict[str, Any]):
        super().__init__()
        self.name, self.inputs, self.kinds = name, inputs, tuple(towers)
        self.dim: int = towers[self.kinds[0]].dim
        self.at_once = min((tower.at_once for tower in towers.values() if tower.at_once), default=None)
        heads = nn.ModuleDict({kind: nn.Linear(tower.dim, SHARED) for kind, tower in towers.items()})
        self.model = nn.ModuleDict({"towers": nn.ModuleDict(towers), "heads": heads})

    @property
    def reading(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for kind in self.kinds:
            found |= self.tower(kind).reading
        return found

    def tower(self, kind: str) -> Any:
        """The encoder of a kind of data.

        Raises:
            UsageError: there is none.
        """
        if kind not in self.kinds:
            raise UsageError(
                f"the encoder reads {', '.join(self.kinds)} and no {kind}: name one of each, such as "
                "'video=space_time_vit;text=distilbert'"
            )
        return self.model["towers"][kind]

    def shared(self, kind: str, pooled: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch shared"]:
        """Pooled features of a tower in the space that all share."""
        return self.model["heads"][kind](F.relu(pooled) if kind == "text" else pooled)

    def read_texts(self, batch: Batch) -> Float[Tensor, "texts batch dim"]:
        """Of each text of each sample the token that stands for it, all first texts before all second ones."""
        tower = self.tower("text")
        tokens, attention = read_texts(batch)
        found = tower(tokens.transpose(0, 1).flatten(0, 1), attention.transpose(0, 1).flatten(0, 1))
        whole = found.prefix[:, 0] if found.prefix.shape[1] else found.pooled
        return whole.unflatten(0, (tokens.shape[1], -1))

    def encode(self, batch: Batch) -> Features:
        """What the first tower says."""
        kind = self.kinds[0]
        if kind != "text":
            return self.tower(kind).encode(batch)
        whole = self.read_texts(batch).mean(0)
        return Features(whole, whole[:, None], whole[:, None][:, :0], (1,))

    def embed(self, batch: Batch, kind: str) -> Float[Tensor, "batch shared"]:
        """A sample's vector in the shared space by one kind of data; several texts count as their mean."""
        if kind == "text":
            return self.shared("text", self.read_texts(batch)).mean(0)
        return self.shared(kind, self.tower(kind).encode(batch).pooled)


class PictureTowers(Towers):
    """An encoder of pictures and one of captions, joined as CLIP (Radford et al., ICML 2021) joins them: by linear
    maps without bias, and nothing between."""

    modality: ClassVar[str] = "captioned"

    def __init__(self, towers: dict[str, Encoder], name: str, inputs: dict[str, Any]):
        super().__init__(towers, name, inputs)
        for kind, tower in towers.items():
            self.model["heads"][kind] = nn.Linear(tower.dim, SHARED, bias=False)
            nn.init.normal_(self.model["heads"][kind].weight, std=tower.dim**-0.5)

    @property
    def reading(self) -> dict[str, Any]:
        told = {"in_chans": "channels", "image_size": "image_size"}
        return super().reading | {told[key]: value for key, value in self.inputs.items() if key in told}

    def shared(self, kind: str, pooled: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch shared"]:
        return self.model["heads"][kind](pooled)


def see_as_clip(tower: ImageEncoder) -> None:
    """Pictures by CLIP's mean and deviation, where the encoder has ImageNet's for want of its own."""
    if tower.mean.flatten().tolist() == torch.tensor(IMAGENET_MEAN).tolist():
        tower.mean.copy_(torch.tensor(CLIP_MEAN).view(-1, 1, 1))
        tower.std.copy_(torch.tensor(CLIP_STD).view(-1, 1, 1))


def build(name: str, pretrained: bool = False, **inputs: Any) -> Towers:
    """Encoders by kind of data with semicolons between them, `video=space_time_vit:depth=4;text=distilbert`; or
    `raw`, the videos (or texts) themselves. Untrained encoders of pictures see them normalised as CLIP does.

    Args:
        name: of them.
        pretrained: start all of them from published weights.
        inputs: what the data are, a data set's `inputs`.

    Raises:
        UsageError: one of them is not there, or the data have nothing for it.
    """
    if name == "raw":
        name = f"{next(kind for kind in TOLD if set(TOLD[kind]) <= inputs.keys())}=raw"
    towers: dict[str, Encoder] = {}
    for part in name.split(";"):
        kind, sign, own = part.strip().partition("=")
        if not sign or kind not in TOLD:
            raise UsageError(
                f"encoder '{name}': KIND=ENCODER;KIND=ENCODER is expected, with kinds of {', '.join(TOLD)}"
            )
        missing = [key for key in TOLD[kind] if key not in inputs]
        if missing:
            raise UsageError(f"encoder '{name}': the data have no {kind} to read (nothing says {missing[0]})")
        told = {key: inputs[key] for key in TOLD[kind]} | ({"pretrained": True} if pretrained else {})
        towers[kind] = modalities.load(modalities.find(kind).encoders)(own, **told)
        if kind == "image" and not pretrained:
            see_as_clip(towers[kind])  # type: ignore[arg-type]
    built = (PictureTowers if "image" in towers else Towers)(towers, name, inputs)
    built.pretrained = all(tower.pretrained for tower in towers.values())
    return built


def build_captioned(name: str, pretrained: bool = False, **inputs: Any) -> Towers:
    """As `build`; `raw` is the pictures themselves."""
    return build("image=raw" if name == "raw" else name, pretrained, **inputs)
