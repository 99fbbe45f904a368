"""What a map shows of a sample, for every kind of data that there is."""

import numpy as np
import pytest
import torch

from pretask import modalities
from pretask.data import open_data
from pretask.reports.map import SIDE, payload, read_features, write_features
from pretask.reports.thumbs import LONGEST, dots, small, spectrogram

WITHOUT_A_LOOK = ("text", "graph")


@pytest.mark.parametrize("kind", [row.name for row in modalities.MODALITIES])
def test_every_kind_of_data_has_a_look_or_words(kind):
    name = "digits" if kind == "image" else modalities.find(kind).embedded[0]
    dataset = open_data(name, modality=kind, limit=4)
    pictures, words = small(dataset)
    assert len(words) == len(dataset)
    if kind in WITHOUT_A_LOOK:
        assert pictures is None
    else:
        assert pictures.shape == (len(dataset), 3, SIDE, SIDE) and pictures.dtype == torch.uint8
        assert pictures.float().std((1, 2, 3)).min() > 1, "an empty picture shows nothing"


def test_texts_are_shown_cut_short():
    words = small(open_data("cipher-languages", limit=6))[1]
    assert all(words) and max(map(len, words)) <= LONGEST


def test_dots_keep_their_places_and_leave_out_what_is_unknown():
    corners = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [torch.nan, 5.0]]])
    dark = dots(corners)[0, 0] < 128
    rows, columns = dark.nonzero().T
    assert dark.sum() == 3
    assert rows.min() < 3 and rows.max() > 28, "y goes upwards over the whole picture"
    assert columns.max() - columns.min() == pytest.approx(0.45 * SIDE, abs=1), "x keeps the scale of y"


def test_low_tones_lie_below_high_ones():
    time = torch.arange(4000) / 8000
    low, high = (
        spectrogram(torch.sin(2 * np.pi * tone * time)[None])[0, 0].float().mean(1) for tone in (300, 3500)
    )
    assert low.argmax() > 26 and high.argmax() < 6


def test_words_travel_to_the_map(tmp_path):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    write_features(tmp_path, x, words=["a", "b", "", "d", "e"])
    assert payload(read_features(tmp_path))["words"] == ["a", "b", "", "d", "e"]
    write_features(tmp_path, x, words=[""] * 5)
    assert payload(read_features(tmp_path))["words"] is None, "names that say nothing are not kept"
