"""A list of pictures in a text file: one path a line, perhaps with a class and a split."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from pretask.data.formats import EXTENSIONS
from pretask.data.layout import ORDER, SPLITS, encode_labels
from pretask.data.source import Source
from pretask.data.stores import Files
from pretask.errors import DataError

PATHS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img", "name")
LABELS = ("label", "class", "target", "category", "y")
PARTS = ("split", "set", "subset", "partition")


def from_list(path: Path) -> Source:
    """A `.txt`, `.csv` or `.tsv`; paths are relative to the list's folder.

    Comma or tab separated with a header: the columns named like PATHS, LABELS and PARTS. Without one: the
    path, then the class if there is one. In `.txt`, spaces belong to the path unless every line ends with a
    space and a whole number (`images/a.jpg 3`).

    Raises:
        DataError: it cannot be read, or is empty.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not lines:
        raise DataError(f"{path} is empty: one path of a picture a line is looked for")
    rows = split_lines(lines, path.suffix.lower())
    header = {name.strip().lower(): place for place, name in reversed(list(enumerate(rows[0])))}
    wanted = (PATHS, LABELS, PARTS)
    places = [next((header[name] for name in names if name in header), None) for names in wanted]
    if places[0] is None:
        places = [0, 1 if all(len(row) > 1 for row in rows) else None, None]
        if not rows[0][0].lower().endswith(tuple(EXTENSIONS)):
            raise DataError(
                f"{path} begins with '{lines[0][:80]}', neither a picture's path nor a header with a column "
                f"called one of {', '.join(PATHS)}"
            )
    else:
        rows = rows[1:]
    if not rows:
        raise DataError(f"{path} has a header and nothing below")
    names, labels, parts = (column(rows, place) for place in places)
    targets, classes = encode_labels(labels)
    source = Source(str(path), Files(path.parent, [name or "" for name in names]), None, (), targets, classes)
    found = {SPLITS[part.lower()] for part in parts if part and part.lower() in SPLITS}
    if found:
        source.part_names = tuple(name for name in ORDER if name in found)
        splits = [SPLITS.get((part or "").lower()) for part in parts]
        source.parts = torch.tensor([source.part_names.index(split) if split else -1 for split in splits])
    return source


def split_lines(lines: Sequence[str], suffix: str) -> list[list[str]]:
    if suffix == ".csv":
        return list(csv.reader(lines))
    if suffix == ".tsv" or any("\t" in line for line in lines):
        return list(csv.reader(lines, delimiter="\t"))
    halves = [line.rsplit(maxsplit=1) for line in lines]
    if all(len(half) == 2 and half[1].isdigit() for half in halves):
        return halves
    return [[line.strip()] for line in lines]


def column(rows: Sequence[Sequence[str]], place: int | None) -> list[str | None]:
    if place is None:
        return [None] * len(rows)
    return [row[place].strip() if len(row) > place else None for row in rows]
