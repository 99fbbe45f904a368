"""Runs that end before their time, and go on as if they had not."""

import os
import signal
from itertools import islice

import pytest
import torch
from safetensors.torch import load_file

import toys
from pretask.data.loader import batches
from pretask.errors import PretaskError, UsageError
from pretask.training import checkpoint
from pretask.training.checkpoint import load_task_state
from pretask.training.loop import Diverged
from toys import BATCH, Crash, altered, assert_same, crash_at, kept, rows, train, without_times


@pytest.mark.parametrize("kind", toys.KINDS)
@pytest.mark.parametrize("crash", [4, 8])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, kind, crash):
    """Killed inside an epoch; checkpoints every 3 steps, so that steps are done again and rows written again.
    Stages end at 3 and 9: the first crash is resumed from a boundary, the second from within."""
    train(toys.make(kind, dropout=0.3), tmp_path / "whole", checkpoint_every=3)
    with pytest.raises(Crash):
        train(crash_at(toys.make(kind, dropout=0.3), crash), tmp_path / "cut", checkpoint_every=3)
    place, _ = checkpoint.read(tmp_path / "cut")
    assert place.step == crash - crash % 3 - 0
    resumed = train(toys.make(kind, seed=1, dropout=0.3), tmp_path / "cut", resume=True, checkpoint_every=3)
    assert_same(tmp_path / "whole", tmp_path / "cut")
    assert torch.equal(
        resumed.encoder.model[1].weight, kept(tmp_path / "whole")["task/encoder.model.1.weight"]
    )


def test_rows_that_span_a_checkpoint_are_the_same(tmp_path):
    train(toys.make("counting"), tmp_path / "whole", 400)
    with pytest.raises(Crash):
        train(crash_at(toys.make("counting"), 205), tmp_path / "cut", 400, checkpoint_every=101)
    place, _ = checkpoint.read(tmp_path / "cut")
    assert place.step == 202 and not place.pending
    with pytest.raises(Crash):
        train(crash_at(toys.make("counting"), 305), tmp_path / "cut", 400, checkpoint_every=101, resume=True)
    place, _ = checkpoint.read(tmp_path / "cut")
    assert place.step == 303 and len(place.pending) == 1
    train(toys.make("counting"), tmp_path / "cut", 400, resume=True)
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_a_torn_row_is_mended(tmp_path):
    train(toys.make(), tmp_path / "whole")
    with pytest.raises(Crash):
        train(crash_at(toys.make(), 8), tmp_path / "cut", checkpoint_every=3)
    with (tmp_path / "cut" / "metrics.csv").open("a") as file:
        file.write("9,1.8,0.3")
    train(toys.make(), tmp_path / "cut", resume=True)
    assert without_times(tmp_path / "whole") == without_times(tmp_path / "cut")


def test_resuming_a_finished_run_only_loads_it(tmp_path):
    train(toys.make(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = train(crash_at(toys.make(seed=1), 0), tmp_path, resume=True)
    changed = [path.name for path, content in before.items() if path.read_bytes() != content]
    assert set(changed) <= {"environment.json"}
    assert torch.equal(other.head.weight, kept(tmp_path)["task/head.weight"])


def test_starting_anew_forgets_the_old_run(tmp_path):
    train(toys.make(), tmp_path, seed=3)
    with pytest.raises(Crash):
        train(crash_at(toys.make(), 2), tmp_path)
    assert checkpoint.read(tmp_path) is None and len(rows(tmp_path)) == 2
    assert not (tmp_path / "encoder.safetensors").exists()


def test_another_run_is_not_continued(tmp_path):
    train(toys.make(), tmp_path)
    with pytest.raises(UsageError, match="seed 0, not 1"):
        train(toys.make(), tmp_path, resume=True, seed=1)
    with pytest.raises(UsageError, match="task Toy, not Contrast"):
        train(toys.make("contrast"), tmp_path, resume=True)


def test_a_damaged_checkpoint_is_named(tmp_path):
    train(toys.make(), tmp_path)
    path = tmp_path / checkpoint.FILE
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(PretaskError, match="last.safetensors cannot be read"):
        train(toys.make(), tmp_path, resume=True)


def test_the_whole_task_comes_back_without_the_data(tmp_path):
    for kind in ("toy", "staged"):
        task, again = train(toys.make(kind), tmp_path / kind), toys.make(kind, seed=1)
        load_task_state(again, tmp_path / kind)
        for name, tensor in task.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), name
    with pytest.raises(PretaskError, match="nothing was trained"):
        load_task_state(toys.make(), tmp_path)


def test_one_tensor_under_two_names_is_stored_once(tmp_path):
    task = toys.make()
    task.again = task.head
    train(task, tmp_path)
    assert "task/again.weight" not in kept(tmp_path)
    other = toys.make(seed=1)
    other.again = other.head
    load_task_state(other, tmp_path)
    assert torch.equal(other.again.weight, task.head.weight)


@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_ends_the_step_and_saves(tmp_path, number, ends):
    told = []

    def call(task, losses, step):
        if step.index == 5:
            os.kill(os.getpid(), number)
        return losses

    task = altered(toys.make(), call)
    before = signal.getsignal(number)
    with pytest.raises(ends) as caught:
        train(task, tmp_path / "cut", note=told.append)
    assert signal.getsignal(number) is before
    if ends is SystemExit:
        assert caught.value.code == 143
    place, _ = checkpoint.read(tmp_path / "cut")
    assert place.step == 6 and "stopped after step 6" in told[-1] and "--resume" in told[-1]
    train(toys.make(), tmp_path / "cut", resume=True)
    train(toys.make(), tmp_path / "whole")
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    """With rows of several steps: the step is named all the same, its batch is kept, no bad weights are."""

    def sicken(task, losses, step):
        return losses if step.index != 152 else {**losses, "sick": losses["distance"] * float("nan")}

    with pytest.raises(Diverged, match="'sick' was no number at step 153") as caught:
        train(altered(toys.make("counting"), sicken), tmp_path, 400, checkpoint_every=50)
    name = "broken-batch-step-153.safetensors"
    assert name in str(caught.value)
    batch = next(islice(batches(toys.digits(), BATCH, seed=0, stop=400), 152, None))
    assert torch.equal(load_file(tmp_path / name)["image"], batch["image"])
    place, tensors = checkpoint.read(tmp_path)
    assert place.step == 150 and all(tensor.isfinite().all() for tensor in tensors.values())
    last = rows(tmp_path)[-1]
    assert last["step"] == "153" and last["loss/total"] == "nan"
    assert not (tmp_path / "encoder.safetensors").exists()
    train(toys.make("counting"), tmp_path, 400, resume=True)
    assert rows(tmp_path)[-1]["step"] == "400"
