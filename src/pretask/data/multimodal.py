"""Samples with any of video, sound and text, as one data set: a part of the batch for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.data.dataset import Dataset, Samples, Skipped, check_broken, part_of, spread
from pretask.data.decode import threads
from pretask.data.embedded import TEXTURES
from pretask.data.films import Files, Film
from pretask.data.footage import Drawn, Footage
from pretask.data.formats import Broken
from pretask.data.gather import SHARE, Cache
from pretask.data.images import MOST_WORKERS
from pretask.data.layout import ORDER, encode_labels
from pretask.data.manifest import Piece, joined, read_manifest
from pretask.data.moving import MOTIONS, draw_scenes, sprites
from pretask.data.narration import narrate
from pretask.data.sounds import SILENT, Parts
from pretask.data.stores import Files as Recordings
from pretask.data.text import LEARNED_FROM
from pretask.data.tokens import Ragged, Tokenizer, learn_tokenizer, load_tokenizer
from pretask.data.video import canvas_for, footage_of
from pretask.errors import DataError, UsageError

NARRATED = "narrated-digits"
SPANS, LENGTH, SIDE = 4, 64, 32  # of the embedded set: events, frames, pixels
TRAIN, TEST = 3000, 500


class Wishes(NamedTuple):
    """What the caller of `open_multimodal` asked for; see there."""

    max_broken: float
    image_size: int | None
    channels: int | None
    cache: Cache
    frames: int
    spans: int | None
    tokenizer: str | Path | None
    vocab_size: int
    max_length: int
    rate: int
    seconds: float


class Segments:
    """Parts of videos, each by equally many frames: the middles of equal stretches.

    Args:
        footage: gives the frames.
        film: of each sample, its video.
        bounds: of each sample, where it begins and ends, in frames.
        frames: of a sample.
    """

    def __init__(
        self, footage: Footage, film: Int[Tensor, "samples"], bounds: Float[Tensor, "samples 2"], frames: int
    ):
        self.footage, self.film, self.bounds = footage, film, bounds
        self.share, self.in_memory = (torch.arange(frames) + 0.5) / frames, footage.in_memory

    def __len__(self) -> int:
        return len(self.film)

    def name(self, row: int) -> str:
        return str(row)

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]:
        low, high = self.bounds[rows].unbind(1)
        number = (low[:, None] + self.share * (high - low)[:, None]).floor().long()
        video, size, broken = self.footage.frames(self.film[rows], number)
        return {"video": video, "size": size}, {int(rows[place]): why for place, why in broken.items()}


class Scripts:
    """The texts of samples: `tokens` where each has one, `script` where it has several.

    Args:
        texts: of all samples, those of one behind each other.
        spans: texts of a sample.
        pad: the token that fills up.
    """

    in_memory = True

    def __init__(self, texts: Ragged, spans: int, pad: int):
        self.texts, self.spans, self.pad = texts, spans, pad

    def __len__(self) -> int:
        return len(self.texts) // self.spans

    def name(self, row: int) -> str:
        return str(row)

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]:
        places = (rows[:, None] * self.spans + torch.arange(self.spans)).flatten()
        tokens, attention = self.texts.gather(places, self.pad)
        if self.spans == 1:
            return {"tokens": tokens, "attention": attention}, {}
        shape = (len(rows), self.spans)
        return {"script": tokens.unflatten(0, shape), "script_attention": attention.unflatten(0, shape)}, {}


class Joined:
    """Samples whose columns come from several sources.

    Args:
        parts: each gives columns for the same samples.
        names: of the samples.
    """

    def __init__(self, parts: Sequence[Samples], names: Sequence[str]):
        self.parts, self.names = parts, names
        self.in_memory = all(part.in_memory for part in parts)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, row: int) -> str:
        return self.names[row]

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]:
        columns: dict[str, Tensor] = {}
        broken: dict[int, str] = {}
        for part in self.parts:
            own, lost = part.get(rows)
            columns |= own
            broken |= lost
        return columns, broken


def open_multimodal(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    max_broken: float = 0.2,
    workers: int | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    cache: Cache = "auto",
    frames: int = 32,
    spans: int | None = None,
    tokenizer: str | Path | None = None,
    vocab_size: int = 8000,
    max_length: int = 50,
    rate: int = 16_000,
    seconds: float = 4.0,
    label: str = "motion",
) -> Dataset:
    """Samples from a table of files and texts (`.jsonl`, `.csv`, `.tsv`), or `narrated-digits`.

    The batch has what the table has: `video` (B, C, frames, S, S) with `size`, evenly spread over the time a line
    names; `audio` (B, S) from where it begins; `tokens` (B, L), or `script` (B, spans, L).

    Args:
        source: what `docs/data.md` lists.
        split: only this part (`train`, `val` or `test`).
        limit: at most so many samples, spread evenly.
        max_broken: the largest share of unreadable lines and files that is put up with.
        workers: processes that decode what is not in memory; default one a core, at most 8.
        image_size: side in pixels that encoders of video shall take; default from the videos, at most 112.
        channels: of the frames; default 3 if any video has colour, else 1.
        cache: `memory` decodes all videos now, `never` when asked for, `auto` by the memory that is free.
        frames: of a sample.
        spans: texts of a sample: so many lines of one file that follow each other, or spans of timed words;
            default 4 where words are timed, else 1.
        tokenizer: a `tokenizer.json`, its text, or a name on the hub; default learned from the training texts.
        vocab_size: tokens of a tokenizer that is learned.
        max_length: tokens of a text at most.
        rate: samples of sound a second.
        seconds: of sound of a sample.
        label: what the classes of `narrated-digits` are: the `motion` or the `digit` of the first event, or the
            `texture` behind them all.

    Raises:
        DataError: there is nothing, too much is broken, or the table cannot be understood.
        UsageError: a split that is not there, or a number that makes no sense.
    """
    if min(frames, vocab_size, rate, spans or 1) < 1 or max_length < 4 or seconds <= 0:
        raise UsageError(
            "frames, spans, vocab_size, rate and seconds must be positive, max_length at least 4"
        )
    wishes = Wishes(max_broken, image_size, channels, cache, frames, spans, tokenizer, vocab_size, max_length,
                    rate, seconds)  # fmt: skip
    path = Path(source).expanduser()
    dataset = narrated(wishes, label) if str(source) == NARRATED else listed(path, wishes)
    dataset.workers = min(threads(), MOST_WORKERS) if workers is None else workers
    dataset = dataset if split is None else part_of(dataset, split)
    return dataset if limit is None else dataset.subset(spread(len(dataset), limit))


def narrated(wishes: Wishes, label: str) -> Dataset:
    """Made-up videos in which a digit does four things, one after the other, and what is said of each.

    Raises:
        UsageError: other classes, channels or numbers are asked for than there are.
    """
    scenes, parts = draw_scenes(SPANS, 1, TRAIN, TEST)
    first = {
        "motion": (scenes.motion[:, 0], list(MOTIONS)),
        "digit": (sprites()[1][scenes.digit[:, 0]], [str(number) for number in range(10)]),
        "texture": (scenes.texture, list(TEXTURES)),
    }
    if label not in first or wishes.spans not in (None, SPANS) or wishes.channels not in (None, 3):
        raise UsageError(
            f"{NARRATED} has {SPANS} spans, 3 channels and is labelled by {', '.join(first)}; not {wishes.spans}, "
            f"{wishes.channels} and '{label}'"
        )
    count, side = len(parts), wishes.image_size or SIDE
    bounds = torch.tensor([[0.0, float(LENGTH)]]).expand(count, -1)
    video = Segments(Drawn(scenes, LENGTH, side), torch.arange(count), bounds, wishes.frames)
    script, told = scripts(narrate(scenes, seed=1), parts, SPANS, wishes)
    targets, classes = first[label]
    return Dataset(
        Joined([video, script], [str(row) for row in range(count)]), NARRATED, modality="multimodal",
        inputs={"in_chans": 3, "image_size": side, **told}, targets=targets, classes=classes,
        parts=torch.tensor([("train", "test").index(part) for part in parts]), part_names=("train", "test"),
        facts={"frames": f"{wishes.frames} a sample", "texts": f"{SPANS} a sample", "memory": "drawn when needed"},
    )  # fmt: skip


def scripts(
    texts: Sequence[Sequence[str]], parts: Sequence[str | None], spans: int, wishes: Wishes
) -> tuple[Scripts, dict[str, Any]]:
    """The texts as tokens, and what an encoder must be told of them. A tokenizer is learned from the training part
    where there is one."""
    if wishes.tokenizer is None:
        own = [row for row, part in enumerate(parts) if part == "train"] or range(len(texts))
        lines = [text for row in own for text in texts[row] if text]
        if not lines:
            raise DataError("the texts are all empty: there is nothing to learn a tokenizer from")
        chosen = (lines[place] for place in spread(len(lines), LEARNED_FROM).tolist())
        model: Tokenizer = learn_tokenizer(chosen, wishes.vocab_size)
    else:
        model = load_tokenizer(wishes.tokenizer)
    ids, lengths, _ = model.encode([text for script in texts for text in script], wishes.max_length)
    told = {"tokenizer": model.text, "max_length": wishes.max_length}
    return Scripts(Ragged(ids, lengths), spans, model.vocabulary.pad), told


def listed(path: Path, wishes: Wishes) -> Dataset:
    """The samples of a table.

    Raises:
        DataError: too much is broken, or nothing is whole.
    """
    if not path.is_file():
        raise DataError(f"there is no table '{path}': a .jsonl, .csv or .tsv with columns video, audio, text")
    lines, skipped = read_manifest(path)
    spans = wishes.spans or (4 if any(line.words for line in lines) else 1)
    pieces, few = joined(lines, spans)
    kinds, whole, lacking = complete(pieces, spans)
    skipped += few + lacking
    total = len(whole) + len(skipped)
    check_broken(str(path), skipped, total, wishes.max_broken if whole else 0)
    divided = with_splits(whole)
    parts, inputs, broken = columns(path.parent, whole, kinds, divided, spans, wishes)
    skipped += [Skipped(whole[row].source, reason) for row, reason in sorted(broken.items())]
    check_broken(str(path), skipped, total, wishes.max_broken)
    targets, classes = encode_labels([piece.label for piece in whole])
    there = tuple(name for name in ORDER if name in set(divided))
    return Dataset(
        Joined(parts, [piece.source for piece in whole]), str(path), modality="multimodal", inputs=inputs,
        rows=torch.tensor([row for row in range(len(whole)) if row not in broken], dtype=torch.long),
        targets=targets, classes=classes, part_names=there, skipped=skipped, max_broken=wishes.max_broken,
        parts=torch.tensor([there.index(part) if part else -1 for part in divided]) if there else None,
        facts={"columns": ", ".join(kinds), "texts": f"{spans} a sample"},
    )  # fmt: skip


def complete(pieces: Sequence[Piece], spans: int) -> tuple[list[str], list[Piece], list[Skipped]]:
    """What the table has, the samples that have all of it, and the others. A video without sound is silent."""

    def has(piece: Piece, kind: str) -> bool:
        return len(piece.texts) == spans if kind == "text" else getattr(piece, kind) is not None

    kinds = [kind for kind in ("video", "audio", "text") if any(has(piece, kind) for piece in pieces)]
    whole, lacking = list[Piece](), list[Skipped]()
    for piece in pieces:
        absent = [kind for kind in kinds if not has(piece, kind)]
        if absent and (absent != ["audio"] or piece.video is None):
            lacking.append(Skipped(piece.source, f"has no {' and no '.join(absent)}"))
        else:
            whole.append(piece)
    return kinds, whole, lacking


def columns(
    root: Path,
    pieces: Sequence[Piece],
    kinds: Sequence[str],
    splits: Sequence[str | None],
    spans: int,
    wishes: Wishes,
) -> tuple[list[Samples], dict[str, Any], dict[int, str]]:
    """A part of the samples for each kind of data, what encoders must be told of them, and what is broken."""
    parts: list[Samples] = []
    inputs: dict[str, Any] = {}
    broken: dict[int, str] = {}
    if "video" in kinds:
        segments, told, broken = of_videos(root, pieces, wishes)
        parts.append(segments)
        inputs |= told
    if "audio" in kinds:
        names = sorted({piece.audio for piece in pieces if piece.audio})
        rows = [names.index(piece.audio) if piece.audio else SILENT for piece in pieces]
        place = torch.tensor(
            [(row, piece.start) for row, piece in zip(rows, pieces, strict=True)], dtype=torch.float64
        )
        parts.append(Parts(Recordings(root, names), place, wishes.seconds, wishes.rate))
        inputs["rate"] = wishes.rate
    if "text" in kinds:
        script, told = scripts([piece.texts for piece in pieces], splits, spans, wishes)
        parts.append(script)
        inputs |= told
    return parts, inputs, broken


def of_videos(
    root: Path, pieces: Sequence[Piece], wishes: Wishes
) -> tuple[Segments, dict[str, Any], dict[int, str]]:
    """The videos' part of the samples, what an encoder must be told of it, and the samples that cannot be read.

    Raises:
        DataError: no video can be read.
    """
    names = sorted({str(piece.video) for piece in pieces})
    films, seen, unread = Files(root, names), dict[int, Film](), dict[int, str]()
    for row in range(len(names)):
        try:
            seen[row] = films.look(row)
        except Broken as error:
            unread[row] = str(error)
    if not seen:
        raise DataError(f"no video can be read, the first of {len(unread)} because it {unread[0]}")
    side, canvas = canvas_for(list(seen.values()), wishes.image_size, wishes.channels)
    footage, short = footage_of(films, {row: film.frames for row, film in seen.items()}, canvas, wishes.cache)
    film = torch.tensor([names.index(str(piece.video)) for piece in pieces])
    bounds, broken = torch.zeros(len(pieces), 2), dict[int, str]()
    for place, (row, piece) in enumerate(zip(film.tolist(), pieces, strict=True)):
        if row in unread:
            broken[place] = unread[row]
            continue
        rate, count = seen[row].fps, seen[row].frames
        low, high = piece.start * rate, count if piece.end is None else min(piece.end * rate, count)
        if high - low < 1 or (row in short and high > short[row][0]):
            broken[place] = short[row][1] if row in short else f"has no {piece.start:g} seconds"
        bounds[place] = torch.tensor([low, high])
    told = {"in_chans": canvas.channels, "image_size": side}
    return Segments(footage, film, bounds, wishes.frames), told, broken


def with_splits(pieces: Sequence[Piece]) -> list[str | None]:
    """The samples' splits; where none has one, all of every fifth file are for testing."""
    if any(piece.split for piece in pieces):
        return [piece.split for piece in pieces]
    files = {source: place for place, source in enumerate(dict.fromkeys(piece.source for piece in pieces))}
    if len(files) < SHARE:
        return [None] * len(pieces)
    return ["test" if files[piece.source] % SHARE == SHARE - 1 else "train" for piece in pieces]
