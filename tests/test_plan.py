"""The rule that scales a recipe to the data at hand, and the schedules that follow from it."""

import json
from math import cos, pi

import numpy as np
import pytest

from pretask.errors import UsageError
from pretask.recipe import Recipe
from pretask.task import Stage
from pretask.training.plan import make_plan

SIZES = [1, 3, 8, 11, 40, 200, 1000, 2000, 10_000, 50_000, 1_000_000]


def test_the_numbers_of_the_docstring():
    recipe = Recipe(batch_size=4096)
    assert [make_plan(recipe, n).batch_size for n in (200, 1000, 1_000_000)] == [32, 128, 256]
    found = [round(make_plan(recipe, n).epochs) for n in (200, 2000, 50_000, 1_000_000)]
    assert found == [320, 256, 52, 12]


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("paper", [1, 64, 4096])
def test_the_default_batch_fits(count, paper):
    batch = make_plan(Recipe(batch_size=paper), count).batch_size
    assert 1 <= batch <= min(count, paper, 256)
    if count >= 8 and paper >= 8:
        assert batch >= 8


def test_more_data_never_mean_smaller_batches_or_shorter_runs():
    plans = [make_plan(Recipe(), n) for n in SIZES if n >= 40]  # below, whole batches are a rough measure
    seen = [plan.steps * plan.batch_size for plan in plans]
    assert [plan.batch_size for plan in plans] == sorted(plan.batch_size for plan in plans)
    assert seen == sorted(seen)
    epochs = [plan.epochs for plan in plans if plan.batch_size == 256]
    assert epochs == sorted(epochs, reverse=True)


@pytest.mark.parametrize("shares", [2, 3, 8])
def test_the_default_batch_can_be_shared(shares):
    for count in SIZES:
        assert make_plan(Recipe(), count, shares=shares).batch_size % shares == 0


def test_what_was_asked_for_is_kept():
    plan = make_plan(Recipe(), 1000, batch_size=50, epochs=3)
    assert (plan.batch_size, plan.steps, plan.steps_per_epoch) == (50, 60, 20)
    assert make_plan(Recipe(), 1000, max_steps=7, epochs=3).steps == 7
    assert make_plan(Recipe(), 1000, epochs=0.5, batch_size=100).steps == 5
    assert make_plan(Recipe(), 10, batch_size=64, max_steps=5).batch_size == 64


def test_the_batch_does_not_change_how_often_data_are_seen():
    plans = [make_plan(Recipe(), 5000, batch_size=batch) for batch in (50, 100, 500)]
    assert len({plan.epochs for plan in plans}) == 1


def test_rates_grow_with_the_batch():
    recipe = Recipe(lr=0.3, lr_batch=256)
    assert make_plan(recipe, 1000, batch_size=64).lr == pytest.approx(0.075)
    assert make_plan(Recipe(lr=0.3, lr_batch=0), 1000, batch_size=64).lr == pytest.approx(0.3)


def test_a_rate_asked_for_is_the_peak_and_others_follow():
    plan = make_plan(Recipe(lr=0.3), 1000, batch_size=64, lr="0.15")
    assert plan.lr == pytest.approx(0.15)
    assert plan.schedule(Recipe(lr=1.0, lr_batch=128)).peak == pytest.approx(2 * 0.5)


def test_a_stream_needs_steps():
    with pytest.raises(UsageError, match="max_steps"):
        make_plan(Recipe(), None, epochs=3)
    plan = make_plan(Recipe(), 0, max_steps=30)
    assert (plan.steps, plan.batch_size, plan.steps_per_epoch) == (30, 256, 30)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"epochs": -1},
        {"max_steps": -3},
        {"lr": 0.0},
        {"lr": "fast"},
        {"lr": "nan"},
        {"lr": "inf"},
    ],
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        make_plan(Recipe(), 100, **wrong)


def test_warm_up_and_cosine():
    schedule = make_plan(Recipe(warmup=0.1, final_lr=0.01), 1000, max_steps=100).schedule(
        Recipe(warmup=0.1, final_lr=0.01)
    )
    for i in range(100):
        if i < 10:
            expected = i / 10
        else:
            expected = 0.01 + 0.99 * 0.5 * (1 + cos(pi * (i - 10) / 90))
        assert schedule.shape(i) == pytest.approx(expected)
    assert schedule.shape(10) == 1.0 and schedule.shape(100) == pytest.approx(0.01)


def test_a_line_after_the_warm_up():
    recipe = Recipe(warmup=0.1, final_lr=0.2, schedule="linear")
    schedule = make_plan(recipe, 1000, max_steps=100).schedule(recipe)
    for i in range(10, 101):
        assert schedule.shape(i) == pytest.approx(1 - 0.8 * (i - 10) / 90)
    assert schedule.shape(4) == pytest.approx(4 / 10)


def test_a_climb_may_begin_above_nothing():
    recipe = Recipe(warmup=0.1, warmup_from=0.25)
    schedule = make_plan(recipe, 1000, max_steps=100).schedule(recipe)
    assert [schedule.shape(i) for i in (0, 5, 10)] == [0.25, 0.625, 1.0]


def test_a_climb_may_arrive_with_its_last_step():
    """DINO's cosine_scheduler, line by line: both ends of the climb are steps of it."""
    recipe = Recipe(warmup=0.1, warmup_arrives=True, final_lr=0.01)
    schedule = make_plan(recipe, 1000, max_steps=200).schedule(recipe)
    climb, rest = np.linspace(0.0, 1.0, 20), np.arange(180)
    official = np.concatenate([climb, 0.01 + 0.5 * 0.99 * (1 + np.cos(np.pi * rest / 180))])
    assert [schedule.shape(i) for i in range(200)] == pytest.approx(official.tolist())
    assert make_plan(recipe, 1000, max_steps=10).schedule(recipe).shape(0) == 0.0, "a climb of one step"


def test_steps_take_a_tenth_each():
    recipe = Recipe(schedule="steps", warmup=0.0, drops=(0.6, 0.8))
    schedule = make_plan(recipe, 1000, max_steps=20).schedule(recipe)
    found = [schedule.shape(i) for i in range(20)]
    assert found == pytest.approx([1.0] * 12 + [0.1] * 4 + [0.01] * 4)


def test_constant_rates_and_decay_that_grows():
    recipe = Recipe(schedule="constant", warmup=0.0, weight_decay=0.04, weight_decay_end=0.4)
    schedule = make_plan(recipe, 1000, max_steps=50).schedule(recipe)
    assert {schedule.shape(i) for i in range(50)} == {1.0}
    assert schedule.weight_decay(0) == pytest.approx(0.04)
    assert schedule.weight_decay(25) == pytest.approx(0.22)
    assert schedule.weight_decay(50) == pytest.approx(0.4)


def test_one_step_is_a_run():
    for warmup in (0.0, 0.1):
        recipe = Recipe(warmup=warmup)
        assert make_plan(recipe, 100, max_steps=1).schedule(recipe).shape(0) > 0


def test_stages_share_the_run():
    plan = make_plan(Recipe(), 1000, max_steps=10)
    recipe = Recipe(warmup=0.0)
    stages = tuple(Stage(name, share, recipe) for name, share in (("a", 1), ("b", 1), ("c", 1)))
    assert plan.bounds(stages) == [(0, 3), (3, 7), (7, 10)]
    second = plan.schedule(recipe, 3, 7)
    assert [second.shape(3), second.shape(7)] == [1.0, pytest.approx(0.0)]


def test_a_plan_is_plain_data():
    found = make_plan(Recipe(groups=(("head", 0.1),)), 1000).describe()
    assert json.loads(json.dumps(found)) == found
