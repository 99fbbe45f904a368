"""Shortcuts are found where they were planted and not where there are none."""

import numpy as np
import pytest
import torch

import tiny
from pretask import catalog
from pretask.errors import UsageError
from pretask.evaluation import trivial
from pretask.evaluation.shortcuts import Shortcut, shortcuts
from pretask.task import PretextTask, Question, Step


def textures(count, chans=3, side=24, seed=0):
    """Smooth noise: no two alike, and no direction, place or channel preferred."""
    noise = torch.rand(count, chans, side + 4, side + 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 5, stride=1)


class Pictures:
    modality = "image"

    def __init__(self, count=240, **kwargs):
        self.image = textures(count, **kwargs)

    def __len__(self):
        return len(self.image)

    def batch(self, rows):
        return {"image": self.image[rows], "index": rows}


class Asks(PretextTask):
    """Asks what a function of (pictures, generator) says."""

    def __init__(self, ask):
        super().__init__(torch.nn.Identity())
        self.ask = ask

    def question(self, batch, step):
        return self.ask(batch["image"].clone(), step.generator)


def choice(plant):
    """Four classes drawn at random; `plant` leaves a trace of the class in the pictures."""

    def ask(image, generator):
        answer = torch.randint(4, (len(image),), generator=generator)
        return Question(plant(image, answer), torch.arange(len(image)), answer)

    return Asks(ask)


def in_the_border(image, answer):
    image[:, :, 0] *= 1 - 0.2 * answer.view(-1, 1, 1)
    return image


def in_the_colour(image, answer):
    image[:, 0] *= 1 - 0.05 * answer.view(-1, 1, 1)
    return image


def in_the_light(image, answer):
    ramp = torch.linspace(-0.1, 0.1, image.shape[-1]).view(1, -1, 1)
    return torch.stack([x + ramp.rot90(int(k), (1, 2)) for x, k in zip(image, answer, strict=True)])


def in_the_sharpness(image, answer):
    soft = torch.nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    return torch.lerp(image, soft, answer.view(-1, 1, 1, 1) / 3)


def in_the_lens(image, answer):
    """The red channel of a class is magnified: shifted outwards in every corner."""
    side = image.shape[-1]
    red = [
        torch.nn.functional.interpolate(x[None, 1:2], side + 2 * int(k), mode="bilinear", align_corners=False)
        for x, k in zip(image, answer, strict=True)
    ]
    cut = [r[0, 0, int(k) : int(k) + side, int(k) : int(k) + side] for r, k in zip(red, answer, strict=True)]
    return torch.stack([torch.stack(cut), image[:, 1], image[:, 1]], dim=1)


def in_the_grid(image, answer):
    """A faint step at every eighth column, at a place that tells the class."""
    for picture, k in zip(image, answer, strict=True):
        picture[:, :, int(k) :: 8] += 0.05
    return image


def by_name(rows):
    return {row.statistic: row for row in rows}


@pytest.mark.parametrize(
    ("plant", "statistic"),
    [
        (in_the_border, "borders"),
        (in_the_colour, "mean colour"),
        (in_the_light, "light"),
        (in_the_sharpness, "sharpness"),
        (in_the_lens, "aberration"),
        (in_the_grid, "JPEG grid"),
    ],
)
def test_a_planted_shortcut_is_found(plant, statistic):
    found = by_name(shortcuts(choice(plant), Pictures()))[statistic]
    assert found.metric == "accuracy" and found.low > 0.5 and "a shortcut" in found.verdict
    assert found.low <= found.value <= found.high and found.n == 72


def test_nothing_is_found_where_nothing_is():
    rows = shortcuts(choice(lambda image, answer: image), Pictures(600))
    assert [row.statistic for row in rows] == [*trivial.STATISTICS["image"], "all"]
    for row in rows:
        assert 0.1 < row.chance < 0.4
        assert row.value < row.chance + 0.12
        assert "a shortcut" not in row.verdict


def test_matching_is_judged_against_the_batch():
    """Two copies of one picture, the second darker: sharpness and borders still give it away."""

    def ask(image, generator):
        return Question(torch.cat([image, 0.5 * image]), torch.arange(len(image)).repeat(2))

    found = by_name(shortcuts(Asks(ask), Pictures(160)))
    assert found["all"].metric == "retrieval" and found["all"].value > 0.5
    assert found["all"].chance == pytest.approx(1 / 95), "48 test pictures, two of each in one batch"


def test_unrelated_pictures_do_not_match():
    def ask(image, generator):
        other = torch.rand(image.shape, generator=generator)
        return Question(torch.cat([image, other]), torch.arange(len(image)).repeat(2))

    found = by_name(shortcuts(Asks(ask), Pictures(400)))["all"]
    assert found.low <= found.chance and "chance" in found.verdict


def test_numbers_are_explained_or_not():
    def mean(image, generator):
        return Question(image, torch.arange(len(image)), image.mean((2, 3)))

    def noise(image, generator):
        return Question(image, torch.arange(len(image)), torch.randn(len(image), 2, generator=generator))

    found = by_name(shortcuts(Asks(mean), Pictures()))
    assert found["mean colour"].metric == "explained variance" and found["mean colour"].value > 0.95
    assert by_name(shortcuts(Asks(noise), Pictures()))["all"].value < 0.1


def test_same_seed_same_rows():
    first, second, other = (shortcuts(choice(in_the_light), Pictures(), seed) for seed in (0, 0, 1))
    assert first == second != other


def test_items_of_one_picture_count_as_one():
    """Ten copies of the same question are no more evidence than one."""

    def ask(copies):
        def asked(image, generator):
            answer = torch.randint(2, (len(image),), generator=generator)
            image = image + 0.008 * answer.view(-1, 1, 1, 1)
            each = torch.arange(len(image)).repeat_interleave(copies)
            return Question(image[each], each, answer[each])

        return Asks(asked)

    once, often = (by_name(shortcuts(ask(copies), Pictures(120)))["mean colour"] for copies in (1, 10))
    assert often.n == once.n == 36
    assert (often.high - often.low) == pytest.approx(once.high - once.low, rel=0.2)


def test_refusals():
    with pytest.raises(UsageError, match="asks nothing"):
        shortcuts(PretextTask(torch.nn.Identity()), Pictures(40))
    with pytest.raises(UsageError, match="too few"):
        shortcuts(choice(in_the_light), Pictures(6))
    tracks = Pictures(40)
    tracks.modality = "track"
    with pytest.raises(UsageError, match="track"):
        shortcuts(choice(in_the_light), tracks)


@pytest.mark.parametrize("name", trivial.STATISTICS["image"])
@pytest.mark.parametrize(("chans", "side"), [(1, 9), (3, 24), (5, 33)])
def test_statistics_are_finite_and_a_picture_at_a_time(name, chans, side):
    statistic = trivial.STATISTICS["image"][name]
    image = textures(4, chans, side)
    image[0] = 0.5  # nothing in it
    found = statistic(image)
    assert found.ndim == 2 and found.isfinite().all()
    torch.testing.assert_close(found[2:], statistic(image[2:]), atol=1e-5, rtol=1e-4)


def test_jpeg_grid_by_hand():
    image = textures(1, 2, 12)
    steps = np.abs(np.diff(image[0].numpy(), axis=2)).mean((0, 1))  # 11 steps across
    places = [steps[place::8].mean() / (steps.mean() + trivial.EPS) for place in range(8)]
    np.testing.assert_allclose(trivial.jpeg_grid(image)[0, :8], places, rtol=1e-5)


class Real(Pictures):
    def __init__(self, count):
        self.samples = tiny.images(count)
        self.image = self.samples["image"]

    def batch(self, rows):
        return tiny.take(self.samples, rows)


@pytest.mark.parametrize("row", [r for r in catalog.TASKS if r.modality == "image"], ids=lambda row: row.slug)
def test_every_method_can_be_asked(row):
    task = tiny.task(row)
    if task.question(Real(60).batch(range(8)), Step.at()) is None:
        with pytest.raises(UsageError, match="asks nothing"):
            shortcuts(task, Real(60))
        return
    rows = shortcuts(task, Real(60))
    assert rows and all(isinstance(found, Shortcut) for found in rows)
    assert all(np.isfinite([found.value, found.low, found.high, found.chance]).all() for found in rows)
