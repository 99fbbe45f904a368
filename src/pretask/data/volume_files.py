"""Where volumes lie: NIfTI files and arrays, with segmentations beside them."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pretask.data.formats import Broken, check_bytes
from pretask.data.layout import ORDER, encode_labels, read_layout, walk
from pretask.data.phantoms import phantoms
from pretask.data.source import Source
from pretask.data.voxels import MAX_VOXELS, Scan
from pretask.errors import DataError, need

NIFTI, ARRAYS = (".nii", ".nii.gz", ".mgz"), (".npy", ".npz")
KEYS = ("volumes", "volume", "images", "image", "x", "data")
SEGMENTS = ("segmentations", "segmentation", "masks", "mask")
LABELS = ("labels", "label", "y")
MASK = re.compile(r"^(.*?)[-_.](seg|dseg|segmentation|mask|label|labels)([-_](manual|gt))?$", re.IGNORECASE)
MOST_CHANNELS = 4  # a last axis this short holds channels
ACCEPTED = (
    "accepted are a file or folder of volumes (.nii, .nii.gz, .mgz, .npy, .npz), in class folders or not, below "
    "train/val/test or imagesTr/imagesTs or not, arrays, and the embedded set phantoms"
)


class Volumes(Protocol):
    """A store of volumes: see `data.stores.Store`."""

    segmented: bool
    segment_names: Sequence[str]
    names: Sequence[str]

    def read(self, row: int) -> Scan: ...


def stem(name: str) -> str:
    """A file's name without its extensions."""
    return re.sub(r"(\.nii|\.mgz|\.npy|\.npz)?(\.gz)?$", "", os.path.basename(name), flags=re.IGNORECASE)


class Files:
    """A volume a file.

    Args:
        root: what names are relative to.
        names: of the files.
        masks: by name the file with its segmentation.
    """

    def __init__(self, root: Path, names: Sequence[str], masks: dict[str, str]):
        self.root, self.names, self.masks = root, list(names), masks
        self.segment_names = named_segments(root)
        inside = (root / name for name in names if name.lower().endswith(".npz"))
        self.segmented = bool(masks) or any(map(holds_segments, inside))

    def read(self, row: int) -> Scan:
        name = self.names[row]
        scan = read_scan(self.root / name)
        if name not in self.masks:
            return scan
        mask = read_scan(self.root / self.masks[name]).values
        if len(mask) != 1:
            raise Broken(f"its segmentation has {len(mask)} channels")
        return scan._replace(segments=np.rint(mask[0]).astype(np.int16))


class Stack:
    """Volumes of one array.

    Args:
        values: of all, (N, C, D, H, W).
        segments: of all, if they are known.
    """

    segment_names: Sequence[str] = ()

    def __init__(self, values: np.ndarray, segments: np.ndarray | None):
        self.values, self.segments, self.segmented = values, segments, segments is not None
        self.names = [str(number) for number in range(len(values))]

    def read(self, row: int) -> Scan:
        own = None if self.segments is None else np.asarray(self.segments[row]).astype(np.int16)
        return Scan(np.asarray(self.values[row]), segments=own)


def find_volumes(source: Any) -> Source:
    """What `docs/data.md` lists as volumes.

    Raises:
        DataError: it is not there, or nothing that can be read.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        return stacked("arrays", {"all": (source, None, None)})
    if isinstance(source, tuple) and len(source) == 2:
        return stacked("arrays", {"all": (source[0], source[1], None)})
    if not isinstance(source, (str, os.PathLike)):
        raise DataError(f"{type(source).__name__} objects are no volumes; {ACCEPTED}")
    if str(source) == "phantoms":
        return phantoms()
    path = Path(source).expanduser()
    if path.is_dir():
        return from_folder(path)
    if not path.is_file() or not path.name.lower().endswith((*NIFTI, *ARRAYS)):
        raise DataError(f"there is no '{source}' with volumes; {ACCEPTED}")
    if path.name.lower().endswith(ARRAYS):
        try:
            return from_arrays(path)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path} cannot be read as volumes: {error}") from error
    return Source(str(path), Files(path.parent, [path.name], {}))


def from_folder(root: Path) -> Source:
    """A folder of volumes.

    Raises:
        DataError: there are none.
    """
    everything = sorted(walk(root))
    found = [name for name in everything if name.lower().endswith((*NIFTI, *ARRAYS))]
    images, masks = pair(found)
    if not images:
        raise DataError(f"{root} holds no volumes ({len(everything)} files); {ACCEPTED}")
    others: Counter[str] = Counter(Path(name).suffix.lower() or "no extension" for name in everything)
    for name in found:
        others[Path(name).suffix.lower()] -= 1
    split = [
        re.sub(r"(^|/)imagesTr/", r"\1train/", re.sub(r"(^|/)imagesTs/", r"\1test/", name)) for name in images
    ]
    layout = read_layout([name.replace(os.sep, "/") for name in split])
    return Source(str(root), Files(root, images, masks), *layout, dict(+others))


def pair(names: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Volumes among these files, and the segmentation of each that has one: of the same name in a folder
    `labels...` or `masks` beside `images...`, or in the same folder with `_seg`, `_mask` or `_label` behind it.

    A name like that which belongs to no volume is left out: it is the segmentation of something that is not here.
    """
    images, marked, aside = [], dict[str, str](), dict[str, str]()
    for name in names:
        folder, own = os.path.dirname(name), stem(name)
        parts = folder.replace(os.sep, "/").split("/")
        if re.fullmatch(r"(labels|masks|segmentations)(Tr|Ts)?", parts[-1]):
            aside["/".join([*parts[:-1], re.sub("^[a-z]+", "images", parts[-1]), own])] = name
        elif (match := MASK.match(own)) and match[1]:
            marked["/".join([*parts, match[1]])] = name
        else:
            images.append(name)
    masks = {}
    for name in images:
        parts = [*os.path.dirname(name).replace(os.sep, "/").split("/"), stem(name)]
        plain = [*parts[:-1], re.sub(r"_0000$", "", parts[-1])]
        mask = aside.get("/".join(parts)) or aside.get("/".join(plain)) or marked.get("/".join(parts))
        if mask:
            masks[name] = mask
    return images, masks


def named_segments(root: Path) -> Sequence[str]:
    """Names of what segmentations hold, by number, where a `dataset.json` (Decathlon, nnU-Net) tells them."""
    try:
        labels = json.loads((root / "dataset.json").read_text(encoding="utf-8"))["labels"]
        pairs = [(int(a), b) if str(a).lstrip("-").isdigit() else (int(b), a) for a, b in labels.items()]
        return [str(name) for _, name in sorted(pairs)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def read_scan(path: Path) -> Scan:
    """One volume; axes of files that say how they lie are brought to RAS.

    Raises:
        Broken: it is none.
    """
    check_bytes(path.stat().st_size)
    if path.name.lower().endswith(NIFTI):
        return read_nifti(path)
    with_names = path.name.lower().endswith(".npz")
    held = np.load(path, allow_pickle=False)
    if not with_names:
        return Scan(channels_first(held))
    with held:
        values = channels_first(held[first(held.files, KEYS)])
        key = next((key for key in SEGMENTS if key in held.files), None)
        return Scan(values, segments=None if key is None else held[key].astype(np.int16))


def read_nifti(path: Path) -> Scan:
    """A volume with nibabel; a fourth axis holds channels.

    Raises:
        Broken: it has other dimensions, or absurdly many voxels.
    """
    nibabel = need("nibabel", "volume")
    image = nibabel.load(path)
    shape = tuple(side for axis, side in enumerate(image.shape) if axis < 3 or side > 1)
    if len(shape) not in (3, 4) or 0 in shape:
        raise Broken(f"{image.shape} voxels are no volume: three axes, perhaps one of channels")
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        raise Broken(f"absurdly large ({' x '.join(map(str, shape))} voxels)")
    image = nibabel.as_closest_canonical(image)
    values = np.asanyarray(image.dataobj).reshape(image.shape[:3] + (-1,))
    right, front, up = (float(step) or 1.0 for step in image.header.get_zooms()[:3])
    return Scan(np.moveaxis(values, 3, 0), (right, front, up))


def channels_first(values: np.ndarray) -> np.ndarray:
    """One volume as (C, D, H, W), whether it was (D, H, W), (C, D, H, W) or (D, H, W, C).

    Raises:
        Broken: it is none.
    """
    if values.dtype.kind not in "buif" or values.ndim not in (3, 4) or 0 in values.shape:
        raise Broken(f"an array of shape {values.shape} and type {values.dtype} is no volume")
    if values.size > MAX_VOXELS:
        raise Broken(f"absurdly large ({' x '.join(map(str, values.shape))} voxels)")
    if values.ndim == 3:
        return values[None]
    return np.moveaxis(values, 3, 0) if values.shape[3] <= MOST_CHANNELS < values.shape[0] else values


def first(there: Iterable[str], wanted: Sequence[str]) -> str:
    """
    Raises:
        Broken: none of the wanted names is there.
    """
    held = set(there)
    name = next((name for name in wanted if name in held), None)
    if name is None:
        raise Broken(f"has no array called {', '.join(wanted)} but {', '.join(sorted(held)) or 'none'}")
    return name


def holds_segments(path: Path) -> bool:
    """Whether this `.npz` has a segmentation in it; not where it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as held:
            return any(key in held.files for key in SEGMENTS)
    except (OSError, ValueError):
        return False


def from_arrays(path: Path) -> Source:
    """One file with a volume or a stack of them; in `.npz` also labels, segmentations and splits (MedMNIST's
    `train_images`, `train_labels` ...).

    Raises:
        DataError: there are no volumes in it.
    """
    if path.suffix.lower() == ".npy":
        return stacked(str(path), {"all": (np.load(path, allow_pickle=False, mmap_mode="r"), None, None)})
    parts = {}
    with np.load(path, allow_pickle=False) as held:
        for part in (*ORDER, "all"):
            prefix = "" if part == "all" else f"{part}_"
            keys = [
                next((prefix + key for key in names if prefix + key in held.files), None)
                for names in (KEYS, LABELS, SEGMENTS)
            ]
            if keys[0] is not None:
                values, labels, segments = (None if key is None else held[key] for key in keys)
                parts[part] = (values, labels, segments)
    if not parts:
        raise DataError(f"{path} has neither 'volumes' nor 'train_volumes'; see docs/data.md")
    return stacked(str(path), parts)


def stacked(name: str, parts: dict[str, tuple[Any, Any, Any]]) -> Source:
    """Stacks of volumes by split, each with labels and segmentations or without.

    Raises:
        DataError: they are no stacks, or do not fit one another.
    """
    values, labels, segments, places = [], list[Any](), [], list[int]()
    known = tuple(part for part in ORDER if part in parts)
    for part, (stack, label, segment) in parts.items():
        stack = np.asarray(stack)
        if stack.ndim == 3:  # a single volume
            stack, segment = stack[None], None if segment is None else segment[None]
        if stack.ndim not in (4, 5) or stack.dtype.kind not in "buif" or 0 in stack.shape:
            raise DataError(f"{name}: (volumes, depth, height, width) are expected, not shape {stack.shape}")
        if stack.ndim == 4:
            stack = stack[:, None]
        elif stack.shape[4] <= MOST_CHANNELS < stack.shape[1]:
            stack = np.moveaxis(stack, 4, 1)
        label = (
            [None] * len(stack) if label is None else np.asarray(label).reshape(len(label), -1)[:, 0].tolist()
        )
        if len(label) != len(stack) or (
            segment is not None and segment.shape != (len(stack), *stack.shape[2:])
        ):
            raise DataError(
                f"{name}: labels or segmentations do not fit {len(stack)} volumes {stack.shape[2:]}"
            )
        values.append(stack)
        labels += label
        segments.append(segment)
        places += [known.index(part) if part in known else -1] * len(stack)
    if len({stack.shape[1:] for stack in values}) > 1 or len({segment is None for segment in segments}) > 1:
        raise DataError(f"{name}: its splits hold volumes of different sizes, or segmentations only in some")
    whole = values[0] if len(values) == 1 else np.concatenate(values)
    segmented = None if segments[0] is None else np.concatenate([np.asarray(part) for part in segments])
    targets, classes = encode_labels(labels)
    return Source(
        name, Stack(whole, segmented), torch.tensor(places) if known else None, known, targets, classes
    )
