"""What is hidden of a text and how sentences are laid out, against loops over samples."""

import pytest
import torch

from pretask.errors import UsageError
from pretask.pretexts.text import (
    MaskDraw,
    Text,
    alternate,
    couples,
    draw_mask,
    join,
    mask_tokens,
    mix_pairs,
    read_pair,
    read_text,
    swap_roles,
)

BOS, PAD, EOS, MASK = 0, 1, 2, 4
WORDS = torch.arange(5, 50)


def text(*rows: list[int]) -> Text:
    width = max(map(len, rows))
    tokens = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    attention = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return Text(tokens, attention)


def rows(found: Text) -> list[list[int]]:
    """Each text without its padding, which must be padding and stand at the end."""
    lengths = found.attention.sum(1)
    assert torch.equal(found.attention, torch.arange(found.tokens.shape[1]) < lengths[:, None])
    assert (found.tokens[~found.attention] == PAD).all()
    return [row[:length].tolist() for row, length in zip(found.tokens, lengths.tolist(), strict=True)]


def random_texts(count: int, seed: int = 0) -> Text:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (count,), generator=generator)
    return text(
        *[[BOS, *torch.randint(5, 50, (int(n),), generator=generator).tolist(), EOS] for n in lengths]
    )


class TestMask:
    def test_against_a_loop(self):
        given, drawn = random_texts(40), draw_mask(40, 12, torch.Generator().manual_seed(1))
        shown, hidden = mask_tokens(given, drawn, MASK, WORDS, rate=0.3)
        for row, own in enumerate(rows(given)):
            count = int(0.3 * len(own) + float(drawn.extra[row]))
            order = sorted(range(len(own)), key=lambda i: float(drawn.order[row, i]))
            assert hidden[row].nonzero().flatten().tolist() == sorted(order[:count])
            for i, token in enumerate(own):
                action, expected = float(drawn.action[row, i]), token
                if i in order[:count] and action < 0.8:
                    expected = MASK
                elif i in order[:count] and action >= 0.9:
                    expected = int(WORDS[int(float(drawn.other[row, i]) * len(WORDS))])
                assert shown.tokens[row, i] == expected
        assert torch.equal(shown.attention, given.attention)

    def test_shares(self):
        """15 % on average also in short texts; of these 80, 10 and 10 %; no other token changes."""
        given = text(*[[BOS, *range(5, 13), EOS]] * 20_000)
        drawn = draw_mask(20_000, 10, torch.Generator().manual_seed(0))
        shown, hidden = mask_tokens(given, drawn, MASK, WORDS)
        assert set(hidden.sum(1).tolist()) == {1, 2}, "1.5 of 10"
        assert hidden.float().mean().item() == pytest.approx(0.15, abs=0.002)
        assert hidden.float().mean(0).tolist() == pytest.approx([0.15] * 10, abs=0.01), "special tokens too"
        assert torch.equal(shown.tokens[~hidden], given.tokens[~hidden])
        masked = shown.tokens[hidden] == MASK
        same = shown.tokens[hidden] == given.tokens[hidden]
        assert masked.float().mean().item() == pytest.approx(0.8, abs=0.01)
        assert same.float().mean().item() == pytest.approx(0.1 + 0.1 * 0.8 / 45, abs=0.01)
        others = shown.tokens[hidden][~masked & ~same]
        assert set(others.tolist()) == set(WORDS.tolist()), "any word, and words only"

    def test_only_candidates_are_hidden_and_counted(self):
        given = text([BOS, *range(5, 15), EOS], [BOS, *range(5, 15), EOS])
        candidates = given.tokens > EOS
        zero = MaskDraw(torch.rand(2, 12), torch.zeros(2), torch.zeros(2, 12), torch.zeros(2, 12))
        _, hidden = mask_tokens(given, zero, MASK, WORDS, 0.2, candidates)
        assert hidden.sum(1).tolist() == [2, 2] and not (hidden & ~candidates).any()

    def test_padding_is_never_hidden_and_changes_nothing(self):
        given, drawn = random_texts(10), draw_mask(10, 30, torch.Generator().manual_seed(1))
        wide = Text(
            torch.nn.functional.pad(given.tokens, (0, 9), value=PAD),
            torch.nn.functional.pad(given.attention, (0, 9)),
        )
        narrow_shown, narrow = mask_tokens(given, drawn, MASK, WORDS, 0.9)
        wide_shown, hidden = mask_tokens(wide, drawn, MASK, WORDS, 0.9)
        assert torch.equal(hidden[:, : narrow.shape[1]], narrow) and not hidden[:, narrow.shape[1] :].any()
        assert rows(wide_shown) == rows(narrow_shown)


class TestJoin:
    def test_the_second_loses_its_bos_and_positions_run_on(self):
        a, b = text([BOS, 7, 8, EOS], [BOS, 9, EOS]), text([BOS, 10, EOS], [BOS, 11, 12, 13, EOS])
        assert rows(join(a, b, PAD, BOS)) == [[BOS, 7, 8, EOS, 10, EOS], [BOS, 9, EOS, 11, 12, 13, EOS]]

    def test_a_hidden_bos_stays(self):
        """As in the official code, which looks for the token itself behind the masks."""
        a, b = text([BOS, 7, EOS]), text([MASK, 10, EOS])
        assert rows(join(a, b, PAD, BOS)) == [[BOS, 7, EOS, MASK, 10, EOS]]

    def test_without_bos_nothing_is_lost_and_the_end_is_cut(self):
        a, b = text([7, 8], [9]), text([10, 11], [12, 13])
        assert rows(join(a, b, PAD)) == [[7, 8, 10, 11], [9, 12, 13]]
        assert rows(join(a, b, PAD, max_length=3)) == [[7, 8, 10], [9, 12, 13]]

    def test_an_empty_second_adds_nothing(self):
        a, b = text([BOS, 7, EOS]), text([BOS, 8, EOS])
        assert rows(join(a, Text(b.tokens, b.attention & False), PAD, BOS)) == [[BOS, 7, EOS]]

    def test_against_lists(self):
        a, b = random_texts(50), random_texts(50, seed=1)
        assert rows(join(a, b, PAD, BOS)) == [x + y[1:] for x, y in zip(rows(a), rows(b), strict=True)]


class TestMix:
    def test_modes_bit_by_bit(self):
        """The eight modes against the official rule: 1 turns the sources, 2 the targets, 4 the sides."""
        source = text(*[[BOS, 10 + i, EOS] for i in range(16)])
        target = text(*[[BOS, 30 + i, 40, EOS] for i in range(16)])
        shown, wanted = mix_pairs(source, target, torch.arange(8), PAD, BOS)
        for mode, (one, other) in enumerate(zip(rows(shown), rows(wanted), strict=True)):
            s1, s2 = ([BOS, 10 + 2 * mode + i, EOS] for i in range(2))
            t1, t2 = ([BOS, 30 + 2 * mode + i, 40, EOS] for i in range(2))
            if mode & 1:
                s1, s2 = s2, s1
            if mode & 2:
                t1, t2 = t2, t1
            left, right = s1 + s2[1:], t1 + t2[1:]
            if mode & 4:
                left, right = right, left
            assert (one, other) == (left, right)

    def test_an_odd_row_is_left_out(self):
        first, second = couples(random_texts(7))
        assert len(first.tokens) == len(second.tokens) == 3

    def test_swapped_roles(self):
        a, b = text([7], [8]), text([9, 10], [11, 12])
        one, other = swap_roles(a, b, torch.tensor([False, True]), PAD)
        assert rows(one) == [[7], [11, 12]] and rows(other) == [[9, 10], [8]]

    def test_alternate_keeps_rows_together(self):
        a, b = text([7], [8]), text([9, 10], [11, 12])
        assert rows(alternate(a, b, PAD)) == [[7], [9, 10], [8], [11, 12]]


def test_reading_a_batch():
    tokens = torch.tensor([[5, 6], [7, PAD]])
    assert read_text({"tokens": tokens}).attention.all(), "without attention nothing is padding"
    with pytest.raises(UsageError, match="translations"):
        read_pair({"tokens": tokens})
    source, target = read_pair({"tokens": tokens, "pair": tokens, "pair_attention": tokens != PAD})
    assert rows(target) == [[5, 6], [7]] and source.attention.all()
