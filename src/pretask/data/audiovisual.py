"""Films with sound and captions: a table of files and texts, or made-up ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pretask.data.dataset import Dataset, part_of, spread
from pretask.data.gather import Cache
from pretask.data.multimodal import open_multimodal
from pretask.data.sounding import sounding_digits
from pretask.errors import DataError, UsageError

SIDE, SECONDS = 32, 1.28  # of the made-up films
LONG = 10.0  # seconds of sound of others, where nobody says


def open_films(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    max_broken: float = 0.2,
    workers: int | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    cache: Cache = "auto",
    frames: int = 8,
    tokenizer: str | Path | None = None,
    vocab_size: int = 8000,
    max_length: int = 42,
    rate: int = 16_000,
    seconds: float | None = None,
) -> Dataset:
    """Films from a table of videos, sounds and captions (`.jsonl`, `.csv`, `.tsv`), or `sounding-digits`.

    The batch has what the table has: `video` (B, C, frames, S, S) with `size`, `audio` (B, S), `tokens` (B, L). A
    line without sound, where others have some, is silent; a video may be named as its own sound.

    Args:
        source: what `docs/data.md` lists.
        split: only this part (`train`, `val` or `test`).
        limit: at most so many samples, spread evenly.
        max_broken: the largest share of unreadable lines and files that is put up with.
        workers: processes that decode what is not in memory; default one a core, at most 8.
        image_size: side in pixels that encoders shall take; default from the videos, at most 112.
        channels: of the frames; default 3 if any video has colour, else 1.
        cache: `memory` decodes all videos now, `never` when asked for, `auto` by the memory that is free.
        frames: of a sample, spread evenly over the time a line names.
        tokenizer: a `tokenizer.json`, its text, or a name on the hub; default learned from the training captions.
        vocab_size: tokens of a tokenizer that is learned.
        max_length: tokens of a caption at most, the first and last marks counted.
        rate: samples of sound a second.
        seconds: of sound of a sample; default 10, of made-up films 1.28.

    Raises:
        DataError: there is nothing, too much is broken, or the table cannot be understood.
        UsageError: a split that is not there, or a number that makes no sense.
    """
    if str(source) != "sounding-digits":
        found = open_multimodal(
            source, split=split, limit=limit, max_broken=max_broken, workers=workers, image_size=image_size,
            channels=channels, cache=cache, frames=frames, spans=1, tokenizer=tokenizer, vocab_size=vocab_size,
            max_length=max_length, rate=rate, seconds=LONG if seconds is None else seconds,
        )  # fmt: skip
        if "tokenizer" not in found.inputs:
            raise DataError(f"{source} has no captions: a column text, caption or transcript is looked for")
        return replace(found, modality="film")
    seconds = SECONDS if seconds is None else seconds
    if channels not in (None, 3) or min(frames, rate) < 1 or max_length < 4 or seconds * rate < 1:
        raise UsageError(
            "sounding-digits has 3 channels; frames, rate and seconds must be positive, max_length at least 4"
        )
    dataset = sounding_digits(image_size or SIDE, frames, seconds, rate, tokenizer, max_length)
    dataset = dataset if split is None else part_of(dataset, split)
    return dataset if limit is None else dataset.subset(spread(len(dataset), limit))
