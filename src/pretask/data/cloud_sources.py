"""What a source of point clouds is: a folder or archive of files, a stack of clouds, recordings of frames."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretask.data.arrays import CLASSES, LABELS, by_split
from pretask.data.clouds import DECODERS, FEATURES, NORMALS, POINTS, Cloud, arrays_in, cloud_of
from pretask.data.formats import Broken, reasons
from pretask.data.layout import empty, encode_labels, read_layout, sift, walk, walk_zip
from pretask.data.solids import solids
from pretask.data.source import Source
from pretask.data.stores import Files, Zip
from pretask.errors import DataError

EMBEDDED = {"solids": solids}
STARTS = ("starts", "offsets", "ptr", "frame_start")  # where each cloud begins among all points, and the end
ACCEPTED = (
    f"accepted are a folder or .zip of clouds ({' '.join(sorted(DECODERS))}; in class folders or not, below "
    "train/val/test or not), an .npz or .npy with a stack of clouds (clouds, points, 3 or more), arrays, "
    f"and the embedded {', '.join(EMBEDDED)}"
)


class Stack:
    """Clouds in one array, all of the same size or one behind the other.

    Args:
        columns: (clouds, points, 3 or more), or (all points, 3 or more).
        normals: likewise, or None.
        bounds: (clouds, 2), where each begins and ends, if they lie one behind the other.
    """

    def __init__(self, columns: np.ndarray, normals: np.ndarray | None, bounds: np.ndarray | None = None):
        if columns.ndim != (3 if bounds is None else 2) or columns.shape[-1] < 3 or len(columns) == 0:
            raise DataError(
                f"an array of shape {columns.shape} holds no clouds; it should be (clouds, points, 3 or more)"
            )
        self.columns, self.normals, self.bounds = columns, normals, bounds
        self.names = range(len(columns) if bounds is None else len(bounds))

    def read(self, row: int) -> Cloud:
        which: Any = row if self.bounds is None else slice(*self.bounds[row].tolist())
        return cloud_of(self.columns[which], None if self.normals is None else self.normals[which])


def find_clouds(source: Any, window: int) -> Source:
    """
    Raises:
        DataError: it is not there, or nothing that can be read.
    """
    if not isinstance(source, (str, os.PathLike)):
        return from_objects(source)
    if str(source) in EMBEDDED:
        return EMBEDDED[str(source)]()
    path = Path(source).expanduser()
    if path.is_dir():
        return from_folder(path, window)
    if not path.is_file():
        raise DataError(f"there is no '{source}'; {ACCEPTED}")
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return from_zip(path)
    if suffix in (".npz", ".npy"):
        return from_stack(path, window)
    if suffix in DECODERS:
        return Source(str(path), Files(path.parent, [path.name]))
    raise DataError(f"{path}: a file of type '{path.suffix}' is no data set; {ACCEPTED}")


def from_objects(source: Any) -> Source:
    """Clouds in an array, a pair (clouds, classes), or a list of arrays of different sizes.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(source, tuple) and len(source) == 2 and hasattr(source[0], "ndim"):
        found = from_objects(source[0])
        found.targets, found.classes = encode_labels(np.asarray(source[1]).tolist())
        return found
    if isinstance(source, (np.ndarray, Tensor)):
        return Source("arrays", Stack(np.asarray(source), None))
    if isinstance(source, list) and source and all(hasattr(cloud, "ndim") for cloud in source):
        ends = np.cumsum([0, *map(len, source)])
        columns = np.concatenate([np.asarray(cloud) for cloud in source])
        return Source("arrays", Stack(columns, None, np.stack([ends[:-1], ends[1:]], axis=1)))
    raise DataError(f"{type(source).__name__} objects hold no clouds; {ACCEPTED}")


def from_folder(root: Path, window: int) -> Source:
    """A folder of clouds; one that holds a single `.npz` and no other cloud is that stack.

    Raises:
        DataError: there are none.
    """
    names, ignored = sift(walk(root), DECODERS)
    if len(names) == 1 and names[0].lower().endswith(".npz"):
        return from_stack(root / names[0], window)
    if not names:
        raise empty(root, "point clouds", DECODERS, ignored, ACCEPTED)
    return Source(str(root), Files(root, names), *read_layout(names), ignored)


def from_zip(path: Path) -> Source:
    """A zip of clouds, read without unpacking.

    Raises:
        DataError: it is damaged or has no clouds.
    """
    names, ignored = sift(walk_zip(path), DECODERS)
    if not names:
        raise empty(path, "point clouds", DECODERS, ignored, ACCEPTED)
    return Source(str(path), Zip(path, names), *read_layout(names), ignored)


def from_stack(path: Path, window: int) -> Source:
    """Many clouds in a file, perhaps by split, or recordings of frames.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    try:
        with reasons():
            loaded = np.load(path, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return Source(path.stem, Stack(loaded, None))
            with loaded as file:
                return from_arrays(path.stem, {name: file[name] for name in file.files}, window)
    except Broken as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def from_arrays(name: str, arrays: dict[str, np.ndarray], window: int) -> Source:
    """What the arrays of an `.npz` are.

    Raises:
        DataError: there are no points among them.
    """
    if not by_split(list(arrays), POINTS):
        raise DataError(f"{name} holds {', '.join(arrays)}; points are looked for as {', '.join(POINTS)}")
    starts = next((arrays[key] for key in STARTS if key in arrays), None)
    found = stacked(name, arrays) if starts is None else recordings(name, arrays, starts, window)
    names = next((arrays[key].tolist() for key in CLASSES if key in arrays), None)
    if names and found.classes is not None and all(value.isdigit() for value in found.classes):
        found.classes = [str(names[int(value)]) for value in found.classes]
    return found


def stacked(name: str, arrays: dict[str, np.ndarray]) -> Source:
    """Clouds of the same size, all together or by split.

    Raises:
        DataError: arrays do not fit each other.
    """
    wanted = {"points": POINTS, "normals": NORMALS, "features": FEATURES, "labels": (*LABELS, "name")}
    keys = {plain: by_split(list(arrays), names) for plain, names in wanted.items()}
    parts = list(keys["points"])
    columns, normals, labels = [], [], list[Any]()
    for part in parts:
        own = {plain: arrays[found[part]] for plain, found in keys.items() if part in found}
        counts = sorted({len(array) for array in own.values()})
        if len(counts) > 1:
            raise DataError(f"{name}: {', '.join(own)} hold {counts} clouds, not equally many")
        points, facing = arrays_in(own)
        columns.append(points)
        normals += [] if facing is None else [facing]
        labels += np.asarray(own["labels"]).reshape(-1).tolist() if "labels" in own else [None] * counts[0]
    if len({array.shape[1:] for array in columns}) > 1:
        raise DataError(f"{name}: the splits' clouds differ in shape")
    whole = np.concatenate(normals) if len(normals) == len(parts) else None
    source = Source(name, Stack(np.concatenate(columns), whole))
    if len(parts) > 1:
        source.part_names = tuple(parts)
        lengths = torch.tensor([len(array) for array in columns])
        source.parts = torch.arange(len(parts)).repeat_interleave(lengths)
    source.targets, source.classes = encode_labels(labels)
    return source


def recordings(name: str, arrays: dict[str, np.ndarray], starts: np.ndarray, window: int) -> Source:
    """Frames one behind the other, each from its start to the next one's.

    Where `frame_recording` says which recording each frame belongs to, `window` frames on end make one cloud,
    whose points also carry their time in it, from 0 to 1; label and `is_test` are the recordings' then.

    Raises:
        DataError: no recording is as long as a window.
    """
    columns, normals = arrays_in(arrays)
    labels = next((arrays[key] for key in LABELS if key in arrays), None)
    test = arrays.get("is_test")
    if "frame_recording" in arrays:
        recording = arrays["frame_recording"].astype(np.int64)
        edges = np.flatnonzero(np.diff(recording, prepend=recording[0] - 1, append=recording[-1] + 1))
        into = np.arange(len(recording)) - np.repeat(edges[:-1], np.diff(edges))  # frames since its beginning
        left = np.repeat(edges[1:], np.diff(edges)) - np.arange(len(recording))
        first = np.flatnonzero((into % window == 0) & (left >= window))
        if len(first) == 0:
            raise DataError(f"{name}: no recording has {window} frames; ask for a smaller window")
        time = np.repeat(into % window / window, np.diff(starts))
        columns = np.concatenate([columns, time[:, None].astype(columns.dtype)], axis=1)
        whose = recording[first]
    else:
        window, first = 1, np.arange(len(starts) - 1)
        whose = first
    source = Source(name, Stack(columns, normals, np.stack([starts[first], starts[first + window]], axis=1)))
    if labels is not None:
        source.targets, source.classes = encode_labels(labels[whose].tolist())
    if test is not None:
        source.parts, source.part_names = torch.from_numpy(test[whose].astype(np.int64)), ("train", "test")
    return source
