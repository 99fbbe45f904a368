"""Bitext retrieval and transfer between languages, on encoders that know what they are asked."""

import pytest
import torch
from torch import nn

import tiny
from pretask import catalog
from pretask.data import Dataset, open_data
from pretask.encoders import build_encoder
from pretask.encoders.features import Features
from pretask.errors import UsageError
from pretask.evaluation import trivial
from pretask.evaluation.protocols import evaluate
from pretask.evaluation.shortcuts import shortcuts
from pretask.evaluation.text import bitext, found, transfer

ENGLISH = [f"w{i} w{i + 1} w{i + 2}" for i in range(60)]


class Oracle(nn.Module):
    """Layer 0 is noise; layer 1 gives each sentence its number's direction, in either language.

    Args:
        wrong: every so manieth translation is taken for that of its neighbour.
    """

    def __init__(self, dataset, wrong: int = 0):
        super().__init__()
        batch = dataset.batch(range(len(dataset)))
        self.known = {}
        for number, (source, target) in enumerate(zip(batch["tokens"], batch["pair"], strict=True)):
            self.known[tuple(source[source != 1].tolist())] = number
            mistaken = wrong and number % wrong == 0
            self.known[tuple(target[target != 1].tolist())] = number + 1 if mistaken else number
        self.dim = 100

    def layers(self, tokens, attention=None):
        numbers = [self.known[tuple(row[row != 1].tolist())] for row in tokens]
        generator = torch.Generator().manual_seed(int(tokens.sum()))
        noise = torch.randn(len(tokens), 1, self.dim, generator=generator)
        return noise.expand(-1, tokens.shape[1], -1), torch.eye(self.dim)[numbers][:, None].expand_as(noise)

    def forward(self, tokens, attention=None) -> Features:
        x = self.layers(tokens)[1]
        return Features(x[:, 0], x, x[:, :0], (1,))


@pytest.fixture(scope="module")
def dataset():
    return open_data(
        ({"en": ENGLISH, "xx": [line.replace("w", "v") for line in ENGLISH]}), modality="text", vocab_size=300
    )


def test_a_perfect_encoder_finds_all_and_its_layer_is_chosen(dataset):
    score = bitext(Oracle(dataset), dataset, dataset)[0]
    assert (score.protocol, score.metric, score.value, score.n) == ("bitext", "accuracy@1", 1.0, 60)
    assert score.detail["layer"] == 1 and score.detail["by_layer"]["0"] < 0.3
    assert score.detail["en-xx"] == score.detail["xx-en"] == 1.0
    assert score.detail["chance"] == pytest.approx(1 / 60)


def test_both_directions_count(dataset):
    """Every tenth translation is taken for its neighbour's: its sentence finds nothing, and it finds the
    neighbour's sentence. The neighbour finds two that are equally near."""
    score = bitext(Oracle(dataset, wrong=10), dataset, dataset)[0]
    assert 0.85 < score.value < 0.95
    assert score.items.shape == (60,) and score.value == pytest.approx(float(score.items.mean()))


def test_found_against_a_loop():
    source, target = torch.randn(20, 5), torch.randn(20, 5)
    target[::2] = source[::2] + 0.1 * torch.randn(10, 5)
    for i, value in enumerate(found(source, target)):
        there = max(range(20), key=lambda j: float(torch.cosine_similarity(source[i], target[j], dim=0)))
        back = max(range(20), key=lambda j: float(torch.cosine_similarity(target[i], source[j], dim=0)))
        assert value == ((there == i) + (back == i)) / 2


def test_pairs_look_among_their_own_languages():
    lines = {"en": ENGLISH[:20], "xx": ["v" + x for x in ENGLISH[:20]], "yy": ["u" + x for x in ENGLISH[:20]]}
    dataset = open_data(lines, modality="text", vocab_size=300)
    score = bitext(Oracle(dataset), dataset, dataset)[0]
    assert {"en-xx", "xx-en", "en-yy", "yy-en"} <= set(score.detail) and score.detail["chance"] == 1 / 20


def test_without_translations_it_says_so():
    dataset = open_data(ENGLISH, modality="text", vocab_size=300)
    encoder = build_encoder("raw", "text", **dataset.inputs)
    with pytest.raises(UsageError, match="translations"):
        evaluate(encoder, dataset, dataset, ["bitext"])
    with pytest.raises(UsageError, match="reads no text"):
        bitext(nn.Identity(), dataset, dataset)


def test_transfer_learns_in_one_language_and_is_judged_in_the_other():
    labels = [str(i % 3) for i in range(60)]
    lines = {"en": ENGLISH, "xx": [line.replace("w", "v") for line in ENGLISH]}
    plain = open_data(lines, modality="text", vocab_size=300)
    dataset = Dataset(
        plain.samples, "labelled", modality="text", inputs=plain.inputs,
        targets=torch.tensor([int(label) for label in labels]), classes=["0", "1", "2"],
    )  # fmt: skip

    class Topics(Oracle):
        def layers(self, tokens, attention=None):
            noise, one = super().layers(tokens, attention)
            number = one[:, 0].argmax(1)
            return noise, torch.eye(100)[number % 3][:, None] + 0.01 * one

    score = transfer(Topics(dataset), dataset, dataset)[0]
    assert score.protocol == "transfer" and score.value == 1.0 and score.detail["layer"] == 1


def test_trivial_statistics_of_text():
    text = torch.tensor([[5.0, 70.0, 5.0, -1.0], [6.0, -1.0, -1.0, -1.0]])
    assert trivial.text_length(text).tolist() == [[3.0], [1.0]]
    counts = trivial.text_tokens(text)
    assert counts[0, 5] == 2 and counts[0, 70 - 64] == 1 and counts[0].sum() == 3 and counts[1].sum() == 1


def test_shortcuts_know_text():
    """Word for word translations are as long as their sources: that alone finds some."""
    rows = {row.statistic: row for row in shortcuts(tiny.task(catalog.find("infoxlm")), tiny.corpus())}
    assert set(rows) == {"length", "tokens", "all"} and rows["all"].metric == "retrieval"
    assert rows["length"].value > rows["length"].chance
