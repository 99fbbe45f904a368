"""Where encoded pictures lie: files, an archive, memory. A store gives names and contents by number, can be
pickled for worker processes, and opens what it needs when it is first read there."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pretask.data.formats import MAX_BYTES, Broken


class Store(Protocol):
    names: Sequence[str]

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


class Files:
    """Pictures in files of their own.

    Args:
        root: what names are relative to.
        names: of the files.
    """

    def __init__(self, root: Path, names: Iterable[str]):
        self.root, self.names = root, Names(names)

    def read(self, row: int) -> bytes:
        path = os.path.join(self.root, self.names[row])
        if os.path.getsize(path) > MAX_BYTES:
            raise Broken(f"absurdly large ({os.path.getsize(path) / 1e9:.1f} GB)")
        with open(path, "rb") as file:
            return file.read()


class Zip:
    """Pictures in a zip archive."""

    def __init__(self, path: Path, names: Iterable[str]):
        self.path, self.names, self.opener = path, Names(names), Opener()

    def read(self, row: int) -> bytes:
        archive = self.opener.get(lambda: zipfile.ZipFile(self.path))
        info = archive.getinfo(self.names[row])
        if info.file_size > MAX_BYTES:
            raise Broken(f"absurdly large ({info.file_size / 1e9:.1f} GB)")
        return archive.read(info)
