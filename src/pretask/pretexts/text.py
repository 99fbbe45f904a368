"""What is hidden of a text, and how sentences are laid out: masks, joined sentences, mixed translations.

A text is a row of tokens with its padding at the end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pretask.data.batch import require
from pretask.errors import UsageError
from pretask.pretexts import draw
from pretask.task import Batch

MASKED, KEPT = 0.8, 0.1  # of the hidden tokens; the rest are replaced by others


class Text(NamedTuple):
    """Texts side by side.

    Args:
        tokens: padded at the end.
        attention: where there is a token.
    """

    tokens: Int[Tensor, "batch length"]
    attention: Bool[Tensor, "batch length"]

    def rows(self, chosen: slice | Tensor) -> Text:
        return Text(self.tokens[chosen], self.attention[chosen])


def read_text(batch: Batch, key: str = "tokens") -> Text:
    """The batch's texts (`tokens`) or their translations (`pair`); without `attention` nothing is padding.

    Raises:
        UsageError: there are none.
    """
    tokens = require(batch, key, 2)
    attention = batch.get("attention" if key == "tokens" else f"{key}_attention")
    return Text(tokens, torch.ones_like(tokens, dtype=torch.bool) if attention is None else attention.bool())


def read_texts(batch: Batch) -> Text:
    """All texts of each sample, (B, texts, L): those of a `script`, or its one text.

    Raises:
        UsageError: there are none.
    """
    if "script" not in batch:
        return Text(*(part[:, None] for part in read_text(batch)))
    tokens = require(batch, "script", 3)
    attention = batch.get("script_attention")
    return Text(tokens, torch.ones_like(tokens, dtype=torch.bool) if attention is None else attention.bool())


def read_pair(batch: Batch) -> tuple[Text, Text]:
    """The batch's texts and their translations.

    Raises:
        UsageError: there are none.
    """
    if "tokens" in batch and "pair" not in batch:
        raise UsageError("this needs translations and the batch has none: read text in two languages or more")
    return read_text(batch), read_text(batch, "pair")


class MaskDraw(NamedTuple):
    """Numbers from U[0, 1) that decide which tokens are hidden, and how.

    Args:
        order: the smallest of a row are hidden.
        extra: decides whether the count, which need not be whole, is rounded up.
        action: decides between mask, leaving the token as it is, and another token.
        other: which other.
    """

    order: Float[Tensor, "batch length"]
    extra: Float[Tensor, "batch"]
    action: Float[Tensor, "batch length"]
    other: Float[Tensor, "batch length"]

    def to(self, device: torch.device) -> MaskDraw:
        return MaskDraw(*(part.to(device) for part in self))


class Masked(NamedTuple):
    """What the network sees of a text, and which of its tokens it is asked for."""

    text: Text
    hidden: Bool[Tensor, "batch length"]


def draw_mask(batch: int, length: int, generator: torch.Generator) -> MaskDraw:
    """Numbers for texts of at most `length` tokens.

    A batch is as long as its longest text, which differs from process to process: `length` must not.
    """
    order, action, other = draw.uniform((batch, 3, length), generator).unbind(1)
    return MaskDraw(order, draw.uniform((batch,), generator), action, other)


def mask_tokens(
    text: Text,
    drawn: MaskDraw,
    mask: int,
    words: Int[Tensor, "words"],
    rate: float = 0.15,
    candidates: Bool[Tensor, "batch length"] | None = None,
) -> Masked:
    """Hide a share of each text's tokens (BERT, Devlin et al., NAACL 2019, section 3.1; counts as in
    RoBERTa's code).

    Of n candidates floor(rate n + u) are hidden, with u from U[0, 1): the share is met on average also in
    short texts. A hidden token becomes `mask` (80 %), stays as it is (10 %), or becomes any of `words`
    (10 %); it is asked for in each case.

    Args:
        text: what is hidden in.
        drawn: from `draw_mask`, for texts at least as long.
        mask: the token that stands for a hidden one.
        words: tokens to replace others by: all that are text.
        rate: share to hide.
        candidates: tokens that may be hidden; all, as in RoBERTa's code, where none are given: also those
            that are no text, such as `<s>`.
    """
    length = text.tokens.shape[1]
    candidates = text.attention if candidates is None else candidates & text.attention
    order = drawn.order[:, :length].masked_fill(~candidates, torch.inf)
    count = (rate * candidates.sum(1) + drawn.extra).floor()
    hidden = (order.argsort(1).argsort(1) < count[:, None]) & candidates
    return replaced(text, hidden, drawn, mask, words)


def mask_each(
    text: Text,
    drawn: MaskDraw,
    mask: int,
    words: Int[Tensor, "words"],
    rate: float,
    candidates: Bool[Tensor, "batch length"],
) -> Masked:
    """Hide each candidate with probability `rate`, given that at least one is hidden (VALOR, whose code draws again
    until that is so). What becomes of it is as in `mask_tokens`.

    With r = 1 - rate the k-th of n candidates is the first to be hidden with probability rate r^k / (1 - r^n); those
    behind it are hidden each for itself.

    Args:
        text: what is hidden in.
        drawn: from `draw_mask`, for texts at least as long.
        mask: the token that stands for a hidden one.
        words: tokens to replace others by.
        rate: above 0 and at most 1.
        candidates: tokens that may be hidden; a text without any stays as it is.
    """
    left = torch.tensor(1 - rate, dtype=torch.float64, device=text.tokens.device)
    number, count = candidates.cumsum(1) - 1, candidates.sum(1)
    first = (torch.log1p(-drawn.extra.double() * (1 - left**count)) / left.log()).long()
    first = torch.minimum(first, count - 1)[:, None]  # rounding could name one too many
    behind = (number > first) & (drawn.order[:, : text.tokens.shape[1]] < rate)
    return replaced(text, (behind | (number == first)) & candidates, drawn, mask, words)


def replaced(
    text: Text, hidden: Bool[Tensor, "batch length"], drawn: MaskDraw, mask: int, words: Int[Tensor, "words"]
) -> Masked:
    """Hidden tokens as `mask` (80 %), as they are (10 %) or as any of `words` (10 %)."""
    length = text.tokens.shape[1]
    action = drawn.action[:, :length]
    other = words[(drawn.other[:, :length] * len(words)).long().clamp(max=len(words) - 1)]
    shown = torch.where(hidden & (action < MASKED), mask, text.tokens)
    shown = torch.where(hidden & (action >= MASKED + KEPT), other, shown)
    return Masked(Text(shown, text.attention), hidden)


def join(first: Text, second: Text, pad: int, bos: int | None = None, max_length: int | None = None) -> Text:
    """`<s> x </s> y </s>` from `<s> x </s>` and `<s> y </s>`: positions run on, nothing says which is which.

    The second text loses its first token where this is `bos`.

    Args:
        first: padded at the end.
        second: as many, padded at the end.
        pad: fills up.
        bos: the token that stands before every text; None keeps all tokens.
        max_length: what is beyond is cut off.
    """
    skip = torch.zeros_like(second.tokens[:, :1]) if bos is None else (second.tokens[:, :1] == bos).long()
    before = first.attention.sum(1, keepdim=True)
    length = before + (second.attention.sum(1, keepdim=True) - skip).clamp(min=0)
    width = first.tokens.shape[1] + second.tokens.shape[1]
    place = torch.arange(min(width, max_length or width), device=first.tokens.device)
    source = torch.where(place < before, place, place - before + skip + first.tokens.shape[1])
    attention = place < length
    both = torch.cat([first.tokens, second.tokens], dim=1)
    return Text(both.gather(1, source.clamp(max=width - 1)).masked_fill(~attention, pad), attention)


def widen(text: Text, length: int, pad: int) -> Text:
    """The same texts with more padding."""
    more = (0, length - text.tokens.shape[1])
    return Text(F.pad(text.tokens, more, value=pad), F.pad(text.attention, more, value=False))


def choose(condition: Bool[Tensor, "batch"], yes: Text, no: Text, pad: int) -> Text:
    """For each row one text or the other."""
    length = max(yes.tokens.shape[1], no.tokens.shape[1])
    yes, no = widen(yes, length, pad), widen(no, length, pad)
    return Text(*(torch.where(condition[:, None], a, b) for a, b in zip(yes, no, strict=True)))


def alternate(first: Text, second: Text, pad: int) -> Text:
    """Row 0 of both, row 1 of both ...: an order that processes can share out."""
    length = max(first.tokens.shape[1], second.tokens.shape[1])
    both = zip(widen(first, length, pad), widen(second, length, pad), strict=True)
    return Text(*(torch.stack(pair, dim=1).flatten(0, 1) for pair in both))


def couples(text: Text) -> tuple[Text, Text]:
    """Texts 0, 2, 4 ... and texts 1, 3, 5 ...; the last one is left out where their number is odd."""
    even = len(text.tokens) // 2 * 2
    return text.rows(slice(0, even, 2)), text.rows(slice(1, even, 2))


def mix_pairs(
    source: Text,
    target: Text,
    mode: Int[Tensor, "couples"],
    pad: int,
    bos: int | None = None,
    max_length: int | None = None,
) -> tuple[Text, Text]:
    """Two translated pairs as one (InfoXLM's mixup contrast; Chi et al., NAACL 2021).

    Pairs (x1, y1) and (x2, y2) that follow each other become [x1; x2] and [y1; y2]. Of `mode`, bit 1 turns
    the order on the source side, bit 2 that on the target side, and bit 4 exchanges the sides: what is
    where says nothing.

    Args:
        source: x1, x2, x1, x2 ...
        target: y1, y2, y1, y2 ...
        mode: 0 .. 7 for each two pairs.
        pad: fills up.
        bos: the token that the second of two texts loses.
        max_length: what is beyond is cut off.
    """

    def joined(text: Text, turned: Tensor) -> Text:
        first, second = couples(text)
        parts = choose(turned, second, first, pad), choose(turned, first, second, pad)
        return join(parts[0], parts[1], pad, bos, max_length)

    one, other = joined(source, (mode & 1) > 0), joined(target, (mode & 2) > 0)
    return swap_roles(one, other, (mode & 4) > 0, pad)


def swap_roles(source: Text, target: Text, swapped: Bool[Tensor, "batch"], pad: int) -> tuple[Text, Text]:
    """Exchange source and target of some pairs."""
    return choose(swapped, target, source, pad), choose(swapped, source, target, pad)
