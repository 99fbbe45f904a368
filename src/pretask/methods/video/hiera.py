"""Hiera of videos: mask units of two frames are left out of clips (Ryali et al., ICML 2023).

All but what stands here is as with pictures. A token covers two frames, of which the first alone is asked for; its
values lie in the order row, column, channel, unlike a picture's: so the released models learned it.
"""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from pretask.data.batch import require
from pretask.encoders.hiera import HieraVideoEncoder
from pretask.errors import UsageError
from pretask.methods.image.hiera import UNDECAYED, Hiera, Puzzle
from pretask.objectives.reconstruction import painted, patchify
from pretask.pretexts import draw
from pretask.pretexts.clips import run, take_frames
from pretask.pretexts.views import apply_view_to_video, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Kind, Step


class HieraVideo(Hiera):
    """Rebuild the first frame of mask units of videos that a hierarchical transformer never saw.

    Where a sample is longer than the encoder's clip, the clip begins anywhere in it. In the paper a clip is every
    fourth of 64 frames (`--read frames=16 --read stride=4`).

    Unsure, because the training scripts are not released: batches, epochs, warm-up and crops are those of masked
    autoencoders of videos (Feichtenhofer et al., NeurIPS 2022), the rate is that of pictures, no block is skipped.

    Args:
        encoder: a Hiera of videos, pooling one stage less than its default (`hiera_tiny:q_pool=2`).
        mask_ratio: share of the units that is left out.
        decoder_dim: width of the decoder; none takes 512 from 768 channels on and half the encoder's below.
        decoder_depth: blocks of the decoder; none takes 8 from 768 channels on and 2 below.
        crop_scale: area of the random crop, as a share of the frame's.
    """

    encoder: HieraVideoEncoder
    kind: ClassVar[Kind] = "video"
    recipe = Recipe(
        "adamw", lr=8e-4, lr_batch=512, batch_size=512, epochs=800, weight_decay=0.05, betas=(0.9, 0.95),
        warmup=120 / 800, undecayed=UNDECAYED,
    )  # fmt: skip

    def __init__(
        self,
        encoder: HieraVideoEncoder,
        mask_ratio: float = 0.9,
        decoder_dim: int | None = None,
        decoder_depth: int | None = None,
        crop_scale: tuple[float, float] = (0.5, 1.0),
    ):
        if not isinstance(encoder, HieraVideoEncoder):
            raise UsageError(
                "hiera-video needs a Hiera of videos, for instance --encoder hiera_tiny:q_pool=2"
            )
        super().__init__(encoder, mask_ratio, decoder_dim, decoder_depth, crop_scale)

    def look(self, batch: Batch, step: Step) -> Float[Tensor, "batch chans frames h w"]:
        """As many frames as the encoder reads, each in the same view."""
        video, length = require(batch, "video", 5), self.encoder.frames
        count, spare = len(video), video.shape[2] - length
        if spare < 0:
            raise UsageError(
                f"the encoder reads {length} frames and the videos have {video.shape[2]}: read more (--read "
                f"frames={length}) or let it read fewer (hiera_tiny:frames=...)"
            )
        start = draw.integers(spare + 1, (count,), step.generator)
        view = draw_view(self.view, count, step.generator, batch.get("size"))
        return apply_view_to_video(self.view, take_frames(video, run(start, length)), view)

    def patches(
        self, pixels: Float[Tensor, "batch chans frames h w"]
    ) -> Float[Tensor, "batch places values"]:
        """The pixels of every place's first frame, in the order row, column, channel."""
        first = pixels[:, :, :: self.encoder.tubelet].transpose(1, 2)  # (B, times, C, H, W)
        return patchify(first.flatten(0, 1), self.encoder.token).unflatten(0, first.shape[:2]).flatten(1, 2)

    def paint(self, puzzle: Puzzle, values: Tensor) -> Float[Tensor, "batch chans frames h w"]:
        """The clip with these (normalised) pixels at the places asked for, in all frames of a token."""
        encoder, mean, std = self.encoder, self.encoder.mean.flatten(), self.encoder.std.flatten()
        colours = values.unflatten(2, (-1, encoder.in_chans)) * std + mean
        times, rows, columns = encoder.grid

        def each_frame(places: Tensor) -> Tensor:
            return places.unflatten(1, (times, -1)).repeat_interleave(encoder.tubelet, 1).flatten(0, 1)

        frames = puzzle.pixels.transpose(1, 2)
        where, filling = each_frame(self.asked(puzzle)), each_frame(colours.flatten(2))
        full = painted(frames.flatten(0, 1), where, filling, encoder.token, (rows, columns))
        return full.unflatten(0, frames.shape[:2]).transpose(1, 2)
