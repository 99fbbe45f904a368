"""What a tree of names says about splits and classes. No labels are invented."""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from pretask.errors import DataError

UNLABELLED = -1
SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
ORDER = ("train", "val", "test")


class Layout(NamedTuple):
    """Splits and classes of files, in the order of their names.

    Args:
        parts: for each file the place of its split in `part_names`, or -1; None without splits.
        part_names: the splits there are.
        targets: for each file its class, or -1; None without classes.
        classes: their names.
    """

    parts: Int[Tensor, "files"] | None
    part_names: tuple[str, ...]
    targets: Int[Tensor, "files"] | None
    classes: list[str] | None


def walk(root: Path) -> Iterator[str]:
    """Names of all files below a folder, relative to it; hidden ones are left out, links followed once."""
    seen = set()
    for folder, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = sorted(name for name in below if not hidden(name))
        if real in seen:
            below[:] = []
            continue
        seen.add(real)
        inside = os.path.relpath(folder, root)
        for name in files:
            if not hidden(name):
                yield name if inside == "." else os.path.join(inside, name)


def walk_zip(path: Path) -> list[str]:
    """Names of all files in a zip but hidden ones.

    Raises:
        DataError: it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return [name for name in names if not any(map(hidden, name.split("/")))]


def hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def sift(names: Iterable[str], extensions: Collection[str]) -> tuple[list[str], dict[str, int]]:
    """The names with one of these extensions, sorted, and how many others there are by theirs."""
    chosen: list[str] = []
    others: Counter[str] = Counter()
    for name in names:
        extension = os.path.splitext(name)[1].lower()
        if extension in extensions:
            chosen.append(name)
        else:
            others[extension or "no extension"] += 1
    return sorted(chosen), dict(others.most_common())


def empty(
    where: Path, what: str, extensions: Collection[str], ignored: dict[str, int], accepted: str
) -> DataError:
    """An error that tells what is there instead."""
    there = ", ".join(f"{count} {extension}" for extension, count in ignored.items()) or "no files at all"
    wanted = " ".join(sorted(extensions))
    return DataError(f"{where} holds no {what} (found: {there}; looked for: {wanted}); {accepted}")


def read_layout(names: Sequence[str]) -> Layout:
    """Splits from the top folders, classes from the folders below.

    A common leading folder is ignored. The top folders are splits if all of them that hold pictures are
    called like splits, or if one is called `train` and another `val` or `test`. The first folder below is
    the class. Files without a class folder are unlabelled, and there are no classes at all unless there
    are two of them, with two files each on average.
    """
    folders = [name.replace(os.sep, "/").split("/")[:-1] for name in names]
    folders = without_common(folders)
    tops = {folder[0].lower() for folder in folders if folder}
    found = {SPLITS[top] for top in tops if top in SPLITS}
    parts, part_names = None, tuple[str, ...]()
    if found and (tops <= SPLITS.keys() or ("train" in found and len(found) > 1)):
        part_names = tuple(name for name in ORDER if name in found)
        places = [SPLITS.get(folder[0].lower()) if folder else None for folder in folders]
        parts = torch.tensor([part_names.index(place) if place else -1 for place in places])
        below = [folder[1:] if place else [] for folder, place in zip(folders, places, strict=True)]
        folders = without_common(below)
    targets, classes = encode_labels([folder[0] if folder else None for folder in folders])
    if classes is not None and (len(classes) < 2 or len(names) < 2 * len(classes)):
        targets, classes = None, None
    return Layout(parts, part_names, targets, classes)


def without_common(folders: list[list[str]]) -> list[list[str]]:
    """Paths without the leading folders they all share, up to one that is called like a split."""
    inside = [folder for folder in folders if folder]
    if len(inside) < len(folders) or not folders:
        return folders
    shared = os.path.commonprefix([min(folders), max(folders)])
    common = next((place for place, name in enumerate(shared) if name.lower() in SPLITS), len(shared))
    return [folder[common:] for folder in folders]


def encode_labels(
    labels: Sequence[str | int | None],
) -> tuple[Int[Tensor, "files"] | None, list[str] | None]:
    """Classes by name in order (of value, if all are whole numbers); None is unlabelled."""
    values = {label for label in labels if label is not None and label != ""}
    if not values:
        return None, None
    try:
        ordered = sorted(values, key=int)
    except ValueError:
        ordered = sorted(values, key=str)
    places = {label: place for place, label in enumerate(ordered)}
    targets = torch.tensor([UNLABELLED if x is None else places.get(x, UNLABELLED) for x in labels])
    return targets, [str(label) for label in ordered]


def split_in_name(path: Path) -> str | None:
    """The split that a file's folders or the first word of its name tell: `train-00000-of-00002.parquet`."""
    words = [*path.parts[:-1], re.split(r"[-_.]", path.name)[0]]
    return next((SPLITS[word.lower()] for word in reversed(words) if word.lower() in SPLITS), None)
