"""Tracks of people and other things that move: positions on a plane, cut into windows of equal length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from pretask.data.dataset import Dataset, Memory, Skipped, check_broken, part_of, spread
from pretask.data.layout import ORDER, SPLITS, encode_labels, walk
from pretask.errors import DataError, UsageError

SUFFIXES = (".txt", ".csv", ".tsv")
WALKERS = ("straight", "turning left", "turning right", "stopping")
SHARE = 5  # of the tracks of a recording every fifth, the last ones, is for testing

Recording = Float[np.ndarray, "rows 4"]
"""Rows of frame, identity, x, y."""


def open_tracks(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    max_broken: float = 0.2,
    window: int = 20,
    stride: int = 1,
    held_out: str | None = None,
) -> Dataset:
    """Windows of tracks from recordings: text files, an `.npz` of them, a folder of either, or `walkers`.

    A recording is rows of frame, identity, x, y (metres): the ETH/UCY layout. The batch has `track`
    (B, 1, window, 2). Frames of a recording lie its smallest step apart; a window has no gap.

    Args:
        source: what `docs/data.md` lists.
        split: only this part (`train`, `val` or `test`).
        limit: at most so many windows, spread evenly.
        max_broken: the largest share of unreadable files that is put up with.
        window: positions in a sample.
        stride: positions between the starts of two windows of a track.
        held_out: a recording that is the test part, or a fold of `test_scenes.json` beside the file; default
            the folders' `train`, `val` and `test`, else the last fifth of each recording's tracks.

    Raises:
        DataError: there is nothing, or nothing that can be read.
        UsageError: a split or a recording that is not there, or a number that makes no sense.
    """
    if window < 2 or stride < 1:
        raise UsageError(f"window must be at least 2 and stride at least 1, not {window} and {stride}")
    if str(source) == "walkers":
        return finish(walkers(window), "walkers", [], split, limit)
    recordings, skipped = read_recordings(Path(source).expanduser())
    check_broken(str(source), skipped, len(recordings) + len(skipped), max_broken if recordings else 0)
    tests = scenes_of(Path(source).expanduser(), held_out, list(recordings)) if held_out else set()
    tracks, names, parts = [], [], []
    for name, rows in recordings.items():
        found, number, count = windows(rows, window, stride)
        tracks.append(found)
        names += [Path(name).stem] * len(found)
        folder = next(
            (SPLITS[part.lower()] for part in Path(name).parts[:-1] if part.lower() in SPLITS), None
        )
        if held_out:
            parts += ["test" if name in tests else "train"] * len(found)
        elif folder:
            parts += [folder] * len(found)
        else:
            parts += ["test" if place >= count - count // SHARE else "train" for place in number.tolist()]
    whole = np.concatenate(tracks)
    if not len(whole):
        raise DataError(f"{source}: no track is seen in {window} frames running: a smaller window may help")
    return finish((whole, names, parts), str(source), skipped, split, limit)


def finish(
    found: tuple[np.ndarray, list[str], list[str]], name: str, skipped: list[Skipped], split: str | None,
    limit: int | None,
) -> Dataset:  # fmt: skip
    """Windows with their recordings (or kinds) as classes, as a data set."""
    track, labels, parts = found
    targets, classes = encode_labels(labels)
    there = tuple(part for part in ORDER if part in set(parts))
    dataset = Dataset(
        Memory({"track": torch.from_numpy(track).float()[:, None]}), name, modality="track",
        inputs={"length": track.shape[1]}, targets=targets, classes=classes,
        parts=torch.tensor([there.index(part) for part in parts]), part_names=there, skipped=skipped,
        facts={"window": f"{track.shape[1]} positions", "memory": "in memory"},
    )  # fmt: skip
    dataset = dataset if split is None else part_of(dataset, split)
    return dataset if limit is None else dataset.subset(spread(len(dataset), limit))


def read_recordings(path: Path) -> tuple[dict[str, Recording], list[Skipped]]:
    """Recordings by name, and the files that are none.

    Raises:
        DataError: there is no such file or folder.
    """
    if path.is_dir():
        names = [name for name in walk(path) if Path(name).suffix.lower() in (*SUFFIXES, ".npz")]
        files = {name: path / name for name in names if Path(name).stem.lower() != "readme"}
    elif path.is_file():
        files = {path.name: path}
    else:
        raise DataError(f"there is no '{path}': a folder or file of tracks (frame, identity, x, y a line)")
    recordings: dict[str, Recording] = {}
    skipped = []
    for name, file in files.items():
        try:
            if file.suffix.lower() == ".npz":
                with np.load(file, allow_pickle=False) as held:
                    recordings |= {key: checked(held[key]) for key in held.files}
            else:
                recordings[name] = checked(read_text(file))
        except (OSError, ValueError) as error:
            skipped.append(Skipped(name, " ".join(str(error).split())[:200] or type(error).__name__))
    if not recordings and not skipped:
        raise DataError(f"'{path}' holds no {', '.join(SUFFIXES)} or .npz with tracks")
    return recordings, skipped


def read_text(file: Path) -> Recording:
    """Numbers separated by blanks, tabs or commas; lines that begin with a letter or # are a header."""
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    rows = [line.replace(",", " ").split() for line in lines if line.strip() and not line[0].isalpha()]
    return np.array([row[:4] for row in rows if not row[0].startswith("#")], dtype=np.float64)


def checked(rows: Any) -> Recording:
    """
    Raises:
        ValueError: it is no table of four finite columns.
    """
    if rows.ndim != 2 or rows.shape[1] != 4 or not len(rows):
        raise ValueError(f"rows of frame, identity, x, y are expected, not an array of shape {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError("holds values that are not finite")
    return rows.astype(np.float64)


def scenes_of(source: Path, held_out: str, recordings: list[str]) -> set[str]:
    """The recordings that a fold of `test_scenes.json`, or a name, leaves for testing.

    Raises:
        UsageError: there is neither.
    """
    folder = source if source.is_dir() else source.parent
    folds: dict[str, list[str]] = {}
    if (folder / "test_scenes.json").is_file():
        folds = json.loads((folder / "test_scenes.json").read_text(encoding="utf-8"))
    names = set(folds.get(held_out, [held_out]))
    chosen = {name for name in recordings if Path(name).stem in names or name in names}
    if not chosen:
        known = ", ".join([*folds, *(Path(name).stem for name in recordings)])
        raise UsageError(f"there is no recording '{held_out}' to hold out; there is: {known}")
    return chosen


def windows(
    rows: Recording, window: int, stride: int
) -> tuple[Float[np.ndarray, "windows window 2"], np.ndarray, int]:
    """All gapless windows of a recording, the number of the track each is of, and how many tracks there are.

    Tracks are numbered in the order in which they begin.
    """
    frames = np.unique(rows[:, 0])
    step = np.diff(frames).min() if len(frames) > 1 else 1.0
    rows = rows[np.lexsort((rows[:, 0], rows[:, 1]))]
    _, first, identity = np.unique(rows[:, 1], return_index=True, return_inverse=True)
    rank = rows[first, 0].argsort(kind="stable").argsort()[identity]
    starts = np.arange(max(len(rows) - window + 1, 0))
    ends = starts + window - 1
    whole = (identity[starts] == identity[ends]) & np.isclose(
        rows[ends, 0] - rows[starts, 0], step * (window - 1)
    )
    place = np.arange(len(rows)) - np.searchsorted(identity, identity)  # in its own track
    starts = starts[whole & (place[starts] % stride == 0)]
    return rows[starts[:, None] + np.arange(window), 2:], rank[starts], len(first)


def walkers(window: int, count: int = 3000, seed: int = 0) -> tuple[np.ndarray, list[str], list[str]]:
    """Pedestrians made up: each walks at its pace and goes straight, turns left or right, or stops, beginning
    somewhere along the way; positions carry a few centimetres of noise. A quarter is the test part."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(len(WALKERS), size=count)
    turn = np.select([kind == 1, kind == 2], [1.0, -1.0], 0.0) * rng.uniform(0.08, 0.2, count)
    begin = rng.integers(window // 4, window // 2, size=count)
    after = np.arange(window) >= begin[:, None]
    heading = rng.uniform(0, 2 * np.pi, (count, 1)) + np.cumsum(after * turn[:, None], axis=1)
    slowing = np.where((kind == 3)[:, None] & after, 0.6, 1.0).cumprod(axis=1)
    pace = rng.uniform(0.3, 0.7, (count, 1)) * slowing
    step = np.stack([np.cos(heading), np.sin(heading)], axis=2) * pace[..., None]
    track = rng.uniform(-5, 5, (count, 1, 2)) + step.cumsum(axis=1) + rng.normal(0, 0.02, step.shape)
    parts = ["test" if test else "train" for test in rng.random(count) < 0.25]
    return track, [WALKERS[k] for k in kind], parts
