"""Arrays and tensors as pictures, also from `.npz` and `.npy` files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pretask.data.formats import NOT_FINITE, Opened, from_array
from pretask.data.layout import ORDER, SPLITS, encode_labels
from pretask.data.pictures import Canvas, Facts
from pretask.data.source import Source
from pretask.errors import DataError

CHANNELS = (1, 3, 4)
CHUNK = 1024  # pictures handled at a time
IMAGES = ("image", "images", "x", "X", "data", "arr_0")
LABELS = ("label", "labels", "y", "Y", "target", "targets", "arr_1")
CLASSES = ("class_names", "classes", "label_names")

Part = tuple[np.ndarray | Tensor, np.ndarray | Tensor | None]


class Arrays:
    """Rows of one array as a store.

    Args:
        array: (N, H, W), (N, H, W, C) or (N, C, H, W).
        channels: how many there are, where the shape leaves it open.

    Raises:
        DataError: the shape is no pictures'.
    """

    def __init__(self, array: np.ndarray, channels: int | None = None):
        if array.ndim not in (3, 4) or len(array) == 0:
            raise DataError(
                f"an array of shape {array.shape} holds no pictures; it should be (N, H, W), (N, H, W, C) "
                "or (N, C, H, W)"
            )
        self.array = array.astype(np.uint8) * 255 if array.dtype == bool else array
        self.first = array.ndim == 4 and channels_first(array.shape, channels)
        self.size = array.shape[2:] if self.first else array.shape[1:3]
        self.names = range(len(array))

    def read(self, row: int) -> Opened:
        picture = np.asarray(self.array[row])
        return from_array(np.moveaxis(picture, 0, -1) if self.first else picture)

    def facts(self) -> Facts:
        """What all of them are."""
        channels = 1 if self.array.ndim == 3 else self.array.shape[1 if self.first else 3]
        fact = Facts(self.size, channels, str(self.array.dtype))
        if self.array.dtype.kind not in "uif":
            raise DataError(f"values of type {self.array.dtype} are no pictures'")
        if fact.dtype in ("uint8", "uint16"):
            return fact
        parts = [self.array[i : i + CHUNK] for i in range(0, len(self.array), CHUNK)]
        finite = [part[np.isfinite(part)] for part in parts]
        ends = [float(end) for part in finite if part.size for end in (part.min(), part.max())] or [0.0]
        return replace(fact, low=min(ends), high=max(ends))

    def load(self, canvas: Canvas, rows: list[int]) -> tuple[dict[str, Tensor], dict[int, str]]:
        """These rows on a canvas, many at a time; and those with numbers that are not finite."""
        size = torch.tensor([self.size])
        broken: dict[int, str] = {}
        image = torch.empty(len(rows), canvas.channels, canvas.side, canvas.side, dtype=canvas.dtype)
        for start in range(0, len(rows), CHUNK):
            part = self.array[rows[start : start + CHUNK]]
            part = part[..., None] if part.ndim == 3 else np.moveaxis(part, 1, -1) if self.first else part
            if part.dtype.kind == "f":
                finite = np.asarray(np.isfinite(part).all(axis=(1, 2, 3)))
                broken |= {rows[start + int(i)]: NOT_FINITE for i in np.flatnonzero(~finite)}
                part = np.where(finite[:, None, None, None], part, 0)
            image[start : start + CHUNK] = torch.from_numpy(canvas.from_arrays(part))
        return {"image": image, "size": size.repeat(len(rows), 1)}, broken


def channels_first(shape: tuple[int, ...], channels: int | None) -> bool:
    """Whether a 4-D array is (N, C, H, W) rather than (N, H, W, C).

    The channels' axis is the only one of the two with `channels` entries, else the only one with 1, 3 or 4,
    else the shorter.

    Raises:
        DataError: both are alike.
    """
    first, last = shape[1], shape[3]
    for wanted in ((channels,), CHANNELS):
        if (first in wanted) != (last in wanted):
            return first in wanted
    if first == last:
        raise DataError(
            f"in shape {shape} channels may be second or last: move them so that (N, H, W, C) is clear"
        )
    return first < last


def from_arrays(
    name: str, parts: Mapping[str, Part], classes: list[str] | None = None, channels: int | None = None
) -> Source:
    """Pictures by split (or all under one name) as a source.

    Args:
        name: for people.
        parts: by split, pictures and their classes.
        classes: names of classes 0, 1, ...; default the values found.
        channels: how many there are, where the shape leaves it open.

    Raises:
        DataError: shapes do not fit each other.
    """
    images = [np.asarray(images) for images, _ in parts.values()]
    labels = [None if labels is None else np.asarray(labels).squeeze() for _, labels in parts.values()]
    for image, label in zip(images, labels, strict=True):
        if label is not None and label.shape != image.shape[:1]:
            raise DataError(f"{name}: labels of shape {label.shape} for pictures of shape {image.shape}")
    if len({(image.shape[1:], image.dtype) for image in images}) > 1:
        raise DataError(f"{name}: the splits' pictures differ in shape or type")
    source = Source(name, Arrays(images[0] if len(images) == 1 else np.concatenate(images), channels))
    if len(parts) > 1:
        source.part_names = tuple(parts)
        source.parts = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(i) for i in images]))
    known = [
        [None] * len(image) if label is None else label.tolist()
        for image, label in zip(images, labels, strict=True)
    ]
    source.targets, source.classes = encode_labels([label for part in known for label in part])
    if classes is not None and source.classes is not None:
        source.classes = [classes[int(value)] if value.isdigit() else value for value in source.classes]
    return source


def from_npz(path: Path, channels: int | None) -> Source:
    """An `.npz` with pictures in one of IMAGES and classes in one of LABELS; or by split, as in
    `x_train, y_train` or `train_images, train_labels`. Names of classes are in one of CLASSES.

    Raises:
        DataError: there are no pictures by these names.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            there = list(file.files)
            images = by_split(there, IMAGES)
            labels = by_split(there, LABELS)
            parts = {
                part: (file[key], file[labels[part]] if part in labels else None)
                for part, key in images.items()
            }
            names = next((file[key].tolist() for key in CLASSES if key in there), None)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not parts:
        raise DataError(
            f"{path} holds {', '.join(there)}; pictures are looked for as {', '.join(IMAGES)}, or with "
            "a split before or behind (train_images, x_test)"
        )
    return from_arrays(path.stem, parts, names, channels)


def by_split(there: list[str], wanted: tuple[str, ...]) -> dict[str, str]:
    """Which key holds what is wanted, by split; under "all" if no key names a split."""
    found = {}
    for key in there:
        for word, split in SPLITS.items():
            if key in {f"{name}_{word}" for name in wanted} | {f"{word}_{name}" for name in wanted}:
                found[split] = key
    if found:
        return {split: found[split] for split in ORDER if split in found}
    return next(({"all": key} for key in wanted if key in there), {})


def from_npy(path: Path, channels: int | None) -> Source:
    """An `.npy` of pictures, read where it lies.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return Source(path.stem, Arrays(np.load(path, allow_pickle=False, mmap_mode="r"), channels))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
