"""Videos, whatever they lie in, as a data set of clips with equally many frames."""

from __future__ import annotations

import logging
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pretask.data.arrays import CLASSES, LABELS, by_split
from pretask.data.dataset import Dataset, Skipped, check_broken, name_skipped, part_of, spread
from pretask.data.decode import PROBED, memory_budget, threads
from pretask.data.films import SUFFIXES, Files, Film, Films, Folders, Stack
from pretask.data.footage import Clips, Decoded, Drawn, Footage, hold
from pretask.data.formats import EXTENSIONS, Broken
from pretask.data.gather import Cache, chosen, fifth
from pretask.data.images import MOST_WORKERS, Wishes, choose_canvas, default_side
from pretask.data.layout import empty, encode_labels, read_layout, sift, walk
from pretask.data.moving import MOTIONS, draw_scenes, sprites
from pretask.data.pictures import Canvas
from pretask.errors import DataError, UsageError

log = logging.getLogger("pretask.data")

SIDE = 112  # pixels at most where nobody says: the side of C3D's and R3D's input
EMBEDDED_SIDE, EMBEDDED_FRAMES = 32, 48
VIDEOS = ("video", "videos", "x", "X", "data", "arr_0")
ACCEPTED = (
    f"accepted are video files ({' '.join(SUFFIXES)}), folders of them (in class folders or not, below "
    "train/val/test or not), folders of frames, .npz, .npy, arrays, and the embedded moving-digits"
)


class Window(NamedTuple):
    """How samples are cut from videos.

    Args:
        frames: of a sample.
        stride: from one of its frames to the next.
        hop: from one sample's first frame to the next one's.
    """

    frames: int
    stride: int
    hop: int

    @property
    def reach(self) -> int:
        """Frames of the video from a sample's first to its last."""
        return (self.frames - 1) * self.stride + 1

    def cut(self, counts: dict[int, int]) -> tuple[Int[Tensor, "samples"], Int[Tensor, "samples"]]:
        """The video and the first frame of each sample of videos with so many frames."""
        begins = {row: torch.arange(0, count - self.reach + 1, self.hop) for row, count in counts.items()}
        which = [torch.full_like(begin, row) for row, begin in begins.items()]
        return torch.cat(which), torch.cat(list(begins.values()))


class Found(NamedTuple):
    """Videos not yet decoded.

    Args:
        name: for people.
        films: where they lie.
        parts: for each the place of its split in `part_names`, or -1.
        part_names: the splits there are.
        targets: for each its class, or -1.
        classes: their names.
    """

    name: str
    films: Films
    parts: Int[Tensor, "films"] | None = None
    part_names: tuple[str, ...] = ()
    targets: Int[Tensor, "films"] | None = None
    classes: list[str] | None = None


def open_video(
    source: Any,
    *,
    split: str | None = None,
    limit: int | None = None,
    max_broken: float = 0.2,
    workers: int | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    cache: Cache = "auto",
    frames: int = 48,
    stride: int = 1,
    hop: int | None = None,
    label: str = "motion",
) -> Dataset:
    """Clips of videos: files, a folder of them or of folders of frames, arrays, or `moving-digits`.

    The batch has `video` (B, C, frames, S, S) on a square canvas, and `size`, the videos' true height and width.

    Args:
        source: what `docs/data.md` lists.
        split: only this part (`train`, `val` or `test`) of what the source itself splits.
        limit: at most so many samples, spread evenly over the source.
        max_broken: the largest share of unreadable or too short videos that is put up with.
        workers: processes that decode what is not in memory; default one a core, at most 8.
        image_size: side in pixels that encoders shall take; default from the videos, at most 112.
        channels: of the frames; default 3 if any video has colour, else 1.
        cache: `memory` decodes everything now, `never` when asked for, `auto` by the memory that is free.
        frames: of a sample.
        stride: of a video every so-many-th frame is taken.
        hop: frames of the video from the beginning of one sample to the next one's; default so many that samples
            do not overlap. What is left at the end of a video is in no sample.
        label: what the classes of `moving-digits` are: `motion` or `digit`.

    Raises:
        DataError: there is nothing, too much is broken, or no video is long enough.
        UsageError: a split that is not there, or a number that makes no sense.
    """
    window = Window(frames, stride, frames * stride if hop is None else hop)
    if min(window) < 1:
        raise UsageError(f"frames, stride and hop must be at least 1, not {frames}, {stride} and {hop}")
    if str(source) == "moving-digits":
        dataset = moving_digits(image_size or EMBEDDED_SIDE, channels or 3, window, label)
        dataset = dataset if split is None else part_of(dataset, split)
        return dataset if limit is None else dataset.subset(spread(len(dataset), limit))
    wishes = Wishes(image_size, channels, max_broken, cache, workers)
    dataset = clips_of(find_films(source), window, wishes, split, limit)
    return dataset if split is None else part_of(dataset, split)


def clips_of(found: Found, window: Window, wishes: Wishes, split: str | None, limit: int | None) -> Dataset:
    """Clips of the videos of a source, in memory if all their frames fit.

    Raises:
        DataError: too many videos are broken or too short.
    """
    films, skipped = survey(found.films, window)
    check_broken(found.name, skipped, len(found.films.names), wishes.max_broken if films else 0)
    which, start = window.cut({row: film.frames for row, film in films.items()})
    if (tested := fifth(found, which)) is not None:
        found = found._replace(parts=tested, part_names=("train", "test"))
    rows = chosen(found, which, split, limit)
    side, canvas = canvas_for(list(films.values()), wishes.image_size, wishes.channels)
    needed = {row: films[row].frames for row in which[rows].unique().tolist()}
    footage, short = footage_of(found.films, needed, canvas, wishes.cache)
    last = {row: there - window.reach for row, (there, _) in short.items()}
    skipped += [
        Skipped(str(found.films.names[row]), why) for row, (_, why) in sorted(short.items()) if last[row] < 0
    ]
    check_broken(found.name, skipped, len(found.films.names), wishes.max_broken)
    whole = [int(start[row]) <= last.get(int(which[row]), int(start[row])) for row in rows.tolist()]
    dataset = Dataset(
        Clips(footage, found.films.names, which, start, window.frames, window.stride), found.name,
        modality="video", inputs={"in_chans": canvas.channels, "image_size": side},
        rows=rows[torch.tensor(whole)], targets=None if found.targets is None else found.targets[which],
        classes=found.classes, parts=None if found.parts is None else found.parts[which],
        part_names=found.part_names, skipped=skipped, max_broken=wishes.max_broken,
        workers=min(threads(), MOST_WORKERS) if wishes.workers is None else wishes.workers,
        facts=what_is_there(films, canvas, window, footage),
    )  # fmt: skip
    log.info("%s: %d samples, %s", found.name, len(dataset), dataset.facts["memory"])
    name_skipped(found.name, skipped, "video")
    return dataset


def moving_digits(side: int, channels: int, window: Window, label: str) -> Dataset:
    """A thousand made-up videos of a digit that does one of ten things.

    Raises:
        UsageError: other channels, classes or longer clips are asked for than there are.
    """
    if label not in ("motion", "digit"):
        raise UsageError(f"moving-digits is labelled by motion or digit, not by '{label}'")
    if channels != 3 or window.reach > EMBEDDED_FRAMES:
        raise UsageError(
            f"moving-digits has 3 channels and {EMBEDDED_FRAMES} frames, not {channels} and {window.reach}"
        )
    scenes, names = draw_scenes(1, seed=0)
    digits = sprites()[1][scenes.digit[:, 0]]
    which, start = window.cut(dict.fromkeys(range(len(names)), EMBEDDED_FRAMES))
    targets, classes = (
        (scenes.motion[:, 0], list(MOTIONS)) if label == "motion" else (digits, [str(k) for k in range(10)])
    )
    parts = torch.tensor([("train", "test").index(name) for name in names])
    clips = Clips(
        Drawn(scenes, EMBEDDED_FRAMES, side), range(len(names)), which, start, window.frames, window.stride
    )
    return Dataset(
        clips, "moving-digits", modality="video", inputs={"in_chans": 3, "image_size": side},
        targets=targets[which], classes=classes, parts=parts[which], part_names=("train", "test"),
        facts={"frames": said(window), "memory": "drawn when needed"},
    )  # fmt: skip


def find_films(source: Any) -> Found:
    """Where the videos of a source lie.

    Raises:
        DataError: it is not there, or holds no videos.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        return from_arrays("arrays", {"all": (source, None)})
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], (np.ndarray, Tensor)):
        return from_arrays("arrays", {"all": source})
    if not isinstance(source, (str, os.PathLike)):
        raise DataError(f"{type(source).__name__} objects are no videos; {ACCEPTED}")
    path = Path(source).expanduser()
    if path.is_dir():
        names = sorted(walk(path))
        videos = [name for name in names if name.lower().endswith(SUFFIXES)]
        if videos:
            return Found(str(path), Files(path, videos), *read_layout(videos))
        pictures, others = sift(names, EXTENSIONS)
        if not pictures:
            raise empty(path, "videos", SUFFIXES, others, ACCEPTED)
        folders = Folders(path, pictures)
        return Found(str(path), folders, *read_layout(folders.names))
    if not path.is_file():
        raise DataError(f"there is no '{source}'; {ACCEPTED}")
    if path.suffix.lower() in SUFFIXES:
        return Found(str(path), Files(path.parent, [path.name]))
    if path.suffix.lower() not in (".npz", ".npy"):
        raise DataError(f"{path}: a file of type '{path.suffix}' is no set of videos; {ACCEPTED}")
    return from_file(path)


def from_file(path: Path) -> Found:
    """An `.npy`, or an `.npz` with videos and perhaps classes, also by split (`train_videos`, `y_test`).

    Raises:
        DataError: it cannot be read, or nothing in it is called like videos.
    """
    try:
        if path.suffix.lower() == ".npy":
            return from_arrays(path.stem, {"all": (np.load(path, allow_pickle=False, mmap_mode="r"), None)})
        with np.load(path, allow_pickle=False) as file:
            there = list(file.files)
            videos, labels = by_split(there, VIDEOS), by_split(there, LABELS)
            parts = {
                part: (file[key], file[labels[part]] if part in labels else None)
                for part, key in videos.items()
            }
            names = next((file[key].tolist() for key in CLASSES if key in there), None)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not parts:
        raise DataError(f"{path} holds {', '.join(there)}; videos are looked for as {', '.join(VIDEOS)}")
    return from_arrays(path.stem, parts, names)


def from_arrays(name: str, parts: dict[str, tuple[Any, Any]], classes: list[str] | None = None) -> Found:
    """Videos by split (or all under one name), with their classes."""
    stacks = [np.asarray(videos) for videos, _ in parts.values()]
    known = [
        [None] * len(stack) if labels is None else np.asarray(labels).tolist()
        for stack, (_, labels) in zip(stacks, parts.values(), strict=True)
    ]
    if len({stack.shape[1:] for stack in stacks}) > 1 or [*map(len, known)] != [*map(len, stacks)]:
        raise DataError(f"{name}: the splits' videos differ in shape, or there is not a label for each")
    films = Stack(stacks[0] if len(stacks) == 1 else np.concatenate(stacks))
    targets, found = encode_labels([label for part in known for label in part])
    if classes is not None and found is not None:
        found = [classes[int(value)] if value.isdigit() else value for value in found]
    if len(parts) == 1:
        return Found(name, films, None, (), targets, found)
    of = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(stack) for stack in stacks]))
    return Found(name, films, of, tuple(parts), targets, found)


def survey(films: Films, window: Window) -> tuple[dict[int, Film], list[Skipped]]:
    """What the videos are, by row; and those that cannot be read or give no sample."""

    def look(row: int) -> Film | str:
        try:
            film = films.look(row)
        except Broken as error:
            return str(error)
        if film.frames >= window.reach:
            return film
        return f"has {film.frames} frames, fewer than the {window.reach} of a sample (frames, stride)"

    with ThreadPoolExecutor(threads()) as pool:
        seen = list(pool.map(look, range(len(films.names))))
    skipped = [Skipped(str(films.names[row]), what) for row, what in enumerate(seen) if isinstance(what, str)]
    return {row: what for row, what in enumerate(seen) if isinstance(what, Film)}, skipped


def canvas_for(films: list[Film], image_size: int | None, channels: int | None) -> tuple[int, Canvas]:
    """The side encoders shall take, and what frames are made into; as of pictures, but at most 112."""
    facts = [films[row].facts for row in spread(len(films), PROBED).tolist()]
    short = sorted(min(fact.size) for fact in facts)[len(facts) // 2]
    return choose_canvas(facts, len(films), image_size or min(SIDE, default_side(short, 0)), channels)


def footage_of(
    films: Films, counts: dict[int, int], canvas: Canvas, cache: Cache
) -> tuple[Footage, dict[int, tuple[int, str]]]:
    """The frames of these videos, in memory if they fit; and what `footage.hold` says of those that break off."""
    needed = sum(counts.values()) * canvas.channels * canvas.side**2 * canvas.dtype.itemsize
    if cache == "memory" or (cache == "auto" and needed <= memory_budget()):
        return hold(films, counts, canvas)
    return Decoded(films, canvas), {}


def said(window: Window) -> str:
    every = "" if window.stride == 1 else f", every {window.stride} frames of the video"
    return f"{window.frames} a sample{every}"


def what_is_there(films: dict[int, Film], canvas: Canvas, window: Window, footage: Footage) -> dict[str, Any]:
    """What `describe` says beyond counts."""
    by_length = sorted(films.values(), key=lambda film: film.frames)
    ends = {"shortest": by_length[0], "median": by_length[len(by_length) // 2], "longest": by_length[-1]}
    lengths = {name: f"{film.frames} frames, {film.seconds:.1f} s" for name, film in ends.items()}
    sizes = sorted({film.facts.size for film in by_length}, key=lambda size: size[0] * size[1])
    return {
        "videos": len(films),
        "lengths": lengths,
        "sizes (height x width)": {
            "smallest": "{} x {}".format(*sizes[0]), "largest": "{} x {}".format(*sizes[-1])
        },
        "frames": said(window),
        "canvas": f"{canvas.side} x {canvas.side}",
        "memory": "decoded once into memory" if footage.in_memory else "decoded when needed",
    }  # fmt: skip
