"""What a source is, found out by its type, its name and a look inside."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretask.data.arrays import from_arrays, from_npy, from_npz
from pretask.data.embedded import EMBEDDED
from pretask.data.formats import EXTENSIONS
from pretask.data.items import from_items, from_torchvision
from pretask.data.layout import empty, read_layout, sift, walk, walk_zip
from pretask.data.lists import from_list
from pretask.data.masks import Masks, pair
from pretask.data.shards import expand, from_shards
from pretask.data.source import Source
from pretask.data.stores import Files, Store, Zip
from pretask.data.tables import SUFFIXES, from_tables
from pretask.errors import DataError

ACCEPTED = (
    "accepted are a folder of pictures (in class folders or not, below train/val/test or not), a list of "
    "paths (.txt, .csv, .tsv), .npz, .npy, .zip, .parquet, .arrow, .tar shards (here or at an address), "
    f"torchvision:NAME@ROOT, and the embedded sets {', '.join(EMBEDDED)}"
)


def find_source(source: Any, channels: int | None) -> Source:
    """
    Raises:
        DataError: it is not there, or nothing that can be read.
    """
    if not isinstance(source, (str, os.PathLike)):
        return from_objects(source, channels)
    text = str(source)
    if text in EMBEDDED:
        return EMBEDDED[text]()
    if text.startswith("torchvision:"):
        return from_torchvision(text)
    path = Path(source).expanduser()
    if path.is_dir():
        return from_folder(path)
    if "{" in text or "*" in text:
        return from_shards(text, [Path(address) for address in expand(text)])
    if not path.is_file():
        raise DataError(f"there is no '{source}'; {ACCEPTED}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: a file of type '{path.suffix}' is no data set; {ACCEPTED}")
    return reader(path, channels)


def from_objects(source: Any, channels: int | None) -> Source:
    """An array, a pair of arrays (pictures, classes), or anything with a length and items by number.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        return from_arrays("arrays", {"all": (source, None)}, channels=channels)
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], (np.ndarray, Tensor)):
        return from_arrays("arrays", {"all": source}, channels=channels)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__") and not isinstance(source, dict):
        return from_items(type(source).__name__, source)
    raise DataError(f"{type(source).__name__} objects have no length and items by number; {ACCEPTED}")


def from_folder(root: Path) -> Source:
    """A folder of pictures, or else of tables or shards.

    Raises:
        DataError: there are none.
    """
    everything = list(walk(root))
    names, ignored = sift(everything, EXTENSIONS)
    if names:
        return with_masks(str(root), names, ignored, lambda some: Files(root, some))
    for suffixes, reader in ((SUFFIXES, from_tables), ((".tar",), lambda _, p: from_shards(str(root), p))):
        if paths := [root / name for name in sorted(everything) if name.lower().endswith(suffixes)]:
            return reader(root, paths)
    raise empty(root, "pictures", EXTENSIONS, ignored, ACCEPTED)


def from_zip(path: Path) -> Source:
    """A zip of pictures, read without unpacking.

    Raises:
        DataError: it is damaged or has no pictures.
    """
    names, ignored = sift(walk_zip(path), EXTENSIONS)
    if not names:
        raise empty(path, "pictures", EXTENSIONS, ignored, ACCEPTED)
    return with_masks(str(path), names, ignored, lambda some: Zip(path, some))


def with_masks(
    where: str, names: list[str], ignored: dict[str, int], store: Callable[[Iterable[str]], Store]
) -> Source:
    """Pictures as their names say what they are, and the masks beside them."""
    pictures, masks = pair(names)
    source = Source(where, store(pictures), *read_layout(pictures), ignored)
    if masks:
        files = sorted(set(masks.values()))
        place = {name: row for row, name in enumerate(files)}
        rows = torch.tensor([place[masks[name]] if name in masks else -1 for name in pictures])
        source.masks = Masks(store(files), rows)
    return source


READERS: dict[str, Callable[[Path, int | None], Source]] = {
    ".zip": lambda path, _: from_zip(path),
    ".npz": from_npz,
    ".npy": from_npy,
    ".tar": lambda path, _: from_shards(str(path), [path]),
    **dict.fromkeys((".txt", ".csv", ".tsv"), lambda path, _: from_list(path)),
    **dict.fromkeys(SUFFIXES, lambda path, _: from_tables(path, [path])),
}
