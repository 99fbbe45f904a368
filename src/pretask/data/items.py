"""Python objects as pictures: a list of them, any torch data set, torchvision's by name, Hugging Face's."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from pretask.data.layout import SPLITS, encode_labels
from pretask.data.source import Source
from pretask.data.stores import Names, read_file
from pretask.errors import DataError, UsageError

IMAGES = ("image", "img", "images", "pixel_values", "picture")
LABELS = ("label", "labels", "fine_label", "target", "class")
ASKED = 10_000  # items that are opened for their label, where nothing lists the labels


class Items:
    """Anything with a length and items by number, as a store.

    Args:
        items: pictures (PIL, arrays, tensors, encoded, paths), or pairs or dicts that hold one.
    """

    def __init__(self, items: Any):
        self.items = items
        paths = isinstance(items, list) and isinstance(items[0], (str, os.PathLike))
        self.names: Sequence[Any] = Names(map(str, items)) if paths else range(len(items))

    def read(self, row: int) -> Any:
        picture = picture_of(self.items[row])
        return read_file(picture) if isinstance(picture, (str, os.PathLike)) else picture


def picture_of(item: Any) -> Any:
    """The picture in a pair (picture, class), a dict, or the item itself."""
    if isinstance(item, dict):
        key = next((key for key in (*IMAGES, "bytes") if item.get(key) is not None), None)
        return item.get("path") if key is None else picture_of(item[key])
    return item[0] if isinstance(item, (tuple, list)) else item


def label_of(item: Any) -> int | str | None:
    """The class in a pair or a dict."""
    if isinstance(item, dict):
        found = next((item[key] for key in LABELS if key in item), None)
    else:
        found = item[1] if isinstance(item, (tuple, list)) and len(item) > 1 else None
    if isinstance(found, (Tensor, np.ndarray, np.generic)):
        found = found.item() if found.ndim == 0 else None
    return found if isinstance(found, (int, str)) else None


def listed_labels(items: Any) -> list[Any] | None:
    """Every item's class without opening the pictures, where the set keeps a list of them."""
    if isinstance(items, ConcatDataset):
        parts = [listed_labels(part) for part in items.datasets]
        return None if None in parts else [label for part in parts for label in part or ()]
    if hasattr(items, "column_names"):  # Hugging Face
        column = next((name for name in LABELS if name in items.column_names), None)
        return None if column is None else list(items[column])
    for name in ("targets", "labels", "_labels"):
        found = getattr(items, name, None)
        if found is not None and not callable(found) and len(found) == len(items):
            return [label_of((None, label)) for label in found]
    return None


def class_names(items: Any) -> Sequence[str] | None:
    if isinstance(items, ConcatDataset):
        return class_names(items.datasets[0])
    if hasattr(items, "features") and hasattr(items, "column_names"):
        return next((getattr(items.features[n], "names", None) for n in LABELS if n in items.features), None)
    found = getattr(items, "classes", None)
    return found if isinstance(found, (list, tuple)) else None


def from_items(name: str, items: Any) -> Source:
    """Items as a source. Classes are read from the set's own list of them, or from up to ASKED items.

    Raises:
        DataError: there are none.
    """
    count = len(items)
    if count == 0:
        raise DataError(f"{name} is empty")
    source = Source(name, Items(items))
    labels = listed_labels(items)
    if labels is None and count <= ASKED and label_of(items[0]) is not None:
        labels = [label_of(items[row]) for row in range(count)]
    source.targets, source.classes = encode_labels(labels or [])
    names = class_names(items)
    if names and source.classes is not None and all(value.isdigit() for value in source.classes):
        source.classes = [names[int(value)] for value in source.classes]
    return source


def from_torchvision(text: str) -> Source:
    """`torchvision:CIFAR10@ROOT`: one of torchvision's sets, whose files are there; nothing is downloaded.

    Raises:
        DataError: the files are not there.
        UsageError: torchvision has no such set.
    """
    import torchvision.datasets as sets

    name, _, root = text.removeprefix("torchvision:").partition("@")
    make: Any = getattr(sets, name, None)
    if not root or not callable(make):
        raise UsageError(f"'{text}' is not torchvision:NAME@ROOT with NAME one of torchvision.datasets")
    takes = inspect.signature(make).parameters
    extra = {"download": False} if "download" in takes else {}
    if "train" in takes:
        wanted: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
    elif "split" in takes:
        wanted = {split: {"split": split} for split in SPLITS if split in ("train", "val", "valid", "test")}
    else:
        wanted = {"all": {}}
    found: dict[str, Any] = {}
    why = ""
    for split, arguments in wanted.items():
        try:
            found[SPLITS.get(split, split)] = make(root, **arguments, **extra)
        except (RuntimeError, OSError, ValueError) as error:
            why = " ".join(str(error).split())[:200]
    if not found:
        raise DataError(f"torchvision finds no {name} below {root} ({why}): put its files there first")
    source = from_items(f"{name} at {root}", ConcatDataset(list(found.values())))
    if len(found) > 1:
        source.part_names = tuple(found)
        lengths = torch.tensor([len(part) for part in found.values()])
        source.parts = torch.arange(len(found)).repeat_interleave(lengths)
    return source
