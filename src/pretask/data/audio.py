"""Sound, whatever it lies in, as one kind of data set: equally long pieces at one rate, mono."""

from __future__ import annotations

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pretask.data.arrays import LABELS as ARRAY_LABELS
from pretask.data.dataset import Dataset, Skipped, check_broken, name_skipped, part_of, spread
from pretask.data.decode import memory_budget, threads
from pretask.data.formats import Broken, reasons
from pretask.data.gather import Cache, chosen, fifth
from pretask.data.layout import empty, encode_labels, read_layout, sift, walk, walk_zip
from pretask.data.lists import LABELS, PATHS
from pretask.data.music import KEYS, Tracks
from pretask.data.sounds import EXTENSIONS, Facts, Parts, keep, measure
from pretask.data.source import Source
from pretask.data.stores import Files, Zip
from pretask.errors import DataError, UsageError

RATE = 22050
LONG = 30.0  # seconds of a piece at most, where nobody says
SONG, SONGS = 6.0, 720  # seconds and number of the embedded pieces
SONG_SHARE = 4  # of the embedded pieces of each key every fourth is for testing
MOST_WORKERS = 8
TABLES = (".csv", ".tsv")
SOUNDS = ("audio", "sound", "wave", "waveform", "x", "X", "data", "arr_0")
RECORDINGS = EXTENSIONS | {".npy"}
ACCEPTED = (
    f"accepted are a folder or .zip of recordings ({' '.join(sorted(EXTENSIONS))} .npy; in class folders or "
    "not, below train/val/test or not, or with a .csv of labels beside them), such a table, one recording, an "
    ".npz or array (recordings, samples), and the embedded cadences"
)


def open_audio(
    source: Any,
    *,
    split: str | None = None,
    limit: int | None = None,
    max_broken: float = 0.2,
    workers: int | None = None,
    rate: int = RATE,
    seconds: float | None = None,
    pieces: int | None = None,
    label: str | None = None,
    cache: Cache = "auto",
) -> Dataset:
    """Pieces of recordings: files in a folder, an archive or a table, arrays, or `cadences`.

    The batch has `audio` (B, S). A recording makes as many pieces as fit into it one behind the other, at
    least one; a shorter one has silence behind it.

    Args:
        source: what `docs/data.md` lists.
        split: only this part (`train`, `val` or `test`) of what the source itself splits.
        limit: at most so many pieces, spread evenly.
        max_broken: the largest share of unreadable recordings that is put up with.
        workers: processes that decode what is not in memory; default one a core, at most 8.
        rate: samples a second that all recordings are brought to.
        seconds: of a piece; default the median recording's length, at most 30; of embedded pieces 6.
        pieces: of a recording at most, spread over it; default as many as fit.
        label: the column of a table that holds the classes; default one called `label`, `class` ...
        cache: `memory` decodes everything now, `never` when asked for, `auto` by the memory that is free.

    Raises:
        DataError: there is nothing, too much is broken, or the source cannot be understood.
        UsageError: a split that is not there, or a number that makes no sense.
    """
    if rate < 1000 or (seconds is not None and seconds * rate < 1) or (pieces is not None and pieces < 1):
        raise UsageError(
            f"rate must be at least 1000, seconds and pieces positive, not {rate}, {seconds} and {pieces}"
        )
    if str(source) == "cadences":
        dataset = cadences(seconds or SONG, rate)
        dataset = dataset if split is None else part_of(dataset, split)
        return dataset if limit is None else dataset.subset(spread(len(dataset), limit))
    found = find_sounds(source, label)
    facts, broken = survey(found, rate)
    skipped = [Skipped(str(found.store.names[row]), reason) for row, reason in sorted(broken.items())]
    total = len(found.store.names)
    check_broken(found.name, skipped, total, max_broken if facts else 0)
    if seconds is None:
        lengths = sorted(fact.seconds for fact in facts.values())
        seconds = min(lengths[len(lengths) // 2], LONG)
    place = laid_out(facts, seconds, pieces)
    if (tested := fifth(found, place[:, 0].long())) is not None:
        found = replace(found, parts=tested, part_names=("train", "test"))
    place = place[chosen(found, place[:, 0].long(), split, limit)]
    dataset = decoded(found, Parts(found.store, place, seconds, rate), skipped, cache, max_broken)
    dataset.workers = min(threads(), MOST_WORKERS) if workers is None else workers
    return dataset if split is None else part_of(dataset, split)


def laid_out(facts: dict[int, Facts], seconds: float, most: int | None) -> Float[Tensor, "pieces 2"]:
    """The recording and the second in it at which each piece begins."""
    begins = []
    for row, fact in sorted(facts.items()):
        count = max(1, int(fact.seconds / seconds + 1e-6))
        begins += [(row, number * seconds) for number in spread(count, most or count).tolist()]
    return torch.tensor(begins, dtype=torch.float64)


def survey(found: Source, rate: int) -> tuple[dict[int, Facts], dict[int, str]]:
    """What the recordings are by their headers, and why some of them cannot be told."""

    def look(row: int) -> Facts | str:
        try:
            with reasons():
                return measure(found.store.read(row), rate)
        except Broken as error:
            return str(error)

    with ThreadPoolExecutor(threads()) as pool:
        seen = dict(enumerate(pool.map(look, range(len(found.store.names)))))
    return (
        {row: fact for row, fact in seen.items() if isinstance(fact, Facts)},
        {row: reason for row, reason in seen.items() if isinstance(reason, str)},
    )


def decoded(found: Source, parts: Parts, skipped: list[Skipped], cache: Cache, max_broken: float) -> Dataset:
    """Pieces in memory if they fit.

    Raises:
        DataError: too many cannot be decoded.
    """
    rows = torch.arange(len(parts))
    needed = 2 * len(rows) * round(parts.seconds * parts.rate)
    in_memory = cache == "memory" or (cache == "auto" and needed <= memory_budget())
    samples, broken = keep(parts, rows) if in_memory else (parts, {})
    total = len(rows) + len(skipped)
    skipped += [Skipped(parts.name(row), reason) for row, reason in sorted(broken.items())]
    readable = torch.tensor([row not in broken for row in rows.tolist()])
    check_broken(found.name, skipped, total, max_broken if readable.any() else 0)
    name_skipped(found.name, skipped, "recording")
    file = parts.place[:, 0].long()
    facts: dict[str, Any] = {
        "rate": f"{parts.rate} samples a second",
        "piece": f"{parts.seconds:g} s, of {len(file.unique())} recordings",
        "memory": f"{'decoded once into memory' if in_memory else 'decoded when needed'} ({needed / 1e6:.1f} MB)",
    }
    if found.ignored:
        facts["other files"] = found.ignored
    return Dataset(
        samples, found.name, modality="audio", inputs={"rate": parts.rate},
        rows=readable.nonzero().flatten(), targets=None if found.targets is None else found.targets[file],
        classes=found.classes, parts=None if found.parts is None else found.parts[file],
        part_names=found.part_names, skipped=skipped, max_broken=max_broken, facts=facts,
    )  # fmt: skip


def cadences(seconds: float, rate: int) -> Dataset:
    """The made-up pieces: thirty in each of 24 keys; each half of a piece is another progression."""
    rows = torch.arange(SONGS)
    return Dataset(
        Tracks(SONGS, seconds, rate), "cadences", modality="audio", inputs={"rate": rate},
        targets=rows % len(KEYS), classes=KEYS, parts=(rows // len(KEYS) % SONG_SHARE == SONG_SHARE - 1).long(),
        part_names=("train", "test"),
        facts={"rate": f"{rate} samples a second", "piece": f"{seconds:g} s", "memory": "made when needed"},
    )  # fmt: skip


def find_sounds(source: Any, label: str | None) -> Source:
    """
    Raises:
        DataError: it is not there, or nothing that can be read.
    """
    if not isinstance(source, (str, os.PathLike)):
        return from_objects(source)
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        return from_folder(path, label)
    if not path.is_file():
        raise DataError(f"there is no '{source}'; {ACCEPTED}")
    if suffix == ".zip":
        return from_zip(path)
    if suffix in TABLES:
        return labelled(from_folder(path.parent, None), path, label, only=True)
    if suffix in (".npz", ".npy"):
        return from_stack(path)
    if suffix in EXTENSIONS:
        return Source(str(path), Files(path.parent, [path.name]))
    raise DataError(f"{path}: a file of type '{path.suffix}' is no data set; {ACCEPTED}")


class Rows:
    """Recordings in one array (recordings, samples)."""

    def __init__(self, array: np.ndarray):
        array = array[None] if array.ndim == 1 else array
        if array.ndim != 2 or not array.size:
            raise DataError(f"an array of shape {array.shape} holds no recordings; {ACCEPTED}")
        self.array, self.names = array, range(len(array))

    def read(self, row: int) -> np.ndarray:
        return self.array[row]


def from_objects(source: Any) -> Source:
    """An array, or a pair of one and of classes.

    Raises:
        DataError: it is neither.
    """
    if isinstance(source, tuple) and len(source) == 2:
        found = from_objects(source[0])
        found.targets, found.classes = encode_labels(np.asarray(source[1]).tolist())
        return found
    if isinstance(source, (np.ndarray, Tensor)):
        return Source("arrays", Rows(np.asarray(source)))
    raise DataError(f"{type(source).__name__} objects hold no sound; {ACCEPTED}")


def from_stack(path: Path) -> Source:
    """An `.npy`, or an `.npz` with sound and perhaps classes.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    try:
        with reasons():
            loaded: Any = np.load(path, allow_pickle=False)
            held = (
                {"audio": loaded} if isinstance(loaded, np.ndarray) else {n: loaded[n] for n in loaded.files}
            )
    except Broken as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    name = next((name for name in SOUNDS if name in held), None)
    if name is None:
        raise DataError(f"{path} holds {', '.join(held)}; sound is looked for as {', '.join(SOUNDS)}")
    found = Source(str(path), Rows(held[name]))
    classes = next((held[key] for key in ARRAY_LABELS if key in held), None)
    if classes is not None:
        found.targets, found.classes = encode_labels(classes.tolist())
    return found


def from_folder(root: Path, label: str | None) -> Source:
    """A folder of recordings, or of one zip of them; a table at its top labels them where class folders do not.

    Raises:
        DataError: there are none.
    """
    everything = sorted(walk(root))
    names, ignored = sift(everything, RECORDINGS)
    zips = [name for name in everything if name.lower().endswith(".zip")]
    if names:
        found = Source(str(root), Files(root, names), *read_layout(names), ignored)
    elif len(zips) == 1:
        found = from_zip(root / zips[0])
    else:
        raise empty(root, "recordings", RECORDINGS, ignored, ACCEPTED)
    for name in everything:
        if Path(name).suffix.lower() in TABLES and os.sep not in name and found.targets is None:
            found = labelled(found, root / name, label)
    if label is not None and found.targets is None:
        raise DataError(
            f"{root}: no table at the top of the folder has a column '{label}' and recordings' names"
        )
    return found


def from_zip(path: Path) -> Source:
    """A zip of recordings, read without unpacking.

    Raises:
        DataError: it is damaged or has none.
    """
    names, ignored = sift(walk_zip(path), RECORDINGS)
    if not names:
        raise empty(path, "recordings", RECORDINGS, ignored, ACCEPTED)
    return Source(str(path), Zip(path, names), *read_layout(names), ignored)


def labelled(found: Source, table: Path, label: str | None, only: bool = False) -> Source:
    """The recordings with the classes of a table, whose names are theirs with or without folders.

    Args:
        found: recordings in a folder.
        table: with a header, a column of names (`file`, `path` ...) and one of classes.
        label: the latter's name; default one of `lists.LABELS`.
        only: leave out what the table does not name.

    Raises:
        DataError: the table cannot be read, or `only` and it names no recording.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="," if table.suffix.lower() == ".csv" else "\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read: {error}") from error
    header = {name.strip().lower(): name for name in (rows[0] if rows else {}) if name}
    path = next((header[name] for name in PATHS if name in header), None)
    wanted = LABELS if label is None else (label.lower(),)
    column = next((header[name] for name in wanted if name in header), None)
    stated = (
        {row[path].strip(): (row[column] or "").strip() if column else "" for row in rows} if path else {}
    )
    by_name = {os.path.basename(name): value for name, value in stated.items()}
    names = list(found.store.names)
    own = [stated.get(name, by_name.get(os.path.basename(name))) for name in names]
    if only and all(value is None for value in own):
        raise DataError(
            f"{table} names no recording beside or below it: a header with a column called one of "
            f"{', '.join(PATHS)} is looked for"
        )
    if not only:
        targets, classes = encode_labels([value or None for value in own])
        return found if targets is None else replace(found, targets=targets, classes=classes)
    chosen = [row for row, value in enumerate(own) if value is not None]
    store = Files(table.parent, [names[row] for row in chosen])
    targets, classes = encode_labels([own[row] or None for row in chosen])
    parts = None if found.parts is None else found.parts[chosen]
    return replace(found, store=store, targets=targets, classes=classes, parts=parts)
