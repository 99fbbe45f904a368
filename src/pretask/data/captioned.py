"""Pictures with a caption each: a table of files and texts, or digits on textures and what is seen of them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretask.data.arrays import from_arrays
from pretask.data.dataset import Dataset, Skipped, check_broken, part_of, spread
from pretask.data.embedded import TEXTURE_SIDES, TEXTURES, divided, photographs, placed, turned
from pretask.data.gather import Cache
from pretask.data.images import Wishes, decoded
from pretask.data.lists import from_list
from pretask.data.moving import COLOURS
from pretask.data.multimodal import Joined, Scripts
from pretask.data.narration import NUMBERS
from pretask.data.source import Source
from pretask.data.tailed import NAME, long_tailed_digits, trimmed
from pretask.data.text import LEARNED_FROM
from pretask.data.tokens import Ragged, Tokenizer, learn_tokenizer, load_tokenizer
from pretask.errors import DataError, UsageError

EMBEDDED = "captioned-digits"
CAPTIONS = ("caption", "text", "sentence", "description", "title")
OPENINGS = ("", "a photo of", "a picture of", "here is", "this is", "you see")
SIDE, TRAIN, TEST = 32, 4000, 1000
SAID = 0.7  # chance that a caption names the colour, and that it names the texture


def open_captioned(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    max_broken: float = 0.2,
    workers: int | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    cache: Cache = "auto",
    tokenizer: str | Path | None = None,
    vocab_size: int = 8000,
    max_length: int = 77,
    label: str = "digit",
    tail: int = 0,
    ceil: int = 0,
) -> Dataset:
    """Pictures with captions from a table (`.csv`, `.tsv`), `captioned-digits` or `long-tailed-digits`: `image` and
    `tokens` of each.

    Args:
        source: what `docs/data.md` lists.
        split: only this part (`train`, `val` or `test`).
        limit: at most so many samples, spread evenly.
        max_broken: the largest share of unreadable pictures and missing captions that is put up with.
        workers: processes that decode what is not in memory; default one a core, at most 8.
        image_size: side in pixels that encoders of pictures shall take; default from the pictures.
        channels: of the pictures; default 3 if any of them has colour, else 1.
        cache: `memory` decodes all pictures now, `never` when asked for, `auto` by the memory that is free.
        tokenizer: a `tokenizer.json`, its text, or a name on the hub; default learned from the training captions.
        vocab_size: tokens of a tokenizer that is learned.
        max_length: tokens of a caption at most.
        label: what the classes of `captioned-digits` are: the `digit`, its `colour`, or the `texture` behind it.

        tail: so many of the rarest classes keep at most `ceil` pictures for training.
        ceil: see there; 0 makes classes of which only the names are known.

    Raises:
        DataError: there is nothing, too much is broken, or the table cannot be understood.
        UsageError: a split that is not there, or a number that makes no sense.
    """
    if vocab_size < 1 or max_length < 4:
        raise UsageError("vocab_size must be positive and max_length at least 4")
    found, captions = told_of(source, label)
    wishes = Wishes(image_size, channels, max_broken, cache, workers)
    pictures = decoded(found, torch.arange(len(captions)), wishes)
    told, texts = written(pictures, captions, tokenizer, vocab_size, max_length)
    bare = [row for row in pictures.rows.tolist() if not captions[row].strip()]
    skipped = pictures.skipped + [Skipped(str(found.store.names[row]), "has no caption") for row in bare]
    check_broken(found.name, skipped, len(captions), max_broken)
    dataset = replace(
        pictures, samples=Joined([pictures.samples, texts], [str(name) for name in found.store.names]),
        modality="captioned", inputs={"in_chans": pictures.channels, "image_size": pictures.image_size, **told},
        rows=pictures.rows[~torch.isin(pictures.rows, torch.tensor(bare, dtype=torch.long))], skipped=skipped,
    )  # fmt: skip
    dataset = without_tail(dataset, tail, ceil) if tail else dataset
    dataset = dataset if split is None else part_of(dataset, split)
    return dataset if limit is None else dataset.subset(spread(len(dataset), limit))


def told_of(source: str | Path, label: str) -> tuple[Source, list[str]]:
    """The pictures of an embedded set or of a table, and what is said of each."""
    if str(source) == NAME:
        return long_tailed_digits()
    return captioned_digits(label) if str(source) == EMBEDDED else listed(Path(source).expanduser())


def without_tail(dataset: Dataset, tail: int, ceil: int) -> Dataset:
    """A data set whose `tail` rarest classes keep at most `ceil` pictures for training.

    Raises:
        UsageError: it has no classes.
    """
    if dataset.labels is None:
        raise UsageError(f"tail says how many rare classes are trimmed, and {dataset.name} has no classes")
    training = torch.ones(len(dataset), dtype=torch.bool)
    if dataset.parts is not None and "train" in dataset.part_names:
        training = dataset.parts[dataset.rows] == dataset.part_names.index("train")
    return dataset.subset(trimmed(dataset.labels, training, len(dataset.classes or ()), tail, ceil))


def listed(path: Path) -> tuple[Source, list[str]]:
    """The pictures of a table and what is said of each.

    Raises:
        DataError: it is none, or has no captions.
    """
    if not path.is_file() or path.suffix.lower() not in (".csv", ".tsv"):
        raise DataError(
            f"there is no table '{path}': a .csv or .tsv with a column of pictures and one of captions"
        )
    found = from_list(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [
            line
            for line in csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            if line
        ]
    header = [name.strip().lower() for name in lines[0]]
    place = next((header.index(name) for name in CAPTIONS if name in header), None)
    if place is None or len(lines) - 1 != len(found.store.names):
        raise DataError(
            f"{path} has no captions: a column called one of {', '.join(CAPTIONS)} is looked for, a line a picture"
        )
    return found, [line[place] if len(line) > place else "" for line in lines[1:]]


def written(
    pictures: Dataset, captions: list[str], tokenizer: str | Path | None, vocab_size: int, max_length: int
) -> tuple[dict[str, Any], Scripts]:
    """What an encoder must be told of the captions, and their tokens. A tokenizer is learned from the training
    part where there is one.

    Raises:
        DataError: nothing is said of any picture.
    """
    own = pictures.split("train") or pictures
    said = [captions[row] for row in own.rows.tolist() if captions[row].strip()]
    if not said:
        raise DataError(f"{pictures.name}: all captions are empty")
    model: Tokenizer
    if tokenizer is None:
        model = learn_tokenizer((said[row] for row in spread(len(said), LEARNED_FROM).tolist()), vocab_size)
    else:
        model = load_tokenizer(tokenizer)
    ids, lengths, _ = model.encode(captions, max_length)
    told = {"tokenizer": model.text, "max_length": max_length}
    return told, Scripts(Ragged(ids, lengths), 1, model.vocabulary.pad)


def captioned_digits(label: str, seed: int = 0) -> tuple[Source, list[str]]:
    """Handwritten digits in one of six colours at random places on photographed textures, and sentences such as
    "a photo of a red three on grass"; some leave out the colour, some what is behind. No test picture shows a digit
    that a training picture shows.

    Raises:
        UsageError: other classes are asked for than there are.
    """
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    digits, sources = load_digits(), divided(load_digits().target, seed)
    ink = torch.from_numpy(digits.images).float() / 16
    chosen = np.concatenate(
        [np.resize(rng.permutation(sources[part]), n) for part, n in (("train", TRAIN), ("test", TEST))]
    )
    drawn = {
        "digit": (digits.target[chosen], NUMBERS),
        "colour": (rng.integers(len(COLOURS), size=len(chosen)), tuple(COLOURS)),
        "texture": (rng.integers(len(TEXTURES), size=len(chosen)), TEXTURES),
    }
    if label not in drawn:
        raise UsageError(f"{EMBEDDED} is labelled by {', '.join(drawn)}; not '{label}'")
    (digit, _), (colour, _), (texture, _) = drawn.values()
    paint = torch.tensor(list(COLOURS.values())).float()[colour][:, :, None, None]
    ground, cover = grounds(texture, rng), placed(ink[chosen], SIDE, rng)
    image = ((ground + cover * (paint - ground)) * 255).round().clamp(0, 255).byte().numpy()
    target, classes = drawn[label]
    parts = {"train": (image[:TRAIN], target[:TRAIN]), "test": (image[TRAIN:], target[TRAIN:])}
    told = [
        caption(d, list(COLOURS)[c], TEXTURES[t], rng) for d, c, t in zip(digit, colour, texture, strict=True)
    ]
    return from_arrays(EMBEDDED, parts, list(classes)), told


def grounds(texture: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """A window of each named texture (N, 3, S, S) in [0, 1], turned by a right angle."""
    whole = (photographs(TEXTURES, TEXTURE_SIDES[1]) * 255).round().byte()
    corner = rng.integers(whole.shape[-1] - SIDE + 1, size=(len(texture), 2))
    cut = torch.stack(
        [whole[t, :, y : y + SIDE, x : x + SIDE] for t, (y, x) in zip(texture, corner, strict=True)]
    )
    return turned(cut, rng).float() / 255


def caption(digit: int, colour: str, texture: str, rng: np.random.Generator) -> str:
    named, placed_on = rng.random(2) < SAID
    opening = OPENINGS[int(rng.integers(len(OPENINGS)))]
    said = [opening, "a", colour if named else "", NUMBERS[digit], f"on {texture}" if placed_on else ""]
    return " ".join(part for part in said if part)
