"""Registering is testing: what every method must do, asked of every row of the catalogue."""

import copy
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny
from pretask import catalog, config
from pretask.catalog import Row
from pretask.errors import PretaskError, UsageError
from pretask.evaluation.features import extract
from pretask.evaluation.knn import knn
from pretask.registry import build_task
from pretask.task import Losses, PretextTask, Step

COUNT = 8

UNUSED: dict[str, tuple[str, ...]] = {
    "selfpatch": ("encoder.model.norm",),
    "hiera": ("encoder.model.head.norm",),
    "hiera-video": ("encoder.model.head.norm",),
}
"""By slug: beginnings of the names of trainable parameters that get no gradient, and rightly so."""

BEHIND_ZERO: dict[str, tuple[str, ...]] = {"lens": ("lens.edit.down", "lens.edit.up")}
"""By slug: beginnings of names in the encoder of parameters in front of a layer that starts at zero, so that
their gradient is zero in the very first step."""

WITHOUT_DRAWS = {
    "predict-part": "pictures are looked at whole, and the same part of each is hidden",
    "refined-part": "pictures are looked at whole, and the same part of each is hidden",
    "ssdl": "the same pictures have the same codes",
}
"""By slug: why a method draws nothing at random."""

every_row = pytest.mark.parametrize("row", catalog.TASKS, ids=lambda row: row.slug)
every_kind = pytest.mark.parametrize(
    ("row", "kind"),
    [pytest.param(row, kind, id=f"{row.slug}-{kind}") for row in catalog.TASKS for kind in tiny.kinds(row)],
)


def some(row: Row, count: int = COUNT, **shape) -> dict:
    return tiny.BATCHES[row.modality](count, **shape)


def scalars(losses: Losses) -> dict[str, float]:
    return {name: value.item() for name, value in losses.items()}


def backward(total: Tensor) -> None:
    """Gradients, if there are any: a task may learn in `after_step` alone."""
    if total.requires_grad:
        total.backward()


def optimiser_of(task: PretextTask, kind: type[torch.optim.Optimizer], lr: float) -> torch.optim.Optimizer:
    """Over all that requires a gradient; over nothing where nothing does."""
    trained = [p for p in task.parameters() if p.requires_grad]
    return kind(trained or [torch.zeros(0, requires_grad=True)], lr=lr)


def loss_of(task: PretextTask, batch: dict, seed: int = 0) -> dict[str, float]:
    """The losses of an untouched copy: a task may note what it saw."""
    return scalars(copy.deepcopy(task).loss(batch, Step.at(0, 10, 5, seed)))


def learn(
    task: PretextTask, batches: list[dict], steps: int, lr: float = 1e-3, start: int = 0
) -> list[float]:
    """Plain gradient descent through every hook of the contract; the total losses."""
    optimiser = optimiser_of(task, torch.optim.SGD, lr)
    totals = []
    for index in range(start, start + steps):
        step = Step.at(index, 100, 10)
        total = task.total(task.loss(batches[index % len(batches)], step))
        optimiser.zero_grad()
        backward(total)
        task.after_backward(step)
        optimiser.step()
        task.after_step(step)
        totals.append(total.item())
    return totals


def state_of(task: PretextTask) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in task.state_dict().items()}


def test_every_modality_has_tiny_data():
    assert {row.modality for row in catalog.TASKS} <= set(tiny.BATCHES), "add a batch maker to tests/tiny.py"


@every_kind
def test_gradients_reach_what_learns_and_nothing_else(row, kind):
    task = tiny.task(row, kind)
    losses = task.loss(some(row), Step.at())
    assert losses and all(value.ndim == 0 and value.isfinite() for value in losses.values())
    assert set(task.weights) <= set(losses)
    total = task.total(losses)
    assert total.requires_grad == any(parameter.requires_grad for parameter in task.parameters())
    backward(total)
    unused = UNUSED.get(row.slug, ())
    for name, parameter in task.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, f"{name} is frozen and has a gradient"
        elif not name.startswith(unused):
            assert parameter.grad is not None, f"{name} is trained and has no gradient"
            assert parameter.grad.isfinite().all(), name
    behind = BEHIND_ZERO.get(row.slug, ())
    own = [
        p for name, p in task.encoder.named_parameters() if p.requires_grad and not name.startswith(behind)
    ]
    assert not own or len([p for p in own if p.grad is not None and p.grad.any()]) > 0.8 * len(own)


@pytest.mark.parametrize("row", [row for row in catalog.TASKS if not row.labels], ids=lambda row: row.slug)
def test_labels_are_never_read(row):
    task, batch = tiny.task(row), some(row)
    expected = loss_of(task, batch)
    assert loss_of(task, {**batch, "label": batch["label"].flip(0)}) == expected
    assert loss_of(task, {key: value for key, value in batch.items() if key != "label"}) == expected


@every_row
def test_the_step_is_the_only_randomness(row):
    """The same step gives the same losses whatever the global seeds; another seed gives others."""
    task, batch, found = tiny.task(row), some(row), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        found.append(loss_of(task, batch))
        after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        assert torch.equal(before[0], after[0]) and before[1:] == after[1:], "global randomness was used"
    assert found[0] == found[1]
    if row.slug not in WITHOUT_DRAWS:
        assert loss_of(task, batch, seed=1) != found[0]


@every_row
@pytest.mark.parametrize("chans", [1, 5])
def test_channels(row, chans):
    if row.modality != "image":
        pytest.skip("no pictures")
    try:
        task = tiny.task(row, chans=chans)
    except UsageError as error:
        assert "RGB" in str(error) or "channels" in str(error)
        return
    losses = task.loss(some(row, chans=chans), Step.at())
    backward(task.total(losses))
    assert all(value.isfinite() for value in losses.values())


@every_kind
def test_odd_sizes(row, kind):
    if row.modality != "image":
        pytest.skip("no pictures")
    task = tiny.task(row, kind, side=35)
    for canvas in (35, 53):  # the data's side need not be the encoder's
        losses = task.loss(some(row, side=canvas), Step.at())
        assert all(value.isfinite() for value in losses.values())


@every_row
def test_pictures_may_be_bytes_or_floats(row):
    if row.modality != "image":
        pytest.skip("no pictures")
    task, batch = tiny.task(row), some(row)
    expected = loss_of(task, batch)
    found = loss_of(task, {**batch, "image": batch["image"] / 255})
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)  # a mean of cosines may be near 0
    without = {key: value for key, value in batch.items() if key != "size"}
    assert all(np.isfinite(value) for value in loss_of(task, without).values())


@every_row
def test_bfloat16(row):
    task, batch = tiny.task(row), some(row)
    expected = loss_of(task, batch)
    with torch.autocast("cpu", torch.bfloat16):
        losses = task.loss(batch, Step.at(0, 10, 5))
    backward(task.total(losses))
    assert scalars(losses) == pytest.approx(expected, rel=0.05, abs=0.02)
    # on a CPU torch leaves the gradient of taps of a convolution that only ever meet padding uninitialised
    plain = [p for p in task.parameters() if p.grad is not None and p.ndim < 4]
    assert all(p.grad.isfinite().all() for p in plain)


@every_row
def test_state_round_trip(row, tmp_path):
    task = tiny.task(row)
    learn(task, [some(row)], 1)
    save_file(state_of(task), tmp_path / "task.safetensors")
    other = tiny.task(row, seed=1)
    assert loss_of(other, some(row)) != loss_of(task, some(row))
    other.load_state_dict(load_file(tmp_path / "task.safetensors"))
    assert loss_of(other, some(row)) == loss_of(task, some(row))


@every_row
def test_a_resumed_run_is_the_uninterrupted_one(row):
    """Losses, weights and everything a task remembers, bit for bit."""
    batches = [some(row, start=0), some(row, start=8)]
    task = tiny.task(row)
    learn(task, batches, 2)
    kept = state_of(task)
    uninterrupted = learn(task, batches, 2, start=2)
    resumed = tiny.task(row, seed=1)
    resumed.load_state_dict(kept)
    assert learn(resumed, batches, 2, start=2) == uninterrupted
    ends = state_of(task), state_of(resumed)
    assert ends[0].keys() == ends[1].keys()
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []


@every_row
def test_looking_changes_nothing(row):
    """Preview and validation leave the task as it was; the sheet can be drawn."""
    task, batch = tiny.task(row).eval(), some(row)
    before = state_of(task)
    with torch.no_grad():
        task.loss(batch, Step.at())
        sheet = task.preview(batch, Step.at())
    after = state_of(task)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert sheet.title and sheet.note and sheet.rows
    panels = [panel for panels in sheet.rows for panel in panels]
    assert {panel.role for panel in panels} - {"answer"}, "without a network there is nothing to see"
    for panel in panels:
        assert panel.caption
        if panel.kind == "image":
            assert panel.content.ndim == 3 and panel.content.isfinite().all()
            assert panel.content.min() >= 0 and panel.content.max() <= 1, panel.caption


@every_row
def test_question(row):
    """What `shortcuts` asks: one source an item, an answer an item, pictures in [0, 1]."""
    question = tiny.task(row).question(some(row), Step.at())
    if question is None:
        pytest.skip("this task has no answer that could be known without a network")
    assert len(question.shown) == len(question.source)
    assert set(question.source.tolist()) == set(range(COUNT))
    if row.modality == "image":
        assert question.shown.min() >= 0 and question.shown.max() <= 1
    if question.answer is None:
        assert question.source.bincount().min() > 1, "nothing to match"
    else:
        assert len(question.answer) == len(question.shown)


@every_row
def test_bad_input_is_explained(row):
    task, key = tiny.task(row), tiny.KEYS[row.modality]
    batch = some(row)
    bad = [
        {name: value for name, value in batch.items() if name != key},
        {**batch, key: tiny.spoilt(batch[key])},
    ]
    if row.modality == "image":
        bad += [some(row, chans=5), some(row, chans=1)]
    for wrong in bad:
        with pytest.raises(PretaskError) as caught:
            task.loss(wrong, Step.at())
        assert "\n" not in str(caught.value) and len(str(caught.value)) > 20


@every_row
def test_chance(row):
    """Where it is stated an untrained network is near it: what it says at random costs something on top."""
    task = tiny.task(row)
    losses, chance = loss_of(task, some(row, 16)), task.chance(16)
    assert set(chance) <= set(losses)
    for name, expected in chance.items():
        assert 0.6 * expected < losses[name] < 2.5 * expected, f"{name}: {losses[name]} at first"


@every_row
def test_it_learns(row):
    """On the same real data and draws, seen again and again, the loss falls; teachers stand still, but where
    `after_step` is all the learning there is."""
    task, batch = tiny.task(row), some(row, 16)
    optimiser = optimiser_of(task, torch.optim.Adam, 2e-3)
    totals = []
    for index in range(24):
        step = Step.at(index % 2, 100, 10)
        total = task.total(task.loss(batch, step))
        optimiser.zero_grad()
        backward(total)
        optimiser.step()
        if not total.requires_grad:
            task.after_step(step)
        totals.append(total.item())
    first, last = np.mean(totals[:2]), np.mean(totals[-2:])
    assert last < 0.97 * first, totals


class Holder:
    """As much of a data set as evaluation asks for."""

    connected = False

    def __init__(self, batch: dict, modality: str):
        self.samples, self.modality, self.labels = batch, modality, batch["label"]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor) -> dict:
        return tiny.take(self.samples, rows)


@every_row
def test_permuted_labels_give_chance(row):
    """Neither training nor the judge smuggles labels in: with permuted ones nothing is known."""
    task = tiny.task(row)
    learn(task, [some(row)], 1)
    found = []
    for start in (0, 200):
        features, labels = extract(task.encoder, Holder(some(row, 200, start=start), row.modality))
        shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(start))
        found.append((features, labels[shuffled]))
    score = knn(*found)[0]
    assert features.shape == (200, task.encoder.dim)
    chance = score.detail["chance"]
    assert score.value < chance + 4 * (chance * (1 - chance) / 200) ** 0.5, "4 standard errors above chance"


@every_row
def test_every_default_is_accepted(row):
    defaults = {option.name: option.default for option in config.options(row.slug)}
    as_text = {name: str(value) for name, value in defaults.items()}
    assert config.check(row.slug, as_text) == defaults, "the command line can say what the signature says"
    own = tiny.own_encoder(row)
    task = build_task(row.slug, own() if own else tiny.encoder(tiny.kinds(row)[0]), defaults)
    assert isinstance(task, PretextTask) and [o.name for o in config.options(row.slug) if not o.help] == []
