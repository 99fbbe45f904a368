"""Frames of videos on one canvas, held in memory, decoded or drawn; and clips of them as samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pretask.data import moving
from pretask.data.decode import threads
from pretask.data.films import Films, Stack
from pretask.data.formats import Broken
from pretask.data.pictures import Canvas
from pretask.data.stores import Opener

Seen = tuple[Tensor, Int[Tensor, "batch 2"], dict[int, str]]


class Footage(Protocol):
    """Frames of videos by number, on one canvas."""

    in_memory: bool

    def frames(self, film: Int[Tensor, "batch"], number: Int[Tensor, "batch frames"]) -> Seen:
        """(B, C, T, S, S), the heights and widths the videos have, and by place what could not be read."""


class Held:
    """All frames in memory, those of a video behind each other.

    Args:
        pixels: of all frames.
        first: of each video, the place of its frame 0.
        size: of each video, its height and width.
    """

    in_memory = True

    def __init__(self, pixels: Tensor, first: Int[Tensor, "films"], size: Int[Tensor, "films 2"]):
        self.pixels, self.first, self.size = pixels, first, size

    def frames(self, film: Int[Tensor, "batch"], number: Int[Tensor, "batch frames"]) -> Seen:
        places = (self.first[film][:, None] + number).flatten()
        found = self.pixels.index_select(0, places).unflatten(0, tuple(number.shape))
        return found.transpose(1, 2).contiguous(), self.size[film], {}


class Decoded:
    """Frames that are decoded when they are asked for, each process with threads of its own.

    Args:
        films: where they lie.
        canvas: what each frame is made into.
    """

    in_memory = False

    def __init__(self, films: Films, canvas: Canvas):
        self.films, self.canvas, self.opener = films, canvas, Opener()

    def frames(self, film: Int[Tensor, "batch"], number: Int[Tensor, "batch frames"]) -> Seen:
        shape = (len(film), number.shape[1], self.canvas.channels, self.canvas.side, self.canvas.side)
        pixels, size = torch.zeros(shape, dtype=self.canvas.dtype), torch.ones(len(film), 2, dtype=torch.long)
        broken: dict[int, str] = {}

        def one(place: int) -> None:
            slots: dict[int, list[int]] = {}
            for slot, wanted in enumerate(number[place].tolist()):
                slots.setdefault(wanted, []).append(slot)
            try:
                for found, raw in self.films.read(int(film[place]), list(slots)):
                    array, true = self.canvas.decode(raw)
                    pixels[place, slots[found]] = torch.from_numpy(np.ascontiguousarray(array))
                    size[place] = torch.tensor(true)
            except Broken as error:
                broken[place] = str(error)

        worker = torch.utils.data.get_worker_info() is not None  # then there are other processes to decode
        pool = self.opener.get(lambda: ThreadPoolExecutor(1 if worker else threads()))
        list(pool.map(one, range(len(film))))
        return pixels.transpose(1, 2).contiguous(), size, broken


class Drawn:
    """Frames of made-up scenes, drawn when they are asked for.

    Args:
        scenes: what happens in each.
        length: frames of each.
        side: of the picture.
    """

    in_memory = True  # there is nothing to wait for

    def __init__(self, scenes: moving.Scenes, length: int, side: int):
        self.scenes, self.length, self.side = scenes, length, side

    def frames(self, film: Int[Tensor, "batch"], number: Int[Tensor, "batch frames"]) -> Seen:
        time = (number + 0.5) / self.length
        video = moving.render(self.scenes.rows(film), time, self.side)
        return video, torch.full((len(film), 2), self.side), {}


class Clips:
    """Windows of videos as samples.

    Args:
        footage: gives the frames.
        names: of the videos.
        film: of each sample, its video.
        start: of each sample, its first frame.
        frames: of a sample.
        stride: from one of its frames to the next.
    """

    def __init__(
        self, footage: Footage, names: Sequence[Any], film: Tensor, start: Tensor, frames: int, stride: int
    ):
        self.footage, self.names, self.film, self.start = footage, names, film, start
        self.step, self.in_memory = torch.arange(frames) * stride, footage.in_memory

    def __len__(self) -> int:
        return len(self.film)

    def name(self, row: int) -> str:
        return str(self.names[int(self.film[row])])

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]:
        video, size, broken = self.footage.frames(self.film[rows], self.start[rows][:, None] + self.step)
        return {"video": video, "size": size}, {int(rows[place]): why for place, why in broken.items()}


def hold(films: Films, counts: Mapping[int, int], canvas: Canvas) -> tuple[Held, dict[int, tuple[int, str]]]:
    """Decode whole videos into memory, a thread a core.

    Args:
        films: where they lie.
        counts: by row the frames a video should have.
        canvas: what each frame is made into.

    Returns:
        The frames; and by row the videos that break off, with how many of their frames there are and why.
    """
    total, many = sum(counts.values()), len(films.names)
    first, size = torch.zeros(many, dtype=torch.long), torch.ones(many, 2, dtype=torch.long)
    rows = torch.tensor(list(counts))
    first[rows] = torch.tensor(list(counts.values())).cumsum(0) - torch.tensor(list(counts.values()))
    if isinstance(films, Stack):
        return hold_stack(films, rows, first, canvas)
    pixels = torch.zeros(total, canvas.channels, canvas.side, canvas.side, dtype=canvas.dtype)
    short: dict[int, tuple[int, str]] = {}

    def one(row: int) -> None:
        there = 0
        try:
            for number, raw in films.read(row, range(counts[row])):
                array, true = canvas.decode(raw)
                pixels[first[row] + number] = torch.from_numpy(np.ascontiguousarray(array))
                size[row], there = torch.tensor(true), there + 1
        except Broken as error:
            short[row] = there, str(error)

    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(one, counts))
    return Held(pixels, first, size), short


def hold_stack(
    films: Stack, rows: Int[Tensor, "films"], first: Int[Tensor, "all"], canvas: Canvas
) -> tuple[Held, dict[int, tuple[int, str]]]:
    """The same of an array, many frames at a time."""
    frames = (rows[:, None] * films.frames + torch.arange(films.frames)).flatten()
    columns, broken = films.arrays.load(canvas, frames.tolist())
    short: dict[int, tuple[int, str]] = {}
    for place in sorted(broken):
        short.setdefault(place // films.frames, (place % films.frames, broken[place]))
    size = columns["size"][:1].repeat(len(first), 1)
    return Held(columns["image"], first, size), short
