"""Networks that read videos, with one face: clips in [0, 1] in, `Features` out."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.data.batch import require, to_float
from pretask.encoders.base import Encoder, split_name
from pretask.encoders.features import Features
from pretask.encoders.video_nets import C3D, MAKERS, S3D, ResNet, Size, published
from pretask.errors import UsageError
from pretask.pretexts.views import centre_view
from pretask.task import Batch

KINETICS_MEAN, KINETICS_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
MOMENTS, RAW_SIDE = 8, 16  # of a video, for the data themselves as features


class VideoEncoder(Encoder):
    """A network that reads videos. Normalisation lives here: the input is frames in [0, 1].

    Args:
        model: the network.
        name: what `build` was given.
        in_chans: channels of the frames.
        image_size: side of the frames in pixels.
        frames: of a clip.

    Attributes:
        statistics: mean and standard deviation of frames of three channels, as published weights saw them.
    """

    modality: ClassVar[str] = "video"
    statistics: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]] = KINETICS_MEAN, KINETICS_STD
    at_once = 32
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, name: str, in_chans: int, image_size: int, frames: int):
        super().__init__()
        self.model, self.name = model, name
        self.inputs = {"in_chans": in_chans, "image_size": image_size}
        self.in_chans, self.image_size, self.frames = in_chans, image_size, frames
        self.dim: int = model.num_features
        three = in_chans == 3
        for key, values, grey in zip(("mean", "std"), self.statistics, (0.5, 0.25), strict=True):
            tensor = torch.tensor(values if three else (grey,) * in_chans).view(-1, 1, 1, 1)
            self.register_buffer(key, tensor, persistent=False)

    @property
    def reading(self) -> dict[str, Any]:
        return {"image_size": self.image_size, "channels": self.in_chans}

    def normalise(
        self, video: Float[Tensor, "batch chans frames h w"]
    ) -> Float[Tensor, "batch chans frames h w"]:
        """Frames in [0, 1] as the network was built to see them.

        Raises:
            UsageError: they have another number of channels.
        """
        if video.shape[1] != self.in_chans:
            raise UsageError(
                f"the encoder takes {self.in_chans} channels and was given videos of {video.shape[1]}"
            )
        return (video - self.mean) / self.std

    def seen(self, batch: Batch) -> Float[Tensor, "batch chans frames side side"]:
        """The middle square of each frame of a batch's videos."""
        video = to_float(require(batch, "video", 5))
        flat = centre_view(video.flatten(1, 2), batch.get("size"), self.image_size)
        return flat.unflatten(1, video.shape[1:3])

    def check_size(self, video: Float[Tensor, "batch chans frames h w"]) -> None:
        """For networks that read one size only.

        Raises:
            UsageError: another number of frames or pixels.
        """
        if video.shape[2:] != (self.frames, self.image_size, self.image_size):
            raise UsageError(
                f"the encoder reads {self.frames} frames of {self.image_size} pixels, not {video.shape[2]} of "
                f"{video.shape[3]}"
            )

    def encode(self, batch: Batch) -> Features:
        """Of each video the mean over as many clips as fit behind each other."""
        video = self.seen(batch)
        length = min(self.frames, video.shape[2])
        clips = video[:, :, : video.shape[2] // length * length].unflatten(2, (-1, length))
        number = clips.shape[2]
        found = self(clips.transpose(1, 2).flatten(0, 1))
        tokens = found.tokens.unflatten(0, (-1, number)).flatten(1, 2)
        grid = (number * found.grid[0], *found.grid[1:])
        return Features(found.pooled.unflatten(0, (-1, number)).mean(1), tokens, tokens[:, :0], grid)


class ConvVideoEncoder(VideoEncoder):
    """A convolutional network over time: R3D, MC3, R(2+1)D, S3D, C3D. The pooled feature is the mean over time
    and space."""

    def forward(self, video: Float[Tensor, "batch chans frames h w"]) -> Features:
        video = self.normalise(video).contiguous(
            memory_format=torch.channels_last_3d
        )  # as tensor cores like it
        maps = self.model(video)
        tokens = maps.flatten(2).transpose(1, 2)
        return Features(maps.mean((2, 3, 4)), tokens, tokens[:, :0], tuple(maps.shape[2:]))


class RawVideo(VideoEncoder):
    """Small pictures of a few moments of a video: the data themselves as features."""

    def __init__(self, in_chans: int, image_size: int):
        model: Any = nn.Identity()
        model.num_features = in_chans * MOMENTS * RAW_SIDE**2
        super().__init__(model, "raw", in_chans, image_size, MOMENTS)

    def forward(self, video: Float[Tensor, "batch chans frames h w"]) -> Features:
        places = torch.linspace(0, video.shape[2] - 1, MOMENTS, device=video.device).round().long()
        some = video[:, :, places].flatten(1, 2)
        small = F.interpolate(some, (RAW_SIDE, RAW_SIDE), mode="bilinear", antialias=True)
        tokens = small.unflatten(1, (-1, MOMENTS)).flatten(2).transpose(1, 2)
        return Features(small.flatten(1), tokens, tokens[:, :0], (MOMENTS, RAW_SIDE, RAW_SIDE))

    def encode(self, batch: Batch) -> Features:
        return self(self.seen(batch))


def build(
    name: str, in_chans: int = 3, image_size: int = 112, pretrained: bool = False, **_: Any
) -> VideoEncoder:
    """`r3d_18`, `mc3_18`, `r2plus1d_18`, `c3d` or `s3d` with any of `Size`'s arguments behind a colon;
    `space_time_vit` with `space_time.Shape`'s; a Hiera of `hiera.SIZES` with timm's; or `raw`.

    Args:
        name: of the network.
        in_chans: channels of the frames.
        image_size: side of the frames in pixels.
        pretrained: start from torchvision's weights, a transformer from a masked autoencoder's of pictures (needs
            them in the local cache or a network).

    Raises:
        UsageError: there is no such encoder, or it cannot take these arguments.
    """
    plain, given = split_name(name)
    if plain == "raw":
        return RawVideo(in_chans, image_size)
    if plain == "space_time_vit":
        from pretask.encoders.space_time import build_space_time

        return build_space_time(name, given, in_chans, image_size, pretrained)
    if plain.startswith("hiera"):
        from pretask.encoders.hiera import build_hiera_video

        return build_hiera_video(name, given, in_chans, image_size, pretrained)
    known = ("frames",) if plain == "s3d" else ("width", "frames") if plain == "c3d" else Size._fields
    if plain not in (*MAKERS, "c3d", "s3d") or given.keys() - set(known):
        raise UsageError(
            f"'{name}': videos are read by {', '.join(MAKERS)}, c3d, s3d, space_time_vit, hiera_tiny ... or raw "
            f"(behind a colon: {', '.join(known)})"
        )
    layers = given.get("layers", Size().layers)
    numbers = [*layers, *(given[key] for key in ("width", "frames") if key in given)]
    if len(layers) != 4 or any(type(value) is not int or value < 1 for value in numbers):
        raise UsageError(f"encoder '{name}': whole numbers from 1 are needed, of layers four")
    size = Size(**{**given, "layers": tuple(layers)})
    if plain == "c3d":
        model: nn.Module = C3D(size, in_chans)
    else:
        model = S3D(in_chans) if plain == "s3d" else ResNet(plain, size, in_chans)
    encoder = ConvVideoEncoder(model, name, in_chans, image_size, size.frames)
    if pretrained:
        if plain == "c3d" or in_chans != 3 or given.keys() - {"frames"}:
            raise UsageError(f"there are no published weights of '{name}' with {in_chans} channels")
        published(plain, model)
        encoder.pretrained = True
    return encoder
