"""Where encoded pictures lie: files, an archive, memory. A store gives names and contents by number, can be
pickled for worker processes, and opens what it needs when it is first read there."""

from __future__ import annotations

import os
import stat
import threading
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pretask.data.formats import Broken, check_bytes


class Store(Protocol):
    @property
    def names(self) -> Sequence[Any]:
        """What each picture is called; printed, never opened."""

    def read(self, row: int) -> Any:
        """An encoded picture, a PIL image or an array.

        Raises:
            Exception: whatever reading raises; the caller takes the picture for broken.
        """


class Names(Sequence[str]):
    """Many strings in two arrays: no Python object each, shared by worker processes, quick to pickle."""

    def __init__(self, names: Iterable[str]):
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self.text = b"".join(encoded)
        self.ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:  # type: ignore[override]
        row = range(len(self))[row]
        start = self.ends[row - 1] if row else 0
        return self.text[start : self.ends[row]].decode("utf-8", "surrogateescape")


class Opener:
    """A resource each process opens for itself, when it first needs it."""

    def __init__(self) -> None:
        self.lock, self.owner, self.handle = threading.Lock(), 0, None

    def get(self, make: Any) -> Any:
        with self.lock:
            if self.owner != os.getpid():
                self.owner, self.handle = os.getpid(), make()
            return self.handle

    def __reduce__(self) -> tuple:
        return Opener, ()


def read_file(path: str | os.PathLike) -> bytes:
    """A regular file of acceptable size.

    Raises:
        Broken: it is none.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise Broken("not a file")
    check_bytes(found.st_size)
    with open(path, "rb") as file:
        return file.read()


class Files:
    """Pictures in files of their own.

    Args:
        root: what names are relative to.
        names: of the files.
    """

    def __init__(self, root: Path, names: Iterable[str]):
        self.root, self.names = root, Names(names)

    def read(self, row: int) -> bytes:
        return read_file(os.path.join(self.root, self.names[row]))


class Zip:
    """Pictures in a zip archive."""

    def __init__(self, path: Path, names: Iterable[str]):
        self.path, self.names, self.opener = path, Names(names), Opener()

    def read(self, row: int) -> bytes:
        archive = self.opener.get(lambda: zipfile.ZipFile(self.path))
        info = archive.getinfo(self.names[row])
        check_bytes(info.file_size)
        return archive.read(info)


class Tar:
    """Pictures in tar shards on this machine, read from their places.

    Args:
        paths: of the shards.
        names: `shard/key.extension` for every picture.
        shards: the place of each picture's shard in `paths`.
        places: offset and length of each picture in its shard.
    """

    def __init__(self, paths: Sequence[Path], names: Iterable[str], shards: Any, places: Any):
        self.paths, self.names = list(paths), Names(names)
        self.shards, self.places = np.asarray(shards, np.int32), np.asarray(places, np.int64)

    def read(self, row: int) -> bytes:
        offset, length = self.places[row].tolist()
        check_bytes(length)
        with open(self.paths[self.shards[row]], "rb") as file:
            file.seek(offset)
            return file.read(length)
