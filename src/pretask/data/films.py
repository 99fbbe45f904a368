"""Where videos lie: files that PyAV reads, folders of frames, arrays. A frame is found by its number."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from pretask.data.arrays import CHANNELS, Arrays
from pretask.data.formats import Broken, check_pixels, open_picture, reasons
from pretask.data.pictures import Facts, measure
from pretask.data.stores import Names, read_file
from pretask.errors import DataError, need

SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v")
FPS = 25.0  # of frames that do not say


class Film(NamedTuple):
    """What a video is.

    Args:
        frames: how many there are, as far as its header tells.
        fps: frames a second.
        facts: of its pictures.
    """

    frames: int
    fps: float
    facts: Facts

    @property
    def seconds(self) -> float:
        return self.frames / self.fps


class Films(Protocol):
    """Videos by number."""

    @property
    def names(self) -> Sequence[Any]:
        """What each is called; printed, never opened."""

    def look(self, row: int) -> Film:
        """
        Raises:
            Broken: it cannot be read.
        """

    def read(self, row: int, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Frames by number, in their order, each once, as `open_picture` takes them.

        Raises:
            Broken: it breaks off before the last of them.
        """


def look_at(path: Path) -> Film:
    """What a video file is, from its header where that tells.

    Raises:
        Broken: it cannot be read.
    """
    av = need("av", "video")
    with reasons(), av.open(str(path)) as container:
        if not container.streams.video:
            raise Broken("holds no pictures that move")
        stream = container.streams.video[0]
        check_pixels((stream.height, stream.width))
        frames = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
        if not frames:
            raise Broken("holds no frames")
        grey = str(stream.pix_fmt or "").startswith("gray")
        facts = Facts((stream.height, stream.width), 1 if grey else 3)
        return Film(frames, float(stream.average_rate or Fraction(FPS)), facts)


def read_frames(path: Path, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Frames (H, W, 3) of a video file by number, upright. Only what lies behind the key frame before the
    first of them is decoded.

    Raises:
        Broken: it cannot be read, or breaks off before the last of them.
    """
    av = need("av", "video")
    missing = set(wanted)
    with reasons(), av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
        times = sorted(packet.pts for packet in packets if packet.pts is not None)
        places = {time: number for number, time in enumerate(times)}
        timed = len(times) == len(packets) == len(places)  # else frames are counted from the first
        first = times[min(min(missing), len(times) - 1)] if timed and times else 0
        container.seek(first, stream=stream)
        for count, frame in enumerate(container.decode(stream)):
            number = places.get(frame.pts, -1) if timed else count
            if number in missing:
                missing.remove(number)
                array = frame.to_ndarray(format="rgb24")
                yield number, np.rot90(array, frame.rotation // 90) if frame.rotation % 360 else array
            if not missing:
                return
    raise Broken(f"breaks off: frame {min(missing)} is not there")


@dataclass(frozen=True)
class Files:
    """Video files.

    Args:
        root: what names are relative to.
        names: of the files.
    """

    root: Path
    names: Sequence[str]

    def look(self, row: int) -> Film:
        return look_at(self.root / self.names[row])

    def read(self, row: int, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        yield from read_frames(self.root / self.names[row], wanted)


def by_number(name: str) -> tuple[str, list[str | int]]:
    """The folder, then the file's name with its numbers as numbers."""
    folder, file = os.path.split(name)
    return folder, [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file)]


class Folders:
    """Folders of pictures, each the frames of a video in the order of their names; numbers in them count as
    numbers, 9 before 10.

    Args:
        root: what names are relative to.
        pictures: names of all pictures.
    """

    def __init__(self, root: Path, pictures: Sequence[str]):
        pictures = sorted(pictures, key=by_number)
        self.root, self.pictures = root, Names(pictures)
        folders = [str(Path(name).parent) for name in pictures]
        self.starts = [i for i, name in enumerate(folders) if i == 0 or name != folders[i - 1]]
        self.counts = np.diff([*self.starts, len(folders)]).tolist()
        self.names: Sequence[str] = [folders[i] for i in self.starts]

    def look(self, row: int) -> Film:
        return Film(self.counts[row], FPS, measure(self.picture(row, 0)))

    def read(self, row: int, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        for number in sorted(set(wanted)):
            with reasons():
                yield number, open_picture(self.picture(row, number))

    def picture(self, row: int, number: int) -> bytes:
        with reasons():
            return read_file(self.root / self.pictures[self.starts[row] + number])


class Stack:
    """Videos of equal length in one array, read where it lies.

    Args:
        array: (N, T, H, W), or with channels behind, before the pixels, or before the frames.

    Raises:
        DataError: the shape is no videos'.
    """

    def __init__(self, array: np.ndarray):
        if array.ndim == 5 and array.shape[4] not in CHANNELS and array.shape[2] not in CHANNELS:
            array = array.swapaxes(1, 2)
        if array.ndim not in (4, 5) or 0 in array.shape:
            raise DataError(
                f"an array of shape {array.shape} holds no videos; it should be (N, T, H, W), (N, T, H, W, C), "
                "(N, T, C, H, W) or (N, C, T, H, W)"
            )
        self.frames = array.shape[1]
        last = array.ndim == 4 or array.shape[4] in CHANNELS
        flat = array.reshape(-1, *array.shape[2:])
        self.arrays = Arrays(flat, None if array.ndim == 4 else array.shape[4 if last else 2])
        self.names: Sequence[int] = range(len(array))
        self.facts = self.arrays.facts()

    def look(self, row: int) -> Film:
        return Film(self.frames, FPS, self.facts)

    def read(self, row: int, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        for number in sorted(set(wanted)):
            with reasons():
                yield number, self.arrays.read(row * self.frames + number)
