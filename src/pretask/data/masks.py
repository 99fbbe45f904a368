"""What is where in a picture: masks that lie beside pictures, found by name, on the same canvas."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from pretask.data.dataset import Samples
from pretask.data.formats import Broken, open_picture, reasons
from pretask.data.stores import Store

LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".gif", ".npy")
FOLDERS = ("masks", "mask", "labels", "segmentations", "segmentation", "annotations", "ground_truth", "gt",
           "SegmentationClass")  # fmt: skip
MARKED = re.compile(r"^(.+)[-_.](mask|seg|segmentation|label|gt)$", re.IGNORECASE)
UNKNOWN, INK = -1, 255


def pair(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Pictures among these files, and the mask of each that has one: with `_mask`, `_seg`, `_label` or `_gt` behind
    its name; of the same name (or so marked) in a folder like `masks` or `ground_truth`, where a folder like
    `images` may take its place for pictures; or `.png` beside every picture's `.jpg`.

    Masks are lossless files. What looks like a mask and belongs to no picture is taken for a picture.
    """
    candidates = [name for name in names if os.path.splitext(name)[1].lower() in LOSSLESS]
    found: dict[str, str] = {}
    aside = {key: name for name in candidates if (key := mask_key(name))}
    rest = [name for name in names if not mask_key(name)] if aside else list(names)
    for name in rest:
        folders, own = parts_of(name)
        shorter = [(*folders[:i], *folders[i + 1 :]) for i in range(len(folders))]
        keys = ("/".join((*place, own)) for place in (folders, *shorter))
        if mask := next((aside[key] for key in keys if key in aside), None):
            found[name] = mask
    if not found:
        found = twins(names, candidates)
    taken = set(found.values())
    return [name for name in names if name not in taken], found


def parts_of(name: str) -> tuple[tuple[str, ...], str]:
    """Folders of a file, and its own name without extension."""
    *folders, own = os.path.splitext(name)[0].replace(os.sep, "/").split("/")
    return tuple(folders), own


def mask_key(name: str) -> str | None:
    """What the picture is called whose mask this may be; None where nothing says that it is one."""
    folders, own = parts_of(name)
    marked = MARKED.match(own)
    own = marked[1] if marked else own
    special = next((place for place, folder in enumerate(folders) if folder in FOLDERS), None)
    if special is not None:
        return "/".join((*folders[:special], *folders[special + 1 :], own))
    return "/".join((*folders, own)) if marked else None


def twins(names: Sequence[str], candidates: Sequence[str]) -> dict[str, str]:
    """Every `.png` is the mask of a `.jpg` of its name; nothing unless all of them are."""
    photos = {os.path.splitext(n)[0]: n for n in names if n.lower().endswith((".jpg", ".jpeg"))}
    pairs = {os.path.splitext(name)[0]: name for name in candidates}
    return {photos[key]: name for key, name in pairs.items()} if pairs.keys() <= photos.keys() else {}


def class_numbers(raw: Any) -> Int[np.ndarray, "h w"]:
    """A mask as class numbers: a palette's or grey values as they are, 255 unknown; where there are only 0 and 255
    (or true and false) 255 is class 1.

    Raises:
        Broken: it has colours, or values that are no whole numbers.
    """
    if isinstance(raw, np.ndarray) and raw.ndim == 2:
        numbers = raw
    else:
        pixels = open_picture(raw).pixels
        numbers = np.asarray(pixels) if isinstance(pixels, Image.Image) else pixels[..., 0]
        if numbers.ndim == 3:
            if (numbers != numbers[..., :1]).any():
                raise Broken("its mask has colours where class numbers are wanted")
            numbers = numbers[..., 0]
    if (numbers != np.rint(numbers)).any():
        raise Broken("its mask has values that are no class numbers")
    numbers = numbers.astype(np.int16)
    there = np.unique(numbers)
    if set(there.tolist()) <= {0, INK}:
        return (numbers > 0).astype(np.int16)
    return np.where(numbers == INK, UNKNOWN, numbers).astype(np.int16)


def squashed(numbers: Int[np.ndarray, "h w"], side: int) -> Int[np.ndarray, "side side"]:
    """The nearest pixel for each of side x side places."""
    rows, columns = (
        np.minimum((np.arange(side) + 0.5) * length / side, length - 1).astype(int)
        for length in numbers.shape
    )
    return numbers[rows[:, None], columns]


@dataclass(frozen=True)
class Masks:
    """The masks of a source's pictures.

    Args:
        store: where they lie.
        rows: for each picture the row of its mask in `store`, or -1: nothing is known of it.
    """

    store: Store
    rows: Int[Tensor, "pictures"]

    def get(
        self, rows: Sequence[int], sizes: Int[Tensor, "batch 2"], side: int
    ) -> tuple[Int[Tensor, "batch side side"], dict[int, str]]:
        """The masks of these pictures on their canvas, and why some cannot be read.

        Args:
            rows: of the pictures.
            sizes: heights and widths that the pictures had; a mask must have the same.
            side: of the canvas.
        """
        found = torch.full((len(rows), side, side), UNKNOWN, dtype=torch.int16)

        def one(place: int) -> tuple[int, str] | None:
            own = int(self.rows[rows[place]])
            try:
                with reasons():
                    if own >= 0:
                        numbers = class_numbers(self.store.read(own))
                        check_size(numbers.shape, tuple(sizes[place].tolist()))
                        found[place] = torch.from_numpy(squashed(numbers, side))
                return None
            except Broken as error:
                return rows[place], f"{error}"

        with ThreadPoolExecutor(4) as pool:
            return found, dict(filter(None, pool.map(one, range(len(rows)))))


def check_size(mask: tuple[int, ...], picture: tuple[int, ...]) -> None:
    """
    Raises:
        Broken: they differ.
    """
    if mask != picture:
        raise Broken(f"its mask has {mask[0]} x {mask[1]} pixels, the picture {picture[0]} x {picture[1]}")


class Masked:
    """Pictures decoded when asked for, with their masks.

    Args:
        samples: the pictures.
        masks: what is where in them.
        side: of the canvas.
    """

    in_memory = False

    def __init__(self, samples: Samples, masks: Masks, side: int):
        self.samples, self.masks, self.side = samples, masks, side

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, row: int) -> str:
        return self.samples.name(row)

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]:
        columns, broken = self.samples.get(rows)
        numbers = rows.tolist()
        columns["segmentation"], torn = self.masks.get(numbers, columns["size"], self.side)
        return columns, {**torn, **broken}
