"""What puzzles are made of: pictures as they are, frames of video files, scenes with depth."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pretask.data.dataset import Skipped, spread
from pretask.data.films import SUFFIXES as VIDEOS
from pretask.data.films import Film, look_at, read_frames
from pretask.data.find import find_source
from pretask.data.formats import Broken, flat, open_picture, reasons
from pretask.data.pictures import match_channels, to_unit, upright
from pretask.data.stores import Store
from pretask.errors import DataError
from pretask.puzzles.pictures import to_tensor

MILLIMETRES = 1000.0
SMALLEST = 84  # pixels; the paper drops pictures with a shorter side
SKIPPED = list[Skipped]


def pictures(
    source: Any, smallest: int | None, limit: int | None, skipped: SKIPPED
) -> Iterator[tuple[str, Tensor]]:
    """Pictures (C, H, W) as bytes, grey or in red, green and blue, as large as they are.

    Args:
        source: anything `open_data` takes but addresses.
        smallest: pixels that the shorter side must have; None takes the paper's 84, unless every picture of
            the data is smaller.
        limit: pictures, at most, spread evenly over the source.
        skipped: takes the name of what was left out, and why.
    """
    store = find_source(source, None).store
    rows = spread(len(store.names), limit or len(store.names)).tolist()
    if smallest is None:
        smallest = SMALLEST if any(shorter_side(store, row) >= SMALLEST for row in rows) else 1
    for row in rows:
        name = str(store.names[row])
        try:
            with reasons():
                image = decoded(store.read(row))
        except Broken as error:
            skipped.append(Skipped(name, str(error)))
            continue
        short = min(image.shape[1:])
        if short < smallest:
            skipped.append(Skipped(name, f"a side of {short} pixels, fewer than {smallest}"))
            continue
        yield name, image


def shorter_side(store: Store, row: int) -> int:
    """Of a picture, from its header; 0 where it cannot be read."""
    try:
        with reasons():
            return min(open_picture(store.read(row)).size)
    except Broken:
        return 0


def decoded(raw: Any) -> Tensor:
    """A picture as bytes, upright."""
    opened = open_picture(raw)
    pixels = opened.pixels
    if isinstance(pixels, Image.Image):
        grey = pixels.mode in ("1", "L")
        array = np.atleast_3d(np.asarray(flat(pixels, 1 if grey else 3))).transpose(2, 0, 1)
    else:
        channels = 1 if pixels.shape[2] == 1 else 3
        values = np.asarray(pixels, dtype=np.float64)
        low, high = (
            (0, np.iinfo(pixels.dtype).max) if pixels.dtype.kind == "u" else (values.min(), values.max())
        )
        unit = to_unit(pixels, low, max(high, low + 1e-9))
        whole = match_channels(torch.from_numpy(unit).permute(2, 0, 1)[None], channels)[0]
        array = (whole * 255).round().byte().numpy()
    return torch.from_numpy(np.ascontiguousarray(upright(array, opened.orientation)))


def videos(source: str | Path, limit: int | None, skipped: SKIPPED) -> Iterator[tuple[Path, Film]]:
    """The video files of a folder, or the one file, and what they are.

    Raises:
        DataError: there are none.
    """
    root = Path(source)
    paths = (
        sorted(path for path in root.rglob("*") if path.suffix.lower() in VIDEOS) if root.is_dir() else [root]
    )
    if not paths or not paths[0].is_file():
        raise DataError(f"{source} holds no videos ({' '.join(VIDEOS)})")
    for path in paths[:limit]:
        try:
            yield path, look_at(path)
        except Broken as error:
            skipped.append(Skipped(path.name, str(error)))


def fetch(path: Path, clips: Sequence[Sequence[int]]) -> list[Tensor]:
    """The frames of each clip of a video file as bytes (T, C, H, W).

    Raises:
        Broken: the file breaks off before the last of them.
    """
    wanted = {number for clip in clips for number in clip}
    found = {
        number: torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)
        for number, frame in read_frames(path, list(wanted))
    }
    return [torch.stack([found[number] for number in clip]) for clip in clips]


def scenes(source: str | Path, limit: int | None, skipped: SKIPPED) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Pictures (C, H, W) with their depth (H, W) in metres, from a folder or a .zip.

    A picture `NAME.color.jpg` (or .png) belongs to `NAME.depth.png`, or `color/NAME.jpg` to
    `depth/NAME.png`; depth is in whole millimetres, 0 where it is not known.

    Raises:
        DataError: there are no such pairs.
    """
    files = Files(Path(source))
    pairs = sorted((name, depth) for name in files.names if (depth := partner(name)) in files.names)
    if not pairs:
        raise DataError(f"{source} holds no pairs NAME.color.jpg and NAME.depth.png, in a folder or a .zip")
    for color, depth in pairs[:limit]:
        try:
            image = to_tensor(Image.open(io.BytesIO(files.read(color))).convert("RGB"))
            metres = np.array(Image.open(io.BytesIO(files.read(depth)))).astype(np.float32) / MILLIMETRES
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            skipped.append(Skipped(color, f"cannot be read: {error}"))
            continue
        if metres.shape != image.shape[1:]:
            skipped.append(Skipped(color, f"{image.shape[1:]} pixels, and a depth map of {metres.shape}"))
            continue
        yield color, image, torch.from_numpy(metres)


def partner(name: str) -> str:
    """The depth map's name of a picture's name; empty where it is not named like a picture with depth."""
    if ".color." in name:
        return name.partition(".color.")[0] + ".depth.png"
    folder, found, file = name.rpartition("color/")
    return f"{folder}depth/{file.rpartition('.')[0]}.png" if found and "/" not in file else ""


class Files:
    """Names and contents of the files below a folder, and of those in its zip files."""

    def __init__(self, root: Path):
        archives = [root] if root.suffix == ".zip" else sorted(root.glob("*.zip"))
        self.zips = [zipfile.ZipFile(path) for path in archives if zipfile.is_zipfile(path)]
        self.names: dict[str, Any] = {
            path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()
        }
        for archive in self.zips:
            self.names |= dict.fromkeys(archive.namelist(), archive)

    def read(self, name: str) -> bytes:
        place = self.names[name]
        return place.read_bytes() if isinstance(place, Path) else place.read(name)
