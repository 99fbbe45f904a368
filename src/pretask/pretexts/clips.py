"""Clips of videos, whole and with a portion cut out. Frames are found by number, a row a sample."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from pretask.errors import UsageError
from pretask.pretexts import draw


class Break(NamedTuple):
    """Where a whole clip begins, and where a broken one does and what it lacks; one row a sample.

    Args:
        whole: first frame of the whole clip.
        start: first frame of the broken clip.
        place: frames of the broken clip before the break.
        removed: frames that are cut out there.
    """

    whole: Int[Tensor, "batch"]
    start: Int[Tensor, "batch"]
    place: Int[Tensor, "batch"]
    removed: Int[Tensor, "batch"]

    def to(self, device: torch.device | str) -> Break:
        return Break(*(value.to(device) for value in self))


def draw_breaks(
    frames: int, length: int, removed: tuple[int, int], margin: int, batch: int, generator: torch.Generator
) -> Break:
    """Both clips begin anywhere with the same probabilities: where a clip lies must not tell if it is broken.

    Args:
        frames: of the videos.
        length: of a clip.
        removed: the fewest and the most frames that are cut out.
        margin: frames of the broken clip on either side of the break, at least.
        batch: samples.
        generator: the randomness.

    Raises:
        UsageError: the videos are shorter than a broken clip with what it lacks.
    """
    least, most = removed
    if frames < length + most:
        raise UsageError(
            f"a clip of {length} frames with {most} cut out needs videos of {length + most}, and these have "
            f"{frames}: read longer ones (--read frames={2 * length + most}) or take shorter clips"
        )
    starts = draw.integers(frames - length - most + 1, (batch, 2), generator)
    place = margin + draw.integers(length - 2 * margin + 1, (batch,), generator)
    cut = least + draw.integers(most - least + 1, (batch,), generator)
    return Break(starts[:, 0], starts[:, 1], place, cut)


def run(start: Int[Tensor, "batch"], length: int) -> Int[Tensor, "batch length"]:
    """Frames that follow each other."""
    return start[:, None] + torch.arange(length, device=start.device)


def broken(cut: Break, length: int) -> Int[Tensor, "batch length"]:
    """The frames of a clip from the midst of which some are cut out, its ends joined."""
    step = torch.arange(length, device=cut.start.device)
    behind = step >= cut.place[:, None]
    return cut.start[:, None] + step + behind * cut.removed[:, None]


def missing(cut: Break, length: int) -> Int[Tensor, "batch length"]:
    """The frames that were cut out, brought to so many: all of them in their order where there are as many, else
    those nearest to the middles of equal parts."""
    step = torch.arange(length, device=cut.start.device) + 0.5
    inside = (step * cut.removed[:, None] / length).floor().long()
    return (cut.start + cut.place)[:, None] + inside


def take_frames(video: Tensor, numbers: Int[Tensor, "batch length"]) -> Tensor:
    """The frames with these numbers of each video (B, C, T, H, W)."""
    sample = torch.arange(len(video), device=video.device)[:, None]
    return video.transpose(1, 2)[sample, numbers.to(video.device)].transpose(1, 2)


def draw_frames(
    frames: int, wanted: int, batch: int, generator: torch.Generator
) -> Int[Tensor, "batch wanted"]:
    """One frame, anywhere, of each of so many equal parts of a video.

    Raises:
        UsageError: there are fewer frames than parts.
    """
    if frames < wanted:
        raise UsageError(f"{wanted} frames are to be drawn and the videos have {frames}: read more (frames)")
    place = torch.arange(wanted, device=generator.device) + draw.uniform((batch, wanted), generator)
    return (place * frames / wanted).long().clamp(max=frames - 1)


def draw_visible(
    times: int, places: int, kept: int, batch: int, generator: torch.Generator
) -> Int[Tensor, "batch times*kept"]:
    """So many random places of each time, others at each, numbered time by time."""
    own = draw.uniform((batch, times, places), generator).argsort(dim=2)[:, :, :kept]
    return (own + places * torch.arange(times, device=own.device)[:, None]).flatten(1)
