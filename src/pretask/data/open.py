"""`open_data`: whatever a person has, read as the kind of data it is."""

from __future__ import annotations

import inspect
import os
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from pretask import modalities
from pretask.data.dataset import Dataset, part_of, spread
from pretask.data.layout import walk
from pretask.errors import DataError, UsageError

LOOKED_AT = 2000  # files of a folder whose names say what it holds


def open_data(
    source: Any,
    *,
    modality: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    **settings: Any,
) -> Dataset:
    """Samples from files, folders, archives, arrays or an embedded set.

    Args:
        source: what `docs/data.md` lists.
        modality: what to read it as; default what its name or most of its files say, pictures in doubt.
        split: only this part (`train`, `val` or `test`) of what the source itself splits.
        limit: at most so many samples, spread evenly over the source.
        settings: what the reader of this modality can be told besides, such as `image_size`, `channels` or
            `cache` for pictures (`data.images.open_images`); None leaves a setting at its default.

    Raises:
        DataError: there is nothing, too much is broken, or the source cannot be understood.
        UsageError: a split, a modality or a setting that there is not.
    """
    if isinstance(source, Dataset):
        if modality not in (None, source.modality):
            raise DataError(f"{source.name} holds {source.modality} data, and {modality} data are asked for")
        dataset = source if split is None else part_of(source, split)
        return dataset if limit is None else dataset.subset(spread(len(dataset), limit))
    row = modalities.find(modality or modality_of(source))
    if str(source) in modalities.BY_EMBEDDED and str(source) not in row.embedded:
        raise DataError(
            f"{source} holds {modalities.BY_EMBEDDED[source]} data, and {row.name} data are asked for: "
            f"embedded are {', '.join(row.embedded)}"
        )
    reader = modalities.load(row.reader)
    given = {name: value for name, value in settings.items() if value is not None}
    known = set(inspect.signature(reader).parameters) - {"source", "split", "limit"}
    for name in given.keys() - known:
        near = get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)
        raise UsageError(f"{row.name} data are read without '{name}'; the nearest are: {', '.join(near)}")
    return reader(source, split=split, limit=limit, **given)


def modality_of(source: Any) -> str:
    """What a source holds, by its name or the names of its files; pictures in doubt."""
    if not isinstance(source, (str, os.PathLike)):
        return "image"
    if str(source) in modalities.BY_EMBEDDED:
        return modalities.BY_EMBEDDED[str(source)]
    path = Path(source).expanduser()
    names = islice(walk(path), LOOKED_AT) if path.is_dir() else [path.name]
    return modalities.of_files(suffix for name in names for suffix in suffixes(name))


def suffixes(name: str) -> list[str]:
    """`.gz` and `.nii.gz` of `brain.nii.gz`."""
    parts = Path(name.lower()).suffixes[-2:]
    return ["".join(parts[start:]) for start in range(len(parts))]
