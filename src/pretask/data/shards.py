"""WebDataset shards: tar files in which the members of one sample share their name up to the first dot.

Shards on this machine are indexed once and read like any files. Those at an address (any that fsspec opens),
and compressed ones, are streamed (`pretask.data.stream`).
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

import fsspec
import torch

from pretask.data.formats import EXTENSIONS
from pretask.data.layout import ORDER, encode_labels, split_in_name
from pretask.data.source import Source
from pretask.data.stores import Tar
from pretask.errors import DataError

LABEL = ".cls"


def expand(text: str) -> list[str]:
    """`shard-{000..009}.tar` and `*.tar` as single addresses."""
    if found := re.search(r"\{(\d+)\.\.(\d+)\}", text):
        low, high = found.groups()
        numbers = (str(number).zfill(len(low)) for number in range(int(low), int(high) + 1))
        return [a for n in numbers for a in expand(text[: found.start()] + n + text[found.end() :])]
    if "*" in text:
        files, inside = fsspec.core.url_to_fs(text)
        return sorted(files.unstrip_protocol(path) if "://" in text else path for path in files.glob(inside))
    return [text]


def streamed(text: str) -> bool:
    """Whether shards are to be streamed: they are elsewhere, or compressed."""
    return "://" in text or text.endswith((".tar.gz", ".tgz"))


def key_and_extension(name: str) -> tuple[str, str]:
    """A member's sample and kind: `a/b.seg.png` is `.seg.png` of `a/b`."""
    folder, slash, file = name.rpartition("/")
    stem, dot, kind = file.partition(".")
    return folder + slash + stem, (dot + kind).lower()


def from_shards(name: str, paths: Sequence[Path]) -> Source:
    """Shards on this machine; classes from `.cls` members, splits from the shards' names.

    Raises:
        DataError: a shard cannot be read, or none holds pictures.
    """
    names: list[str] = []
    shards: list[int] = []
    places: list[tuple[int, int]] = []
    labels: list[str | None] = []
    for number, path in enumerate(paths):
        try:
            held, classes = index(path)
        except (OSError, tarfile.TarError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        for key, (member, offset, length) in held.items():
            names.append(f"{path.name}/{member}")
            shards.append(number)
            places.append((offset, length))
            labels.append(classes.get(key))
    if not names:
        raise DataError(f"{name}: {len(paths)} shards without a picture ({' '.join(sorted(EXTENSIONS))})")
    source = Source(name, Tar(paths, names, shards, places))
    source.targets, source.classes = encode_labels(labels)
    splits = [split_in_name(path) for path in paths]
    source.part_names = tuple(split for split in ORDER if split in splits)
    if source.part_names:
        by_shard = [source.part_names.index(split) if split else -1 for split in splits]
        source.parts = torch.tensor(by_shard)[torch.tensor(shards)]
    return source


def index(path: Path) -> tuple[dict[str, tuple[str, int, int]], dict[str, str]]:
    """By sample, where its picture lies (member, offset, length), and its class."""
    held: dict[str, tuple[str, int, int]] = {}
    classes: dict[str, str] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if not member.isreg():
                continue
            key, kind = key_and_extension(member.name)
            if kind in EXTENSIONS:
                held.setdefault(key, (member.name, member.offset_data, member.size))
            elif kind == LABEL and member.size < 1000:
                classes[key] = contents(tar, member).decode("utf-8", "replace").strip()
    return held, classes


def contents(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return b"" if file is None else file.read()
