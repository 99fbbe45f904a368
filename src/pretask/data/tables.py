"""Parquet and Arrow tables as Hugging Face `datasets` writes them: encoded pictures and classes."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pretask.data.layout import ORDER, encode_labels, split_in_name
from pretask.data.source import Source
from pretask.data.stores import Opener, read_file
from pretask.errors import DataError, need

SUFFIXES = (".parquet", ".arrow", ".feather")
IMAGES = ("image", "img", "images", "picture", "photo")
LABELS = ("label", "labels", "fine_label", "class", "target")
HELD = 1 << 30  # bytes of encoded pictures kept in each process


class Table:
    """Rows of tables as a store: arrow is read where it lies, parquet a row group at a time.

    Args:
        paths: of the files.
        column: the pictures': bytes, or a struct of `bytes` and `path`.
        counts: rows of every block, in order.
        blocks: of each block, its file's number and its number in the file.
    """

    def __init__(self, paths: list[Path], column: str, counts: list[int], blocks: list[tuple[int, int]]):
        self.paths, self.column, self.blocks = paths, column, blocks
        self.ends = torch.tensor(counts).cumsum(0).tolist()
        self.names = RowNames([path.name for path in paths], self.ends, blocks)
        self.opener = Opener()

    def read(self, row: int) -> Any:
        block = bisect_right(self.ends, row)
        cell = self.block(block)[row - (self.ends[block - 1] if block else 0)].as_py()
        return picture_in(cell, self.paths[self.blocks[block][0]].parent)

    def block(self, number: int) -> Any:
        """The pictures' column of a block; as many as fit HELD are kept."""
        held: dict[int, Any] = self.opener.get(dict)
        with self.opener.lock:
            if number not in held:
                file, group = self.blocks[number]
                while held and sum(column.nbytes for column in held.values()) > HELD:
                    held.pop(next(iter(held)))
                held[number] = read_block(self.paths[file], self.column, group)
            return held[number]


class RowNames(Sequence[str]):
    """`train-00000.parquet:12` for the rows of tables, made when asked for."""

    def __init__(self, files: list[str], ends: list[int], blocks: list[tuple[int, int]]):
        self.files, self.ends, self.blocks = files, ends, blocks

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, row: int) -> str:  # type: ignore[override]
        block = bisect_right(self.ends, range(len(self))[row])
        file, first = self.blocks[block][0], block
        while first and self.blocks[first - 1][0] == file:
            first -= 1
        return f"{self.files[file]}:{row - (self.ends[first - 1] if first else 0)}"


def picture_in(cell: Any, folder: Path) -> Any:
    """What a cell holds: bytes, or a struct with bytes or a path."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if cell is None:
        raise ValueError("an empty cell")
    if isinstance(cell, str):
        return read_file(folder / cell)
    return cell


def read_block(path: Path, column: str, group: int) -> Any:
    if path.suffix == ".parquet":
        return need("pyarrow.parquet", "data").ParquetFile(path).read_row_group(group, [column])[column]
    return open_arrow(path)[column].chunk(group)


def open_arrow(path: Path) -> Any:
    """An arrow file or stream as a table that lies on disk."""
    pa = need("pyarrow", "data")
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source).read_all()


class Outline(NamedTuple):
    """A table without its pictures: their column, rows a block, classes' names, and every row's class."""

    column: str
    counts: list[int]
    names: list[str] | None
    labels: list[Any]


def outline(path: Path) -> Outline:
    """
    Raises:
        DataError: it cannot be read, or has no pictures.
    """
    pa, pq = need("pyarrow", "data"), need("pyarrow.parquet", "data")
    try:
        if path.suffix == ".parquet":
            file = pq.ParquetFile(path)
            schema, groups = file.schema_arrow, range(file.num_row_groups)
            counts = [file.metadata.row_group(group).num_rows for group in groups]
        else:
            table = open_arrow(path)
            schema, counts = table.schema, [len(chunk) for chunk in table.column(0).chunks]
        image = next((name for name in IMAGES if name in schema.names), None)
        if image is None:
            there, wanted = ", ".join(schema.names), ", ".join(IMAGES)
            raise DataError(f"{path} has the columns {there}; pictures are looked for as {wanted}")
        label = next((name for name in LABELS if name in schema.names), None)
        labels: list[Any] = [None] * sum(counts)
        if label is not None:
            column = file.read([label])[label] if path.suffix == ".parquet" else table[label]
            labels = column.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from error
    return Outline(image, counts, class_names(schema, label), labels)


def class_names(schema: Any, label: str | None) -> list[str] | None:
    """What Hugging Face's metadata call classes 0, 1, ..."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return features[label].get("names")
    except (KeyError, ValueError, AttributeError, TypeError):
        return None


def from_tables(root: Path, paths: list[Path]) -> Source:
    """Tables as one source; the split is told by their folders or names (`train-00000-of-00002.parquet`).

    Raises:
        DataError: they cannot be read, have no pictures, or differ.
    """
    outlines = [outline(path) for path in paths]
    if len({found.column for found in outlines}) > 1:
        raise DataError(f"{root}: the tables' pictures are in different columns")
    counts = [count for found in outlines for count in found.counts]
    blocks = [(file, group) for file, found in enumerate(outlines) for group in range(len(found.counts))]
    source = Source(str(root), Table(paths, outlines[0].column, counts, blocks))
    source.targets, source.classes = encode_labels([label for found in outlines for label in found.labels])
    names = next((found.names for found in outlines if found.names), None)
    if names and source.classes is not None:
        source.classes = [names[int(value)] if value.isdigit() else value for value in source.classes]
    splits = [split_in_name(path.relative_to(root) if path != root else path) for path in paths]
    found = {split for split in splits if split}
    if found:
        source.part_names = tuple(name for name in ORDER if name in found)
        places = torch.tensor([source.part_names.index(split) if split else -1 for split in splits])
        source.parts = places.repeat_interleave(torch.tensor([sum(found.counts) for found in outlines]))
    return source
