"""What a source is, found out by its type, its name and a look inside."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pretask.data.arrays import from_arrays, from_npy, from_npz
from pretask.data.embedded import EMBEDDED
from pretask.data.formats import EXTENSIONS
from pretask.data.layout import hidden, read_layout, walk
from pretask.data.source import Source
from pretask.data.stores import Files, Zip
from pretask.errors import DataError

ACCEPTED = (
    "accepted are a folder of pictures (in class folders or not, below train/val/test or not), a list of "
    "paths (.txt, .csv), .npz, .npy, .zip, .parquet, .arrow, .tar shards, torchvision:NAME@ROOT, and the "
    f"embedded sets {', '.join(EMBEDDED)}"
)


def find_source(source: Any, channels: int | None) -> Source:
    """
    Raises:
        DataError: it is not there, or nothing that can be read.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        source = (source, None)
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], (np.ndarray, Tensor)):
        return from_arrays("arrays", {"all": source}, channels=channels)
    if not isinstance(source, (str, os.PathLike)):
        raise DataError(f"{type(source).__name__} objects cannot be read; {ACCEPTED}")
    if str(source) in EMBEDDED:
        return EMBEDDED[str(source)]()
    path = Path(source).expanduser()
    if path.is_dir():
        return from_folder(path)
    if not path.is_file():
        raise DataError(f"there is no '{source}'; {ACCEPTED}")
    readers = {".zip": from_zip, ".npz": lambda p: from_npz(p, channels), ".npy": lambda p: from_npy(p, channels)}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: files of type '{path.suffix}' are no data sets; {ACCEPTED}")
    return reader(path)


def from_folder(root: Path) -> Source:
    """A folder of pictures.

    Raises:
        DataError: there are none.
    """
    names, ignored = sift(walk(root))
    if not names:
        raise empty(root, ignored)
    return Source(str(root), Files(root, names), *read_layout(names), ignored)


def from_zip(path: Path) -> Source:
    """A zip of pictures, read without unpacking.

    Raises:
        DataError: it is damaged or has no pictures.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    names, ignored = sift(name for name in members if not any(map(hidden, name.split("/"))))
    if not names:
        raise empty(path, ignored)
    return Source(str(path), Zip(path, names), *read_layout(names), ignored)


def sift(names: Iterator[str]) -> tuple[list[str], dict[str, int]]:
    """The pictures' names, sorted, and how many other files there are by extension."""
    chosen, others = [], Counter()
    for name in names:
        extension = os.path.splitext(name)[1].lower()
        if extension in EXTENSIONS:
            chosen.append(name)
        else:
            others[extension or "no extension"] += 1
    return sorted(chosen), dict(others.most_common())


def empty(where: Path, ignored: dict[str, int]) -> DataError:
    there = ", ".join(f"{count} {extension}" for extension, count in ignored.items()) or "no files at all"
    return DataError(
        f"{where} holds no pictures (found: {there}; looked for: {' '.join(sorted(EXTENSIONS))}); {ACCEPTED}"
    )


