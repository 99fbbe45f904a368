"""Skeletons over time: motion capture from files, cut into samples of at most so many frames."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from pretask.data.dataset import Dataset, Memory, Skipped, check_broken, part_of, spread
from pretask.data.kinematics import read_bvh
from pretask.data.layout import ORDER, SPLITS, UNLABELLED, encode_labels, read_layout, walk
from pretask.data.puppets import ACTIONS, puppets
from pretask.errors import DataError, UsageError

SUFFIXES = (".npz", ".npy", ".csv", ".bvh")

Places = Float[np.ndarray, "frames persons joints 3"]


class Sequence(NamedTuple):
    """A recording.

    Args:
        places: of all joints; zeros where a person is absent.
        label: its action, if known.
        part: its split, if it has one.
    """

    places: Places
    label: str | None = None
    part: str | None = None


def open_poses(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    max_broken: float = 0.2,
    window: int = 300,
    hop: int | None = None,
    every: int = 1,
    centre: int = 0,
    spread_to: float = 0.0,
    without: str | None = None,
    test_each: int = 0,
) -> Dataset:
    """Samples from sequences of skeletons: files, a folder of them, or `puppets`.

    The batch has `pose` (B, T, persons * joints, 3), padded with zeros, and `frames` (B,), how many are there.

    Args:
        source: what `docs/data.md` lists.
        split: only this part (`train`, `val` or `test`).
        limit: at most so many samples, spread evenly.
        max_broken: the largest share of unreadable files or sequences that is put up with.
        window: frames of a sample at most; longer sequences make several.
        hop: frames between the beginnings of a sequence's samples; default `window`: they do not overlap.
        every: of the frames only each so-many-th, to lower the rate.
        centre: joint of the first person whose place in a sample's first frame is its origin; -1 leaves
            coordinates as they are.
        spread_to: bring all positions to a unit in which joints lie so far from their person's middle, in the root
            of the mean square: 0.45 is about metres, which is what methods expect; 0 leaves coordinates as they are.
        without: leave out the sequences of these actions, with commas between them, where there are any.
        test_each: instead of the source's own split, of the sequences of each action the last of so many is for
            testing; 0 keeps the source's.

    Raises:
        DataError: there is nothing, or nothing that can be read.
        UsageError: a split or an action that is not there, or a number that makes no sense.
    """
    hop = window if hop is None else hop
    if min(window, hop, every) < 1 or spread_to < 0 or test_each < 0 or test_each == 1:
        raise UsageError(
            f"window, hop and every must be positive, test_each 0 or from 2, spread_to not negative: not {window}, "
            f"{hop}, {every}, {test_each} and {spread_to}"
        )
    if str(source) == "puppets":
        sequences, skipped = list(of_puppets()), list[Skipped]()
    else:
        sequences, skipped = read_sequences(Path(source).expanduser())
        sequences, odd = alike(sequences)
        skipped += odd
    check_broken(str(source), skipped, len(sequences) + len(skipped), max_broken if sequences else 0)
    kept = [row for _, row in sequences]
    if without:
        gone = {name.strip() for name in without.split(",")}
        kept = [row for row in kept if row.label not in gone]
        if not kept:
            raise UsageError(f"{source}: without {without} nothing is left")
    kept = split_anew(kept, test_each) if test_each else kept
    shape = kept[0].places.shape[1:]
    if not -1 <= centre < shape[1]:
        raise UsageError(f"centre must be one of the {shape[1]} joints from 0, or -1, not {centre}")
    pose, frames, origin = cut(
        kept, window, hop, every, centre, spread_to / spread_of(kept) if spread_to else 1
    )
    return finish(pose, frames, [kept[i] for i in origin], shape, str(source), skipped, split, limit)


def spread_of(sequences: list[Sequence]) -> float:
    """Root of the mean squared distance of joints from the middle of their person, absent ones left out."""
    total, count = 0.0, 0
    for places, _, _ in sequences:
        there = places[places.any((2, 3))].astype(np.float64)  # (persons in frames, joints, 3)
        total += float(np.square(there - there.mean(1, keepdims=True)).sum())
        count += there.shape[0] * there.shape[1]
    return max((total / max(count, 1)) ** 0.5, 1e-9)


def split_anew(sequences: list[Sequence], each: int) -> list[Sequence]:
    """Of each action every `each`-th sequence, counted from the first, is the test part."""
    seen: Counter[str | None] = Counter()
    parted = []
    for row in sequences:
        seen[row.label] += 1
        parted.append(row._replace(part="test" if seen[row.label] % each == 0 else "train"))
    return parted


def cut(
    sequences: list[Sequence], window: int, hop: int, every: int, centre: int, factor: float
) -> tuple[Float[np.ndarray, "samples frames bodies 3"], Int[np.ndarray, "samples"], list[int]]:
    """Samples, how many frames of each are there, and the sequence each is of.

    A sequence's samples begin `hop` apart; a rest at its end is part of a last one that ends with it.
    """
    parts, origin = [], []
    for number, (places, _, _) in enumerate(sequences):
        places = places[::every]
        last = max(len(places) - window, 0)
        starts = [*range(0, last, hop), last]
        parts += [places[start : start + window] for start in starts]
        origin += [number] * len(starts)
    frames = np.array([len(part) for part in parts])
    persons, joints = sequences[0].places.shape[1:3]
    pose = np.zeros((len(parts), frames.max(), persons * joints, 3), dtype=np.float32)
    for row, part in zip(pose, parts, strict=True):
        if centre >= 0:  # an absent person stays where it is not
            there = part.any((2, 3), keepdims=True)
            part = np.where(there, part - part[0, 0, centre], 0)
        row[: len(part)] = part.reshape(len(part), -1, 3) * factor
    return pose, frames, origin


def finish(
    pose: np.ndarray, frames: np.ndarray, rows: list[Sequence], shape: tuple[int, ...], name: str,
    skipped: list[Skipped], split: str | None, limit: int | None,
) -> Dataset:  # fmt: skip
    """Samples with their labels and splits as a data set."""
    there = tuple(part for part in ORDER if part in {row.part for row in rows})
    places = [UNLABELLED if row.part is None else there.index(row.part) for row in rows]
    targets, classes = encode_labels([row.label for row in rows])
    dataset = Dataset(
        Memory({"pose": torch.from_numpy(pose), "frames": torch.from_numpy(frames)}), name, modality="pose",
        inputs={"joints": shape[1], "persons": shape[0]}, targets=targets, classes=classes,
        parts=torch.tensor(places) if there else None, part_names=there, skipped=skipped,
        facts={
            "skeleton": f"{shape[1]} joints, persons: {shape[0]}",
            "frames": f"{frames.min()} to {frames.max()}", "memory": "in memory",
        },
    )  # fmt: skip
    dataset = dataset if split is None else part_of(dataset, split)
    return dataset if limit is None else dataset.subset(spread(len(dataset), limit))


def of_puppets() -> Iterator[tuple[str, Sequence]]:
    """The made-up set; a quarter is the test part."""
    made = puppets()
    for number, (joints, frames, action) in enumerate(zip(*made, strict=True)):
        part = "test" if number % 4 == 3 else "train"
        yield str(number), Sequence(joints[:frames, None], ACTIONS[action], part)


def read_sequences(path: Path) -> tuple[list[tuple[str, Sequence]], list[Skipped]]:
    """Sequences with a name each, and the files and sequences that are none.

    Raises:
        DataError: there is no such file or folder, or none with skeletons.
    """
    if path.is_dir():
        names = sorted(name for name in walk(path) if Path(name).suffix.lower() in SUFFIXES)
        files = [path / name for name in names]
    elif path.is_file() and path.suffix.lower() in SUFFIXES:
        names, files = [path.name], [path]
    else:
        raise DataError(f"there is no '{path}': a folder or file of skeletons ({', '.join(SUFFIXES)})")
    if not files:
        raise DataError(f"'{path}' holds no {', '.join(SUFFIXES)} with skeletons")
    layout, found, skipped = read_layout(names), list[tuple[str, Sequence]](), list[Skipped]()
    for number, (name, file) in enumerate(zip(names, files, strict=True)):
        label = part = None
        if layout.targets is not None and layout.classes and layout.targets[number] >= 0:
            label = layout.classes[int(layout.targets[number])]
        if layout.parts is not None and layout.parts[number] >= 0:
            part = layout.part_names[int(layout.parts[number])]
        try:
            rows = READERS[file.suffix.lower()](file)
        except (OSError, ValueError, KeyError) as error:
            skipped.append(Skipped(name, " ".join(str(error).split())[:200] or type(error).__name__))
            continue
        for place, row in enumerate(rows):
            own = name if len(rows) == 1 else f"{name}[{place}]"
            if not len(row.places) or not np.isfinite(row.places).all():
                reason = "holds values that are not finite" if len(row.places) else "has no frames"
                skipped.append(Skipped(own, reason))
            else:
                found.append((own, row._replace(label=row.label or label, part=row.part or part)))
    return found, skipped


def alike(found: list[tuple[str, Sequence]]) -> tuple[list[tuple[str, Sequence]], list[Skipped]]:
    """The sequences of the skeleton that most have, and the others by name."""
    shapes = Counter(row.places.shape[1:3] for _, row in found)
    usual = shapes.most_common(1)[0][0] if shapes else (0, 0)
    odd = [
        Skipped(name, f"persons and joints are {row.places.shape[1:3]}, of most {usual}")
        for name, row in found
        if row.places.shape[1:3] != usual
    ]
    return [pair for pair in found if pair[1].places.shape[1:3] == usual], odd


def single(places: np.ndarray) -> list[Sequence]:
    """One person's sequence, (frames, joints, 3)."""
    if places.ndim != 3 or places.shape[2] != 3 or not places.shape[1]:
        raise ValueError(f"(frames, joints, 3) is expected, not an array of shape {places.shape}")
    return [Sequence(places[:, None].astype(np.float32))]


def read_csv(file: Path) -> list[Sequence]:
    """A frame a row: x, y, z of one joint after the other, perhaps behind a column with the time. A header
    may order them otherwise: names that end in x, y and z and are else the same belong together."""
    with file.open(newline="", encoding="utf-8-sig") as opened:
        rows = [row for row in csv.reader(opened) if any(cell.strip() for cell in row)]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if any(cell and cell[0].isalpha() for cell in header):
        rows = rows[1:]
        stems = [name[:-1] for name in header]
        whole = [s for s in dict.fromkeys(stems) if all(s + axis in header for axis in "xyz")]
        order = [header.index(stem + axis) for stem in whole for axis in "xyz"]
    else:
        order = list(range(len(header) % 3, len(header)))
        if len(header) % 3 == 2:
            raise ValueError(f"{len(header)} columns are not three for each joint, with or without a time")
    values = np.array([[float(row[column]) for column in order] for row in rows if len(row) == len(header)])
    if not order or len(values) != len(rows) or not len(rows):
        raise ValueError("is no table of joints: a header alone, no x, y and z, or rows of different length")
    return single(values.reshape(len(values), -1, 3))


def read_npz(file: Path) -> list[Sequence]:
    """The stacks that `docs/data.md` lists.

    Raises:
        ValueError: there is none, or its parts do not fit.
    """
    with np.load(file, allow_pickle=False) as opened:
        held: dict[str, Any] = {name: opened[name] for name in opened.files}
    if "start" in held and "joints" in held:
        return one_behind_the_other(held)
    if "x_train" in held or "x_test" in held:
        found = []
        for part in ("train", "val", "test"):
            if f"x_{part}" in held:
                labels = held.get(f"y_{part}")
                found += stacked(held[f"x_{part}"], labels, None, held, [part] * len(held[f"x_{part}"]))
        return found
    name = next((name for name in ("joints", "pose", "x", "data") if name in held), None)
    if name is None:
        raise ValueError("has neither 'joints', 'pose', 'x' nor 'data', nor 'x_train'")
    if held[name].ndim == 3 and held[name].shape[2] == 3:
        return single(held[name])
    labels = next((held[key] for key in ("label", "y") if key in held), None)
    length = next((held[key] for key in ("length", "frames") if key in held), None)
    return stacked(held[name], labels, length, held, parts_of(held, len(held[name])))


def stacked(
    places: np.ndarray, labels: Any, length: Any, held: dict[str, Any], parts: list[str | None]
) -> list[Sequence]:
    """Sequences of equal length, or padded with zeros: (N, T, V, 3), (N, 3, T, V, M), or the authors' files of
    NTU RGB+D, (N, T, M * 25 * 3)."""
    if places.ndim == 5 and places.shape[1] == 3:
        places = places.transpose(0, 2, 4, 3, 1)
    elif places.ndim == 4 and places.shape[3] == 3:
        places = places[:, :, None]
    elif places.ndim == 3 and places.shape[2] % 75 == 0:
        places = places.reshape(*places.shape[:2], -1, 25, 3)
    else:
        raise ValueError(f"no stack of skeletons has shape {places.shape}: see docs/data.md")
    if length is None:  # to the last frame in which there is anything
        seen = (places != 0).any((2, 3, 4))
        length = places.shape[1] - seen[:, ::-1].argmax(1)
        length = np.where(seen.any(1), length, 0)
    names = labels_of(labels, held, len(places))
    return [
        Sequence(row[: int(count)].astype(np.float32), name, part)
        for row, count, name, part in zip(places, length, names, parts, strict=True)
    ]


def one_behind_the_other(held: dict[str, Any]) -> list[Sequence]:
    """Frames of all sequences in one array `joints` (frames, V, 3), cut at `start`; `root` is added to all
    joints of a frame."""
    joints = single(held["joints"])[0].places
    if "root" in held:
        joints = joints + held["root"].astype(np.float32)[:, None, None]
    start = held["start"].astype(int)
    length = held["length"].astype(int) if "length" in held else np.diff([*start, len(joints)])
    if len(start) != len(length) or (start < 0).any() or (start + length > len(joints)).any():
        raise ValueError("'start' and 'length' point beyond 'joints'")
    names, parts = labels_of(held.get("label"), held, len(start)), parts_of(held, len(start))
    return [
        Sequence(joints[begin : begin + count], name, part)
        for begin, count, name, part in zip(start, length, names, parts, strict=True)
    ]


def labels_of(labels: Any, held: dict[str, Any], count: int) -> list[str | None]:
    """A label for each sequence, by name where `action_names` or `classes` has names; one-hot rows count as
    the place of the one."""
    if labels is None:
        return [None] * count
    labels = labels.argmax(1) if labels.ndim == 2 else labels
    if len(labels) != count:
        raise ValueError(f"there are {len(labels)} labels for {count} sequences")
    names = next((held[key] for key in ("action_names", "classes") if key in held), None)
    if names is None or labels.dtype.kind not in "iu":
        return [str(label) for label in labels]
    return [str(names[label]) if 0 <= label < len(names) else None for label in labels.tolist()]


def parts_of(held: dict[str, Any], count: int) -> list[str | None]:
    """A split for each sequence: `split` has names, `is_test` truth values."""
    if "is_test" in held:
        return ["test" if test else "train" for test in held["is_test"].tolist()]
    if "split" in held:
        return [SPLITS.get(str(part).lower()) for part in held["split"].tolist()]
    return [None] * count


READERS: dict[str, Callable[[Path], list[Sequence]]] = {
    ".npz": read_npz,
    ".npy": lambda file: npy(np.load(file, allow_pickle=False)),
    ".csv": read_csv,
    ".bvh": lambda file: single(read_bvh(file)),
}


def npy(places: np.ndarray) -> list[Sequence]:
    """One sequence (frames, joints, 3), or a stack."""
    if places.ndim == 3 and places.shape[2] == 3:
        return single(places)
    return stacked(places, None, None, {}, [None] * len(places))
