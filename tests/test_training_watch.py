"""What a run says of itself: warnings of collapse with their cause, its log, its progress, its machine."""

import csv
from math import log
from pathlib import Path

import pytest
import torch
from torch import nn

import toys
from pretask.data import Dataset
from pretask.data.dataset import Skipped
from pretask.objectives.spectrum import collapse_std, rankme
from pretask.training.environment import revision, write_skipped
from pretask.training.feed import feed
from pretask.training.flops import counted, peak
from pretask.training.log import Log
from pretask.training.progress import Display
from pretask.training.watch import Watch, looking, named, spread_over
from toys import BATCH, altered, train

CHANCE = log(64)


def watch(total: int = 100) -> Watch:
    return Watch(toys.digits(), toys.make().encoder, BATCH, total)


def run_of(losses: list[float], rank: float = 8.0, spread: float = 0.1) -> list[dict[str, float]]:
    """Rows at every tenth step of a hundred; the features are looked at in the last."""
    found = [
        {"step": 10 * (i + 1), "loss/total": value, "loss/cls": value, "chance/cls": CHANCE}
        for i, value in enumerate(losses)
    ]
    found[-1] |= {"watch/rankme": rank, "watch/feature_std": spread}
    return found


FALLING = [4.0, 3.5, 3.0, 2.5, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5]
RESTING = [4.3, 4.2, 4.17, 4.16, 4.16, 4.16, 4.16, 4.16, 4.16, 4.159]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (run_of(FALLING), None),
        (run_of(RESTING, rank=1.01, spread=1e-5), ("collapsed", "rests at 4.159 (ln 64)", "teacher")),
        (run_of(FALLING, rank=1.2), ("collapsed", "falls all the same", "negatives")),
        (run_of([4.0] * 10, spread=1e-5), ("collapsed", "learning rate or the weight decay")),
        (run_of(RESTING), ("'cls' rests at 4.159 (ln 64)", "only guesses", "contact sheets")),
        (run_of(RESTING[:2]), None),  # too early to say
        (run_of([3.0], rank=1.0)[:1], ("collapsed",)),
    ],
)
def test_what_goes_wrong_is_said_with_its_cause(rows, words):
    told = watch().judge(rows)
    assert len(told) == (words is not None)
    for word in words or ():
        assert word in told[0]


def test_a_complaint_is_made_once():
    one = watch()
    assert one.judge(run_of(RESTING)) and not one.judge(run_of(RESTING))
    assert one.judge(run_of(RESTING, rank=1.0))


def test_an_untrained_network_is_not_accused():
    assert not watch(total=1000).judge(run_of([4.0], rank=1.0))


@pytest.mark.parametrize("kind", ["collapsed", "healthy"])
def test_a_run_that_collapses_says_so(tmp_path, kind):
    told: list[str] = []

    def crush(task, losses, step):
        if kind == "collapsed":
            for parameter in task.encoder.parameters():
                parameter.data.zero_()
        return losses

    train(altered(toys.make(), crush), tmp_path, 20, note=told.append)
    assert any("features collapsed" in line for line in told) == (kind == "collapsed")


def test_features_are_those_of_the_encoder_in_evaluation():
    task = toys.make(dropout=0.9, norm=True).train()
    watched = Watch(toys.digits(), task.encoder, BATCH, 10)
    found = watched.look(torch.device("cpu"))
    assert task.encoder.training, "and it is left as it was"
    with torch.no_grad():
        x = task.encoder.eval()(toys.digits().batch(range(60))["image"]).pooled
    assert found["watch/rankme"] == pytest.approx(rankme(x))
    assert found["watch/feature_std"] == pytest.approx(collapse_std(x))


def test_looking_costs_little():
    for steps, batch in ((10, 8), (100, 64), (3000, 256)):
        watched = Watch(toys.digits(), toys.make().encoder, batch, steps)
        assert steps in watched.steps and len(watched.steps) <= 20
        if len(watched.steps) > 1:
            assert len(watched.steps) * 60 <= 0.02 * 3 * batch * steps


def test_spread_over():
    assert spread_over(100, 4) == {25, 50, 75, 100}
    assert spread_over(3, 8) == {0, 1, 2, 3} and spread_over(1, 1) == {1}


def test_looking_puts_modes_and_randomness_back():
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3).eval())
    state = torch.get_rng_state()
    with looking(net):
        assert not net[0].training and not torch.is_grad_enabled()
        torch.rand(2)
    assert net.training and net[0].training and not net[1].training
    assert torch.equal(torch.get_rng_state(), state)


def test_chance_levels_have_names():
    assert named(log(4)) == "1.386 (ln 4)" and named(log(65536)) == "11.09 (ln 65536)"
    assert named(0.9948) == "0.9948" and named(20.0) == "20"


# -- the log


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_columns_may_come_later(tmp_path):
    log_ = Log(tmp_path, 0)
    log_.row({"step": 1, "a": 0.1})
    log_.row({"step": 2, "a": 0.2, "b": 7.0})
    log_.row({"step": 3, "b": 8.0})
    assert read(tmp_path) == [
        {"step": "1", "a": "0.1", "b": ""}, {"step": "2", "a": "0.2", "b": "7.0"},
        {"step": "3", "a": "", "b": "8.0"},
    ]  # fmt: skip


def test_rows_after_the_checkpoint_are_forgotten(tmp_path):
    log_ = Log(tmp_path, 0)
    for step in range(1, 6):
        log_.row({"step": step, "a": step / 10})
    log_ = Log(tmp_path, 3)
    assert [row["step"] for row in read(tmp_path)] == ["1", "2", "3"]
    log_.row({"step": 4, "a": 0.5})
    assert read(tmp_path)[-1] == {"step": "4", "a": "0.5"}
    assert Log(tmp_path, 0) and (tmp_path / "metrics.csv").read_text() == ""


def test_progress_in_words(capsys, monkeypatch):
    monkeypatch.setattr("pretask.training.progress.LINES", 0.0)
    display = Display(100, 40, show=True)
    display.row({"loss/total": 1.2345, "lr": 1e-3, "samples_per_second": 1234.5, "seconds/data": 3.0,
                 "seconds/compute": 1.0})  # fmt: skip
    display.step(50)
    display.close()
    line = capsys.readouterr().err
    assert "step 50 of 100" in line and "loss 1.234" in line and "1,234 samples/s" in line
    assert "waits 75% for data" in line and "left" in line
    Display(100, 0, show=False).step(1)
    assert capsys.readouterr().err == ""


# -- the machine


def test_operations_are_counted():
    a, b = torch.ones(3, 5), torch.ones(5, 7, requires_grad=True)
    assert counted(lambda: (a @ b).sum().backward()) == 2 * (2 * 3 * 5 * 7)
    assert 1e8 < peak(torch.device("cpu"), torch.float32) < 1e15


def test_files_that_break_in_a_run_are_listed(tmp_path):
    data: Dataset = toys.digits().subset(range(3))
    data.skipped = [Skipped("a, b.jpg", "truncated")]
    write_skipped(tmp_path, data)
    with (tmp_path / "skipped.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"path": "a, b.jpg", "reason": "truncated"}]


def test_revision_is_a_commit_or_nothing():
    found = revision()
    assert found is None or len(found.rstrip("+")) == 40


def test_the_feed_hands_on_what_is_not_a_tensor():
    class Graph:
        def to(self, device):
            return f"on {device}"

    batch = next(feed(iter([{"graph": Graph(), "name": ["a"], "x": torch.ones(2)}]), torch.device("cpu")))
    assert batch["graph"] == "on cpu" and batch["name"] == ["a"] and torch.equal(batch["x"], torch.ones(2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_fault_while_reading_ahead_is_raised():
    def broken():
        yield {"x": torch.ones(2)}
        raise ValueError("disk on fire")

    arriving = feed(broken(), torch.device("cuda", 0))
    assert next(arriving)["x"].is_cuda
    with pytest.raises(ValueError, match="disk on fire"):
        next(arriving)
