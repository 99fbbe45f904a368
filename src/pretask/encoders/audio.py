"""Sound as constant-Q spectra, and ChromaNet, which reads the key of music from them (STONE, S-KEY)."""

from __future__ import annotations

from math import floor, log2
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.data.batch import require
from pretask.encoders.base import Encoder, split_name
from pretask.encoders.features import Features
from pretask.errors import UsageError
from pretask.pretexts.audio import (
    OCTAVE,
    constant_q,
    constant_q_kernels,
    decibels,
    octave_pooled,
    peak_normalised,
)
from pretask.task import Batch

BINS, HEIGHT, LOWEST, REACH = 99, 84, 27.5, 80.0
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
"""How well each class fits a key, from its tonic on (Krumhansl & Kessler, 1982)."""


class Size(NamedTuple):
    """ChromaNet's size; the arguments behind its name.

    Args:
        channels: of each stage; a stage halves time.
        kernels: side of each stage's depthwise kernel.
        modes: 2 tells major from minor (24 classes), 1 key signatures alone (12; STONE's network).
        hop: samples between two frames.
        drop_path: chance that a residual branch is left out while training.
        batch_norm: normalise the two modes over the batch, so that none takes all; one mode alone never is.
    """

    channels: tuple[int, ...] = (2, 3, 40, 40, 30, 10, 3)
    kernels: tuple[int, ...] = (7, 7, 7, 7, 7, 5, 5)
    modes: int = 2
    hop: int = 512
    drop_path: float = 0.1
    batch_norm: bool = True


class ItemNorm(nn.Module):
    """Layer normalisation over all of an item: channels, bins and frames; nothing is learned."""

    def forward(
        self, x: Float[Tensor, "items chans bins frames"]
    ) -> Float[Tensor, "items chans bins frames"]:
        return F.layer_norm(x, x.shape[1:])


class FrameNorm(nn.Module):
    """Layer normalisation over bins and channels of each frame, with a weight and a bias for each.

    Args:
        chans: channels.
    """

    def __init__(self, chans: int):
        super().__init__()
        self.norm = nn.LayerNorm((HEIGHT, chans))

    def forward(
        self, x: Float[Tensor, "items chans bins frames"]
    ) -> Float[Tensor, "items chans bins frames"]:
        return self.norm(x.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)


class Stage(nn.Module):
    """Time halved, then a ConvNeXt block (Liu et al., CVPR 2022) with replicated borders.

    Args:
        before: channels that come in.
        chans: channels that go out.
        kernel: side of the depthwise convolution.
        whole: normalise over all of an item, else each frame.
    """

    def __init__(self, before: int, chans: int, kernel: int, whole: bool):
        super().__init__()
        self.norm_before, self.norm = (ItemNorm() if whole else FrameNorm(count) for count in (before, chans))
        self.halve = nn.Conv2d(before, chans, (1, 2), (1, 2))
        self.depthwise = nn.Conv2d(
            chans, chans, kernel, padding=kernel // 2, padding_mode="replicate", groups=chans
        )
        self.wide, self.narrow = nn.Linear(chans, 4 * chans), nn.Linear(4 * chans, chans)
        self.scale = nn.Parameter(torch.full((chans,), 0.1))

    def forward(
        self, x: Float[Tensor, "items chans bins frames"], kept: Float[Tensor, "items"] | None
    ) -> Float[Tensor, "items chans bins frames"]:
        x = F.gelu(self.halve(self.norm_before(x)))
        branch = self.norm(self.depthwise(x)).permute(0, 2, 3, 1)
        branch = (self.narrow(F.gelu(self.wide(branch))) * self.scale).permute(0, 3, 1, 2)
        return x + (branch if kept is None else branch * kept[:, None, None, None])


class ChromaNet(nn.Module):
    """The network of STONE (12 classes) and S-KEY (24): equivariant to transposition up to its borders.

    Weights start as torch's layers do (unsure).

    Args:
        size: of the network.
    """

    def __init__(self, size: Size):
        super().__init__()
        before = (1, *size.channels[:-1])
        self.stages = nn.ModuleList(
            Stage(*shape, whole=size.modes == 2)
            for shape in zip(before, size.channels, size.kernels, strict=True)
        )
        self.head = nn.Conv2d(size.channels[-1], size.modes, 1)
        both = size.batch_norm and size.modes == 2
        self.norm = nn.BatchNorm2d(size.modes, affine=False) if both else nn.Identity()

    def moments(
        self, crop: Float[Tensor, "items 84 frames"], kept: Float[Tensor, "items stages"] | None = None
    ) -> Float[Tensor, "items modes 12 moments"]:
        """What is said at each moment, before normalisation; the mean over moments is what counts.

        Args:
            crop: seven octaves.
            kept: factor on each stage's residual branch; None keeps all as they are.
        """
        x = crop[:, None]
        for number, stage in enumerate(self.stages):
            x = stage(x, None if kept is None else kept[:, number])
        with torch.autocast(x.device.type, enabled=False):  # the rest is small, and a batch's statistics
            return self.head(octave_pooled(x.to(self.head.weight.dtype)))

    def logits(self, moments: Float[Tensor, "items modes 12 moments"]) -> Float[Tensor, "items classes"]:
        """Of the keys: the first mode's 12, then the second's."""
        with torch.autocast(moments.device.type, enabled=False):
            return self.norm(moments.mean(3, keepdim=True)).flatten(1)

    def forward(
        self, crop: Float[Tensor, "items 84 frames"], kept: Float[Tensor, "items stages"] | None = None
    ) -> Float[Tensor, "items classes"]:
        """Probabilities of the keys, which sum to 1."""
        return self.logits(self.moments(crop, kept)).softmax(1)


class AudioEncoder(Encoder):
    """Sound, seen as levels of semitones over time: a constant-Q spectrum in decibels, 0 to 1 for the upper 80.

    Args:
        model: the network.
        name: what `build` was given.
        rate: samples a second.
        bins: semitones from 27.5 Hz on.
        hop: samples between frames.
        dim: width of the features.
    """

    modality: ClassVar[str] = "audio"
    at_once = 32

    def __init__(self, model: nn.Module, name: str, rate: int, bins: int, hop: int, dim: int):
        super().__init__()
        self.model, self.name, self.inputs = model, name, {"rate": rate}
        self.rate, self.bins, self.hop, self.dim = rate, bins, hop, dim
        kernels = constant_q_kernels(rate, bins, LOWEST)
        self.octaves = len(kernels)
        for number, kernel in enumerate(kernels):
            self.register_buffer(f"kernel{number}", kernel, persistent=False)

    @property
    def reading(self) -> dict[str, Any]:
        return self.inputs

    @torch.no_grad()
    def magnitudes(self, audio: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch bins frames"]:
        """The constant-Q transform of each recording, whose peak is made 1 before. What is shorter than half the
        longest window has silence behind it."""
        kernels = [getattr(self, f"kernel{number}") for number in range(self.octaves)]
        short = kernels[0].shape[1] // 2 + 1 - audio.shape[1]
        audio = F.pad(peak_normalised(audio.float()), (0, max(short, 0)))
        with torch.autocast(audio.device.type, enabled=False):  # 80 decibels are more than bfloat16 has
            return constant_q(audio, kernels, self.hop)

    def spectrum(self, audio: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch bins frames"]:
        """The upper 80 decibels; 10 log10 of *magnitudes*, as the authors' code has it."""
        return decibels(self.magnitudes(audio), REACH) / REACH + 1

    def forward(self, audio: Float[Tensor, "batch samples"]) -> Features:
        raise NotImplementedError

    def profile(self, audio: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch classes"]:
        """How much speaks for each of 24 keys, or of 12 signatures; which is which, calibration tells."""
        raise NotImplementedError

    def encode(self, batch: Batch) -> Features:
        return self(require(batch, "audio", 2))


class KeyEncoder(AudioEncoder):
    """ChromaNet behind its spectrum. `pooled` are the logits of the keys, `tokens` what is said at each moment.

    Args:
        size: of the network.
        name: what `build` was given.
        rate: samples a second.
    """

    def __init__(self, size: Size, name: str, rate: int):
        super().__init__(ChromaNet(size), name, rate, BINS, size.hop, OCTAVE * size.modes)
        self.size = size

    @property
    def shortest(self) -> int:
        """Samples of the shortest recording that halving time leaves something of."""
        return (2 ** len(self.size.channels) - 1) * self.hop

    def forward(self, audio: Float[Tensor, "batch samples"]) -> Features:
        """
        Raises:
            UsageError: the recordings are too short.
        """
        if audio.shape[1] < self.shortest:
            raise UsageError(
                f"the encoder reads at least {self.shortest / self.rate:.2f} s of sound, not "
                f"{audio.shape[1] / self.rate:.2f}: read longer pieces (seconds), or let it have a smaller hop"
            )
        moments = self.model.moments(self.spectrum(audio)[:, :HEIGHT])
        tokens = moments.flatten(1, 2).transpose(1, 2)
        return Features(self.model.logits(moments), tokens, tokens[:, :0], (tokens.shape[1],))

    def profile(self, audio: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch classes"]:
        return self(audio).pooled.softmax(1)


class RawAudio(AudioEncoder):
    """The mean level of each semitone as features. Its profile is the likeness of the power of pitch classes, from 55
    Hz on, to Krumhansl's of each key: template matching.

    Args:
        rate: samples a second; there are as many semitones as it holds.
    """

    def __init__(self, rate: int):
        bins = min(BINS, floor(OCTAVE * log2(rate / 2 / LOWEST)))
        super().__init__(nn.Identity(), "raw", rate, bins, 512, bins)
        keys = torch.tensor([[scale[(q - tonic) % OCTAVE] for q in range(OCTAVE)]
                             for scale in (MAJOR, MINOR) for tonic in range(OCTAVE)])  # fmt: skip
        self.register_buffer("keys", keys, persistent=False)

    def forward(self, audio: Float[Tensor, "batch samples"]) -> Features:
        tokens = self.spectrum(audio).transpose(1, 2)
        return Features(tokens.mean(1), tokens, tokens[:, :0], (tokens.shape[1],))

    def profile(self, audio: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch classes"]:
        power = self.magnitudes(audio)[:, OCTAVE : self.bins // OCTAVE * OCTAVE].square()
        chroma, keys = octave_pooled(power).mean(2), torch.as_tensor(self.keys)
        centred = [x - x.mean(1, keepdim=True) for x in (chroma, keys)]
        return F.normalize(centred[0], dim=1) @ F.normalize(centred[1], dim=1).T


def build(name: str, rate: int = 22050, **_: Any) -> AudioEncoder:
    """`chromanet` with any of `Size`'s arguments behind a colon, or `raw`.

    Raises:
        UsageError: there is no such encoder, or it cannot take these arguments or this rate.
    """
    plain, given = split_name(name)
    if plain == "raw":
        return RawAudio(rate)
    if plain != "chromanet" or given.keys() - set(Size._fields):
        known = ", ".join(Size._fields)
        raise UsageError(f"'{name}': sound is read by chromanet (behind a colon: {known}) or raw")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    size = Size(**given)
    if size.modes not in (1, 2) or len(size.channels) != len(size.kernels) or not size.channels:
        raise UsageError(f"encoder '{name}': modes is 1 or 2, and channels and kernels have an entry a stage")
    if any(kernel % 2 == 0 for kernel in size.kernels):
        raise UsageError(f"encoder '{name}': kernels are odd")
    if rate / 2 <= LOWEST * 2 ** ((BINS - 1) / OCTAVE):
        raise UsageError(f"chromanet hears up to 7902 Hz: read the data with rate=16000 or more, not {rate}")
    return KeyEncoder(size, name, rate)
