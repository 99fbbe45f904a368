"""Advice: who drops out of the race, who wins it, and how sure that is."""

import pytest
import torch

from pretask import api
from pretask.data import open_data
from pretask.errors import UsageError
from pretask.studies.advice import Evidence, averaged, contestants, mean_ranks, rungs, sureness

TINY = "vit_tiny_patch16_224:depth=1,embed_dim=32,num_heads=2"


@pytest.mark.parametrize("count", [2, 3, 5, 7, 8, 20])
def test_rounds_halve_the_field_and_double_the_steps(count):
    rounds = rungs(count, 1024)
    sizes, steps = zip(*rounds, strict=True)
    assert sizes[0] == count and sizes[-1] == 2
    assert steps[-1] == 1024
    for before, after in zip(rounds, rounds[1:], strict=False):
        assert after[0] == max(2, -(-before[0] // 2))
        assert after[1] == 2 * before[1]


def test_ranks_are_those_of_sorting_by_hand():
    scores = [{"a": 3.0, "b": 1.0}, {"a": 2.0, "b": 5.0}, {"a": 2.0, "b": 0.0, "c": 9.0}]
    # a: 1, 2.5, 2.5 (a tie shares); b: 2, 1, 3; c is not known of all
    assert mean_ranks(scores) == [1.5, 1.75, 2.75]


def test_averages_over_seeds():
    assert averaged([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0, "b": 2.0}


def of(right):
    return Evidence(torch.zeros(1, 1), None, torch.tensor(right))


def test_a_clear_winner_is_sure_and_equals_are_not():
    good, bad = [1.0] * 90 + [0.0] * 10, [1.0] * 10 + [0.0] * 90
    assert sureness({"x": [of(good)], "y": [of(bad)]}, "x") == 1.0
    assert sureness({"x": [of(good)], "y": [of(bad)]}, "y") == 0.0
    assert 0.35 < sureness({"x": [of(good)], "y": [of(good)]}, "x") < 0.65
    assert sureness({"x": [of([1.0])], "y": [of([1.0])]}, "x") == 0.5  # a tie is half a win


def test_seeds_that_disagree_make_unsure():
    agreeing = {"x": [of([1.0] * 50), of([1.0] * 50)], "y": [of([0.5] * 50), of([0.5] * 50)]}
    torn = {"x": [of([1.0] * 50), of([0.2] * 50)], "y": [of([0.5] * 50), of([0.5] * 50)]}
    assert sureness(agreeing, "x") == 1.0
    assert 0.5 < sureness(torn, "x") < 0.95


def test_features_of_more_directions_score_higher_without_labels():
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(200, 16, generator=generator)
    narrow = wide * torch.tensor([1.0] * 2 + [0.01] * 14)
    assert Evidence(wide, None, None).scores()["rankme"] > 4 * Evidence(narrow, None, None).scores()["rankme"]


def test_what_learns_from_labels_or_needs_a_network_of_its_own_does_not_race():
    names = contestants("image")
    assert {"rotation", "simclr", "mae"} <= set(names)
    assert not {"cler", "ssdl", "p2-weighting"} & set(names)


@pytest.mark.parametrize("labels", [True, False])
def test_a_race_goes_on_where_it_stopped(labels, tmp_path):
    data = open_data("digits", limit=150)
    settings = {"encoder": TINY, "out": tmp_path, "max_steps": 4, "batch_size": 16, "labels": labels}
    found = api.advise(["rotation", "simclr", "mae"], data, **settings)
    assert found["by"] == ("few-shot" if labels else "label-free")
    assert [row["round"] for row in found["rows"]] == [2, 2, 1]
    assert [row["steps"] for row in found["rows"]] == [4, 4, 2]
    assert found["pick"] == found["rows"][0]["method"] and 0 <= found["sure"] <= 1
    wanted = {"few-shot"} if labels else {"rankme", "alpha_req", "lidar"}
    assert wanted <= set(found["rows"][0])
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("encoder.safetensors")}
    assert len(written) == 3 + 2 * 2
    assert api.advise(["rotation", "simclr", "mae"], data, **settings) == found
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("encoder.safetensors")}


def test_what_cannot_learn_from_the_data_is_left_out(tmp_path):
    data = open_data("digits", limit=100)  # grey
    settings = {
        "encoder": TINY,
        "out": tmp_path,
        "max_steps": 2,
        "batch_size": 10,
        "seeds": 1,
        "labels": False,
    }
    found = api.advise(["rotation", "mixedae", "simclr"], data, **settings)
    assert set(found["left_out"]) == {"mixedae"} and "multiple" in found["left_out"]["mixedae"]
    assert {row["method"] for row in found["rows"]} == {"rotation", "simclr"}
    with pytest.raises(UsageError, match="fewer than two.*mixedae"):
        api.advise(["mixedae", "rotation"], data, **settings)


def test_one_method_is_no_race(tmp_path):
    with pytest.raises(UsageError, match="two methods"):
        api.advise(["rotation"], "digits", out=tmp_path)
    with pytest.raises(UsageError, match="two methods"):
        api.advise(modality="track", out=tmp_path)
