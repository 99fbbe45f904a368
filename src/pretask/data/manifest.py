"""Samples that lie in several files: videos, sounds and what is said of them, listed in a table with times."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretask.data.dataset import Skipped
from pretask.data.layout import SPLITS
from pretask.errors import DataError

NAMES: dict[str, tuple[str, ...]] = {
    "video": ("video", "video_path", "clip", "path", "file"),
    "audio": ("audio", "audio_path", "sound"),
    "text": ("text", "caption", "transcript", "sentence"),
    "start": ("start", "start_time", "begin"),
    "end": ("end", "end_time", "stop"),
    "words": ("words",),
    "label": ("label", "class", "category"),
    "split": ("split", "set", "subset"),
}
"""What columns are called."""

UNITS, GAP = (3, 4, 5), 1.0  # seconds of a span of speech, and between two spans (TVTS)

Word = tuple[str, float]


class Piece(NamedTuple):
    """A sample, or a line of the table.

    Args:
        video: its file; none where the table has none.
        audio: likewise.
        texts: what is said, a text a span.
        start: where in the files it begins, in seconds.
        end: where it ends; none at their end.
        label: its class, if known.
        split: its part, if it has one.
        words: what is said with the time of each word, instead of texts.
    """

    video: str | None = None
    audio: str | None = None
    texts: tuple[str, ...] = ()
    start: float = 0.0
    end: float | None = None
    label: str | None = None
    split: str | None = None
    words: tuple[Word, ...] = ()

    @property
    def source(self) -> str:
        """The file it is called by."""
        return str(self.video or self.audio or "text")


def read_manifest(path: Path) -> tuple[list[Piece], list[Skipped]]:
    """The lines of a `.jsonl`, `.csv` or `.tsv`, and those that cannot be understood.

    Raises:
        DataError: it cannot be read, or none of its columns is known.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    found, skipped = list[Piece](), list[Skipped]()
    if path.suffix.lower() in (".csv", ".tsv"):
        lines: list[Any] = list(
            csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        )
    else:
        lines = [line for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        try:
            found.append(piece_of(line if isinstance(line, dict) else json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            skipped.append(Skipped(f"{path.name}, line {number + 1}", reason))
    if not any(piece.video or piece.audio or piece.texts or piece.words for piece in found):
        known = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in NAMES.items())
        raise DataError(
            f"{path} names no video, audio or text in any line; columns are looked for as {known}"
        )
    return found, skipped


def piece_of(line: dict[str, Any]) -> Piece:
    """
    Raises:
        ValueError: a time is no number, or words are no pairs.
    """
    lower = {str(key).strip().lower(): value for key, value in line.items()}
    given: dict[str, Any] = {}
    for kind, names in NAMES.items():
        value = next((lower[name] for name in names if lower.get(name) not in (None, "")), None)
        if value is not None:
            given[kind] = value
    words = tuple(word_of(word) for word in given.get("words", ()))
    start, end = float(given.get("start", 0)), given.get("end")
    if end is not None and not start < float(end):
        raise ValueError(f"begins at {start:g} and ends at {float(end):g} seconds")
    return Piece(
        given.get("video"), given.get("audio"), (str(given["text"]),) if "text" in given else (), start,
        None if end is None else float(end), None if "label" not in given else str(given["label"]),
        SPLITS.get(str(given.get("split", "")).lower()), words,
    )  # fmt: skip


def word_of(word: Any) -> Word:
    """Of `[word, time]`, `[word, start, end]` or `{"word": ..., "start": ...}`."""
    if isinstance(word, dict):
        return str(word["word"]), float(word["start"])
    return str(word[0]), float(word[1])


def joined(pieces: Sequence[Piece], spans: int, seed: int = 0) -> tuple[list[Piece], list[Skipped]]:
    """Samples of so many texts: lines of one file that follow each other, or spans cut from timed words; and
    what does not make one whole sample."""
    found, skipped, group = list[Piece](), list[Skipped](), list[Piece]()
    for number, piece in enumerate(pieces):
        if piece.words:
            cut = segments(piece, spans, np.random.default_rng([seed, number]))
            if not cut:
                skipped.append(Skipped(piece.source, f"is too short for {spans} spans of speech"))
            found += cut
            continue
        if group and (group[-1].source, group[-1].split) != (piece.source, piece.split):
            skipped += rest(group, spans, found)
            group = []
        group.append(piece)
        if len(group) == spans:
            texts = tuple(text for part in group for text in part.texts)
            found.append(group[0]._replace(texts=texts, end=group[-1].end))
            group = []
    return found, skipped + rest(group, spans, found)


def rest(group: list[Piece], spans: int, found: list[Piece]) -> list[Skipped]:
    """The lines at the end of a file that are too few for a sample; named only where the file has no other."""
    if not group or (found and found[-1].source == group[0].source):
        return []
    return [Skipped(group[0].source, f"has {len(group)} texts, fewer than {spans}")]


def segments(piece: Piece, spans: int, rng: np.random.Generator) -> list[Piece]:
    """Parts of a narrated file: spans of 3, 4 or 5 seconds with a second between them, anywhere; as many as would
    fit one behind the other. In a file that is too short spans shrink until they fill it, with a second between them
    still; none are found where nothing is left of them. The text of a span is all words whose time lies strictly
    inside it.

    What is said may be empty.
    """
    whole = piece.end if piece.end is not None else piece.words[-1][1]
    gaps = (spans - 1) * GAP
    longest, usual = whole - piece.start, spans * UNITS[1] + gaps
    if longest <= gaps:
        return []
    found = []
    for _ in range(max(1, int(longest // usual))):
        length = min(spans * UNITS[int(rng.integers(len(UNITS)))] + gaps, longest)
        unit = (length - gaps) / spans
        start = float(rng.uniform(piece.start, whole - length))
        begins = [start + number * (unit + GAP) for number in range(spans)]
        texts = tuple(
            " ".join(word for word, time in piece.words if begin < time < begin + unit) for begin in begins
        )
        found.append(piece._replace(texts=texts, start=start, end=start + length, words=()))
    return found
