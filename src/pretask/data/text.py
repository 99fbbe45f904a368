"""Text, in one language or several, as a data set of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pretask.data.corpus import Corpus, read_corpus
from pretask.data.dataset import Dataset, check_broken, name_skipped, no_split, part_of, spread
from pretask.data.layout import ORDER, encode_labels
from pretask.data.tokens import Ragged, Tokenizer, learn_tokenizer, load_tokenizer
from pretask.errors import DataError, UsageError

LEARNED_FROM = 200_000  # lines at most that a tokenizer is learned from


@dataclass(repr=False)
class Sentences:
    """Texts as samples; with translations, a sample is a text in two languages.

    Args:
        texts: of all languages, a language behind the other.
        count: lines of each language.
        line: of each sample.
        lang: of each sample, the place of its language.
        pair_lang: the language of its translation; None without translations.
        pad: the token that fills up.
    """

    texts: Ragged
    count: int
    line: Int[Tensor, "samples"]
    lang: Int[Tensor, "samples"]
    pair_lang: Int[Tensor, "samples"] | None
    pad: int
    in_memory = True

    def __len__(self) -> int:
        return len(self.line)

    def name(self, row: int) -> str:
        return f"line {int(self.line[row]) + 1}"

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]:
        line, lang = self.line[rows], self.lang[rows]
        tokens, attention = self.texts.gather(lang * self.count + line, self.pad)
        columns = {"tokens": tokens, "attention": attention, "lang": lang}
        if self.pair_lang is not None:
            other = self.pair_lang[rows]
            pair, pair_attention = self.texts.gather(other * self.count + line, self.pad)
            columns |= {"pair": pair, "pair_attention": pair_attention, "pair_lang": other}
        return columns, {}


def open_text(
    source: Any,
    *,
    split: str | None = None,
    limit: int | None = None,
    max_broken: float = 0.2,
    workers: int | None = None,
    languages: str | int | Sequence[str] | None = None,
    pairs: Literal["first", "all"] = "first",
    tokenizer: str | Path | None = None,
    vocab_size: int = 8000,
    max_length: int = 512,
    blocks: bool = False,
) -> Dataset:
    """Text from files, a folder, lists of strings or an embedded set; all of it is held in memory as tokens.

    Args:
        source: what `docs/data.md` lists.
        split: only this part (`train`, `val` or `test`) of what the source itself splits.
        limit: at most so many samples, spread evenly over the source.
        max_broken: the largest share of unreadable lines that is put up with.
        workers: without effect: nothing is left to decode.
        languages: which of a parallel text, in this order (`en,de`), or the first so many (2); a single
            one leaves the others out.
        pairs: a sample for the first language with each of the others, or for each two.
        tokenizer: a `tokenizer.json`, its text, or a name on the hub; default byte-pair encoding learned
            from the lines (of the training split, where there is one).
        vocab_size: tokens of a tokenizer that is learned.
        max_length: tokens an encoder shall take; longer text is cut, translations each to half of it, so
            that two fit.
        blocks: join lines that follow each other up to `max_length`, each block as `<s> a </s> b </s>`;
            only without translations and labels.

    Raises:
        DataError: there is nothing, too much is broken, or the source cannot be understood.
        UsageError: a split, a language or a tokenizer that there is not.
    """
    corpus = chosen(read_corpus(source), languages)
    total = sum(map(len, corpus.lines))
    check_broken(corpus.name, corpus.skipped, total, max_broken)
    if not any(line for column in corpus.lines for line in column):
        raise DataError(f"{corpus.name} is empty: not one line holds text")
    model = learned(corpus, vocab_size) if tokenizer is None else load_tokenizer(tokenizer)
    parallel = len(corpus.languages) > 1
    longest = max_length // 2 if parallel else max_length
    if longest < 4:
        raise UsageError(f"max_length {max_length} is too short: a text needs 4 tokens at least")
    ids, lengths, cut = model.encode([line for column in corpus.lines for line in column], longest)
    texts, count = Ragged(ids, lengths), len(corpus.parts)
    if blocks:
        corpus, texts = packed(corpus, texts, model, max_length)
        count = len(corpus.parts)
    samples = laid_out(corpus, texts, count, model, pairs)
    targets, classes = encode_labels(corpus.labels)
    part_names = tuple(name for name in ORDER if name in set(corpus.parts))
    parts = torch.tensor([part_names.index(part) if part else -1 for part in corpus.parts])
    dataset = Dataset(
        samples, corpus.name, modality="text",
        inputs={"tokenizer": model.text, "max_length": max_length},
        targets=None if targets is None else targets[samples.line], classes=classes,
        parts=parts[samples.line] if part_names else None, part_names=part_names,
        skipped=corpus.skipped, max_broken=max_broken, facts=what_is_there(corpus, samples, model, cut),
    )  # fmt: skip
    name_skipped(corpus.name, corpus.skipped, "line")
    if split is not None:
        if split not in part_names:
            raise no_split(corpus.name, split, part_names)
        dataset = part_of(dataset, split)
    return dataset if limit is None else dataset.subset(spread(len(dataset), limit))


def chosen(corpus: Corpus, languages: str | int | Sequence[str] | None) -> Corpus:
    """Only these languages, in this order, or only the first so many.

    Raises:
        UsageError: one of them is not there.
    """
    if languages is None:
        return corpus
    if str(languages).isdigit():
        languages = corpus.languages[: int(str(languages))]
    wanted = languages.split(",") if isinstance(languages, str) else list(languages)  # type: ignore[arg-type]
    wanted = [name.strip() for name in wanted]
    if not wanted:
        raise UsageError(f"no language of {corpus.name} is asked for; it has {', '.join(corpus.languages)}")
    for name in wanted:
        if name not in corpus.languages:
            raise UsageError(f"{corpus.name} has no language '{name}'; it has {', '.join(corpus.languages)}")
    corpus.lines = [corpus.lines[corpus.languages.index(name)] for name in wanted]
    corpus.languages = tuple(wanted)
    return corpus


def learned(corpus: Corpus, vocab_size: int) -> Tokenizer:
    """A tokenizer of the training split's lines in all languages, or of all lines without a split.

    It does not depend on which split or how many samples are asked for.
    """
    rows = [row for row, part in enumerate(corpus.parts) if part == "train"] or range(len(corpus.parts))
    lines = [column[row] for row in rows for column in corpus.lines if column[row]]
    if not lines:
        raise DataError(f"{corpus.name}: the training split holds no text to learn a tokenizer from")
    return learn_tokenizer((lines[i] for i in spread(len(lines), LEARNED_FROM).tolist()), vocab_size)


def laid_out(
    corpus: Corpus, texts: Ragged, count: int, model: Tokenizer, pairs: Literal["first", "all"]
) -> Sentences:
    """A sample a line, or a line and two languages; lines that are empty are none.

    Raises:
        DataError: no line is translated.
    """
    there = torch.tensor([[bool(line) for line in column] for column in corpus.lines])  # (languages, lines)
    if len(corpus.languages) == 1:
        line = there[0].nonzero().flatten()
        return Sentences(texts, count, line, torch.zeros_like(line), None, model.vocabulary.pad)
    two = list(combinations(range(len(corpus.languages)), 2))
    two = [pair for pair in two if pairs == "all" or pair[0] == 0]
    both = torch.stack([there[a] & there[b] for a, b in two], dim=1)  # (lines, pairs)
    line, kind = both.nonzero().unbind(1)
    if len(line) == 0:
        raise DataError(f"{corpus.name}: not one line is there in two languages")
    first, second = torch.tensor(two).T
    return Sentences(texts, count, line, first[kind], second[kind], model.vocabulary.pad)


def packed(corpus: Corpus, texts: Ragged, model: Tokenizer, max_length: int) -> tuple[Corpus, Ragged]:
    """Lines that follow each other in blocks of whole lines, at most `max_length` tokens long; never across
    splits.

    Raises:
        UsageError: the lines are translated or labelled: they cannot be joined.
    """
    if len(corpus.languages) > 1 or any(corpus.labels):
        raise UsageError(f"{corpus.name}: lines with translations or labels are not joined to blocks")
    bos = model.vocabulary.bos
    starts, lengths = texts.starts.tolist(), texts.lengths.tolist()
    kept, sizes, parts = [], list[int](), list[str | None]()
    for row, line in enumerate(corpus.lines[0]):
        if not line:
            continue
        skip = int(bos is not None and int(texts.ids[starts[row]]) == bos)
        length = lengths[row] - skip
        if sizes and parts[-1] == corpus.parts[row] and sizes[-1] + length <= max_length:
            sizes[-1] += length
        else:
            sizes.append(lengths[row])
            parts.append(corpus.parts[row])
            skip = 0
        kept.append(np.arange(starts[row] + skip, starts[row] + lengths[row]))
    ids = texts.ids.numpy()[np.concatenate(kept)]
    block = Corpus(corpus.name, corpus.languages, [["block"] * len(sizes)], parts, [], corpus.skipped)
    return block, Ragged(ids, np.array(sizes))


def what_is_there(corpus: Corpus, samples: Sentences, model: Tokenizer, cut: int) -> dict[str, Any]:
    """What `describe` says beyond counts."""
    lengths = samples.texts.lengths[samples.lang * samples.count + samples.line].sort().values
    said: dict[str, Any] = {
        "tokens a text": {
            name: int(lengths[place])
            for name, place in (("shortest", 0), ("median", len(lengths) // 2), ("longest", -1))
        },
        "vocabulary": model.vocabulary.size,
    }
    if len(corpus.languages) > 1:
        said["languages"] = list(corpus.languages)
        counts = [sum(map(bool, column)) for column in corpus.lines]
        said["lines"] = dict(zip(corpus.languages, counts, strict=True))
    if cut:
        said["texts cut"] = cut
    if corpus.ignored:
        said["other files"] = corpus.ignored
    return said
