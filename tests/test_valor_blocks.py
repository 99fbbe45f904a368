"""VALOR's blocks against loops: comparison of parts, slices of sound, hidden words, masks of attention."""

import math

import numpy as np
import pytest
import torch

from pretask.encoders.parts import Parts, joined
from pretask.encoders.valor import MEL_DEVIATION, MEL_MEAN, attention_mask
from pretask.objectives.fine import fine_similarity, gathered, symmetric_nce
from pretask.pretexts.audio import frame_sizes, log_mel, mel_filters, segment_places, slices
from pretask.pretexts.text import Text, draw_mask, mask_each


def random_parts(things: int, parts: int, seed: int) -> Parts:
    generator = torch.Generator().manual_seed(seed)
    feature = torch.nn.functional.normalize(
        torch.randn(things, parts, 5, generator=generator), dim=2
    ).double()
    there = torch.rand(things, parts, generator=generator) < 0.7
    there[:, 0] = True
    return Parts(feature, torch.randn(things, parts, generator=generator).double(), there)


def test_the_fine_comparison_against_loops():
    a, b = random_parts(3, 4, 0), random_parts(2, 5, 1)
    found = fine_similarity(a, b)
    for i in range(3):
        for j in range(2):
            each = np.zeros((4, 5))
            for t in range(4):
                for v in range(5):
                    if a.there[i, t] and b.there[j, v]:
                        each[t, v] = float(a.feature[i, t] @ b.feature[j, v])
            total = 0.0
            for parts, row, best in ((a, i, each.max(1)), (b, j, each.max(0))):
                exps = [
                    math.exp(float(w)) * float(t)
                    for w, t in zip(parts.weight[row], parts.there[row], strict=True)
                ]
                total += sum(e / sum(exps) * m for e, m in zip(exps, best, strict=True)) / 2
            assert float(found[i, j]) == pytest.approx(total)
    one = Parts(-a.feature[:1, :1], torch.zeros(1, 1).double(), torch.ones(1, 1).bool())
    padded = Parts(*(torch.cat([x, torch.zeros_like(x)], dim=1) for x in one))
    alone = Parts(a.feature[:1, :1], torch.zeros(1, 1).double(), torch.ones(1, 1).bool())
    assert float(fine_similarity(alone, one)) == pytest.approx(-1.0)
    assert float(fine_similarity(alone, padded)) == pytest.approx(-0.5), (
        "a filler counts as 0, which beats -1"
    )


def test_parts_of_two_kinds_share_one_softmax_and_gathering_alone_changes_nothing():
    a, v, s = random_parts(3, 4, 0), random_parts(3, 2, 1), random_parts(3, 1, 2)
    both = joined(v, s)
    assert both.feature.shape == (3, 3, 5) and torch.equal(both.weight[:, 2:], s.weight)
    assert all(torch.equal(x, y) for x, y in zip(gathered(both), both, strict=True))
    assert not torch.allclose(fine_similarity(a, both), (fine_similarity(a, v) + fine_similarity(a, s)) / 2)


def test_symmetric_contrast_against_loops():
    score = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()
    total = 0.0
    for i in range(4):
        for line in (score[i], score[:, i]):
            exps = [math.exp(float(x) / 0.07) for x in line]
            total -= math.log(exps[i] / sum(exps)) / 8
    assert float(symmetric_nce(score, 0.07)) == pytest.approx(total)


def test_log_mel_against_loops():
    rate, bins = 16000, 8
    sound = np.random.default_rng(0).normal(size=900) * 0.1
    found = log_mel(torch.from_numpy(sound)[None], mel_filters(rate, 512, bins).double(), rate)[0]
    assert found.shape == (1 + (900 - 400) // 160, bins)

    def mel(f):
        return 1127 * math.log(1 + f / 700)

    step = (mel(8000) - mel(20)) / (bins + 1)
    for frame in (0, 3):
        window = sound[frame * 160 : frame * 160 + 400]
        window = window - window.mean()
        first = [window[max(n - 1, 0)] for n in range(400)]
        shaped = [
            (window[n] - 0.97 * first[n]) * (0.5 - 0.5 * math.cos(2 * math.pi * n / 399)) for n in range(400)
        ]
        power = np.abs(np.fft.rfft(shaped, 512)) ** 2
        for bin in range(bins):
            left = mel(20) + bin * step
            total = 0.0
            for k in range(256):
                place = mel(k * rate / 512)
                if left < place < left + 2 * step:
                    total += power[k] * min((place - left) / step, (left + 2 * step - place) / step)
            assert float(found[frame, bin]) == pytest.approx(math.log(total), rel=1e-4)


def test_windows_are_cut_off_to_whole_samples():
    assert frame_sizes(11025) == (275, 110) and frame_sizes(16000) == (400, 160)
    sound = torch.rand(1, 275 + 3 * 110)
    assert log_mel(sound, mel_filters(11025, 512, 8), 11025).shape[1] == 4
    alone = log_mel(sound[:, 110 : 110 + 275], mel_filters(11025, 512, 8), 11025)
    assert torch.allclose(log_mel(sound, mel_filters(11025, 512, 8), 11025)[:, 1:2], alone, atol=1e-5)


def test_slices_are_filled_up_before_they_are_normalised():
    frames = torch.rand(1, 70, 3)
    cut = slices(frames, 64, MEL_MEAN, MEL_DEVIATION)
    assert cut.shape == (1, 2, 64, 3) and float(cut[0, 1, 6:].min()) == pytest.approx(0.467, abs=1e-3)
    assert torch.allclose(cut[0, 1, :6], (frames[0, 64:] + 4.2677393) / (2 * 4.5689974), rtol=1e-6)
    assert slices(frames[:, :64], 64, MEL_MEAN, MEL_DEVIATION).shape[1] == 2, "a whole empty one follows"


def test_one_place_of_each_segment():
    unit = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    place = segment_places(10, 3, unit, 200)
    spans = [set(place[:, k].tolist()) for k in range(3)]
    assert spans == [{0, 1, 2, 3}, {4, 5, 6}, {7, 8, 9}]
    assert segment_places(10, 3, None, 2).tolist() == [[1, 5, 8]] * 2
    assert segment_places(2, 4, None, 1).tolist() == [[0, 1, 1, 1]]
    assert segment_places(8, 2, None, 1).tolist() == [[1, 5]]
    assert segment_places(1, 3, unit, 200).unique().tolist() == [0]


def test_words_are_hidden_each_for_itself_but_never_the_first_and_never_none():
    tokens = torch.arange(6, 18).repeat(2000, 1)
    attention = torch.arange(12) < torch.tensor([12, 3] * 1000)[:, None]
    text = Text(tokens, attention)
    candidates = attention & (torch.arange(12) > 0)
    drawn = draw_mask(2000, 12, torch.Generator().manual_seed(0))
    masked = mask_each(text, drawn, 4, torch.arange(100, 200), 0.6, candidates)
    assert not (masked.hidden & ~candidates).any() and masked.hidden.any(1).all()
    assert masked.hidden[::2, 1:].float().mean() == pytest.approx(0.6, abs=0.02)
    shown = masked.text.tokens[masked.hidden]
    assert (shown == 4).float().mean() == pytest.approx(0.8, abs=0.02)
    assert (shown >= 100).float().mean() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(masked.text.tokens[~masked.hidden], tokens[~masked.hidden])


@pytest.mark.parametrize("rate", [0.1, 0.6, 1.0])
def test_words_are_hidden_as_if_drawn_again_until_one_is(rate):
    """All patterns of three words, a filler among them, with their probabilities given that one is hidden."""
    count = 40_000
    text = Text(torch.arange(6, 11).repeat(count, 1), torch.ones(count, 5).bool())
    candidates = torch.tensor([False, True, True, False, True]).repeat(count, 1)
    drawn = draw_mask(count, 5, torch.Generator().manual_seed(0))
    hidden = mask_each(text, drawn, 4, torch.arange(100, 200), rate, candidates).hidden
    found = (hidden[:, [1, 2, 4]] * torch.tensor([4, 2, 1])).sum(1).bincount(minlength=8) / count
    for pattern in range(1, 8):
        shown = [rate if pattern & bit else 1 - rate for bit in (4, 2, 1)]
        assert float(found[pattern]) == pytest.approx(math.prod(shown) / (1 - (1 - rate) ** 3), abs=0.01)
    assert found[0] == 0 and not hidden[:, [0, 3]].any()
    none = mask_each(text, drawn, 4, torch.arange(100, 200), rate, candidates & False).hidden
    assert not none.any(), "a text without words is left alone"


def test_masks_of_attention_against_loops():
    attention = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()
    for causal in (False, True):
        found = attention_mask(attention, causal)
        for b in range(2):
            for i in range(4):
                for j in range(4):
                    assert bool(found[b, 0, i, j]) == bool(attention[b, j] and (j <= i or not causal))
