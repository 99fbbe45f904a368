"""Text to numbers: a tokenizer is loaded, or learned from the lines themselves, and kept as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pretask.errors import UsageError, need

LEARNED = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # of a tokenizer learned here, in this order
ROLES = {
    "bos": ("<s>", "[CLS]", "<bos>", "<|begin_of_text|>"),
    "eos": ("</s>", "[SEP]", "<eos>", "<|endoftext|>", "<|end_of_text|>"),
    "pad": ("<pad>", "[PAD]", "<|pad|>"),
    "unk": ("<unk>", "[UNK]"),
    "mask": ("<mask>", "[MASK]"),
}
"""What tokenizers call the tokens that are no text."""

AT_ONCE = 20_000  # lines


class Vocabulary(NamedTuple):
    """What the numbers mean that are no text; None where a tokenizer has no such token.

    Args:
        size: numbers there are.
        bos: stands before every text.
        eos: stands behind every text.
        pad: fills up a batch; `attention` says where.
        unk: stands for what cannot be written with the others.
        mask: stands for a hidden token.
        special: all tokens that are no text.
    """

    size: int
    bos: int | None
    eos: int | None
    pad: int
    unk: int | None
    mask: int | None
    special: tuple[int, ...]


class Tokenizer:
    """A tokenizer of the library `tokenizers`, wherever it is from. It never changes: copies share it.

    Args:
        text: its JSON.
    """

    def __init__(self, text: str):
        self.text = text
        self.model = parse(text)
        self.model.no_padding()
        self.model.no_truncation()
        self.vocabulary = vocabulary_of(self.model)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tokenizer:
        return self

    def __reduce__(self) -> tuple:
        return Tokenizer, (self.text,)

    def encode(self, lines: Sequence[str], max_length: int) -> tuple[np.ndarray, np.ndarray, int]:
        """All tokens one behind the other, how many each line has, and how many lines were cut.

        A text longer than `max_length` loses what is beyond; the tokens around it stay.
        """
        parts, lengths, cut = [], [], 0
        self.model.enable_truncation(max_length)
        try:
            for chunk in chunks(lines, AT_ONCE):
                found = self.model.encode_batch_fast(chunk)
                lengths += [len(text.ids) for text in found]
                cut += sum(bool(text.overflowing) for text in found)
                parts.append(np.array([number for text in found for number in text.ids], dtype=np.int32))
        finally:
            self.model.no_truncation()
        ids = np.concatenate(parts) if parts else np.empty(0, np.int32)
        return ids, np.array(lengths, dtype=np.int64), cut

    def decode(self, tokens: Int[Tensor, "length"] | Sequence[int]) -> str:
        """The text that tokens stand for; those that are no text are left out."""
        return self.model.decode([int(number) for number in tokens], skip_special_tokens=True).strip()

    def spell(self, tokens: Int[Tensor, "length"], hidden: Tensor, blank: bool = False) -> str:
        """For people: hidden tokens in brackets, or as blanks; a stroke between sentences.

        Args:
            tokens: of one text, perhaps padded.
            hidden: which are hidden.
            blank: whether to show that they are there and no more.
        """
        said: list[str] = []
        for is_hidden, run in groupby(zip(hidden.tolist(), tokens.tolist(), strict=True), itemgetter(0)):
            numbers = [number for _, number in run]
            if is_hidden:
                pieces = " ".join("____" for _ in numbers)
                written = self.model.decode(numbers, skip_special_tokens=False)
                said.append(pieces if blank else f"[{written}]")
                continue
            for ends, part in groupby(numbers, lambda number: number == self.vocabulary.eos):
                said.append("/" if ends else self.decode(list(part)))
        return " ".join(filter(None, said)).removesuffix("/").strip()

    def piece(self, number: int) -> str:
        """A single token as it is written."""
        return self.model.id_to_token(number) or ""


@lru_cache(maxsize=8)
def tokenizer_of(text: str) -> Tokenizer:
    """The tokenizer with this JSON, taken apart only once: a published one has megabytes of it."""
    return Tokenizer(text)


def parse(text: str) -> Any:
    try:
        return need("tokenizers", "text").Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare exceptions
        if type(error).__module__.startswith("pretask"):
            raise
        raise UsageError(f"this is no tokenizer's JSON: {' '.join(str(error).split())[:200]}") from error


def vocabulary_of(model: Any) -> Vocabulary:
    """The special tokens by the names they commonly have.

    Raises:
        UsageError: neither padding nor an end is known, so texts cannot be laid side by side.
    """
    added = {token.content: number for number, token in model.get_added_tokens_decoder().items()}
    roles = {
        role: next((model.token_to_id(name) for name in names if model.token_to_id(name) is not None), None)
        for role, names in ROLES.items()
    }
    pad = roles.pop("pad")
    pad = roles["eos"] if pad is None else pad  # GPT-2 has but one special token; `attention` tells
    if pad is None:
        names = ", ".join((*ROLES["pad"], *ROLES["eos"]))
        raise UsageError(f"the tokenizer has no token to fill up a batch with: one of {names} is looked for")
    special = {number for number in (*roles.values(), pad, *added.values()) if number is not None}
    return Vocabulary(model.get_vocab_size(), pad=pad, special=tuple(sorted(special)), **roles)


def load_tokenizer(reference: str | Path) -> Tokenizer:
    """A tokenizer by its JSON, a `tokenizer.json`, a folder that holds one, or its name on the hub.

    Raises:
        UsageError: there is none.
    """
    text = str(reference)
    if text.lstrip().startswith("{"):
        return tokenizer_of(text)
    path = Path(text).expanduser()
    if path.is_file():
        try:
            return tokenizer_of(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is no tokenizer's JSON: {error}") from error
    try:
        found = need("transformers", "text").AutoTokenizer.from_pretrained(text)
        return tokenizer_of(found.backend_tokenizer.to_str())
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(
            f"there is no tokenizer '{text}': give a tokenizer.json, a folder that holds one, or a name on "
            f"the hub that is cached or can be reached ({' '.join(str(error).split())[:200]})"
        ) from error


def learn_tokenizer(lines: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-pair encoding learned from lines (Sennrich et al., ACL 2016), laid out as XLM-R lays out text.

    A token that begins a word begins with the sign that sentencepiece uses, so that words can be told; a
    character that is too rare for a token of its own is `<unk>`. Text is normalised by NFKC and keeps its
    case; `<s>` and `</s>` stand around it.

    Args:
        lines: to learn from.
        vocab_size: tokens, the five special ones included; fewer where the lines do not give as many.
    """
    tokenizers = need("tokenizers", "text")
    model = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    model.normalizer = tokenizers.normalizers.NFKC()
    words, signs = tokenizers.pre_tokenizers.Metaspace(), tokenizers.pre_tokenizers.Punctuation()
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([words, signs])
    model.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(LEARNED), min_frequency=2, show_progress=False,
        limit_alphabet=max(vocab_size // 4, 100),
    )  # fmt: skip
    model.train_from_iterator(lines, trainer)
    ends = [("<s>", model.token_to_id("<s>")), ("</s>", model.token_to_id("</s>"))]
    model.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ends
    )
    return tokenizer_of(model.to_str())


def chunks(lines: Iterable[str], count: int) -> Iterator[list[str]]:
    waiting = iter(lines)
    while part := list(islice(waiting, count)):
        yield part


class Ragged:
    """Texts of different lengths without padding: a batch is filled up to its longest.

    Args:
        ids: the tokens of all texts one behind the other.
        lengths: of each text.
    """

    def __init__(self, ids: np.ndarray, lengths: np.ndarray):
        self.ids = torch.from_numpy(np.ascontiguousarray(ids, dtype=np.int32))
        self.lengths = torch.from_numpy(np.ascontiguousarray(lengths, dtype=np.int64))
        self.starts = self.lengths.cumsum(0) - self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def gather(self, rows: Int[Tensor, "batch"], pad: int) -> tuple[Tensor, Tensor]:
        """Texts side by side (B, L), and where there is a token."""
        lengths = self.lengths[rows]
        places = torch.arange(int(lengths.max()) if len(rows) else 0)
        attention = places < lengths[:, None]
        found = (self.starts[rows][:, None] + places).clamp_(max=max(len(self.ids) - 1, 0))
        return self.ids[found].long().masked_fill_(~attention, pad), attention
