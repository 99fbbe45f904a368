"""Runs that are killed from outside, and runs of several processes."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

import toys
from pretask.recipe import Recipe
from pretask.task import PretextTask
from pretask.training import checkpoint, devices
from toys import assert_same, kept, rows, train

KINDS = ("toy", "normed", "contrast", "duel", "staged", "counting")
WORLD = 2

mp.set_forkserver_preload(["pretask.training.loop", "pretask.data"])  # importing takes longer than running


def make(name: str) -> PretextTask:
    """A toy; `normed` has batch normalisation, and an optimiser that leaves noise small: the bias before it
    has no other gradient."""
    if name != "normed":
        return toys.make(name)
    task = toys.make(norm=True)
    task.recipe = Recipe("sgd", lr=0.01, lr_batch=0)
    return task


def kill_in_step(folder: str) -> None:
    """Trains until a step never ends, and says so."""
    task = toys.make()
    hook = task.after_step

    def after_step(step):
        if step.index == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        hook(step)

    task.after_step = after_step
    train(task, Path(folder), checkpoint_every=3)


def kill_while_saving(folder: str) -> None:
    """Dies when the second checkpoint is written and not yet in its place."""
    replace, seen = os.replace, []

    def deadly(source, target):
        if Path(target).name == checkpoint.FILE.name:
            seen.append(target)
            if len(seen) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = deadly
    train(toys.make(), Path(folder), checkpoint_every=4)


def test_kill_9_costs_nothing_but_time(tmp_path):
    """The rest of a killed run, in another process, is bit for bit what it would have been."""
    train(toys.make(), tmp_path / "whole")
    context = mp.get_context("forkserver")
    runs = {work: context.Process(target=work, args=(str(tmp_path / work.__name__),))
            for work in (kill_in_step, kill_while_saving)}  # fmt: skip
    for run in runs.values():
        run.start()
    for work, run in runs.items():
        run.join(120)
        assert run.exitcode == -signal.SIGKILL
        folder = tmp_path / work.__name__
        place, _ = checkpoint.read(folder)
        assert place.step == {"kill_in_step": 6, "kill_while_saving": 4}[work.__name__]
        train(toys.make(seed=1), folder, resume=True)
        assert_same(tmp_path / "whole", folder)


def several(rank: int, port: int, folder: str) -> None:
    """What torchrun would start: one of two processes, for all kinds of tasks one after the other."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(WORLD),
        "LOCAL_WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    for name in KINDS:
        train(make(name), Path(folder, name))
    train(toys.make(), Path(folder, "parts"), accumulate=3)
    train(toys.make(), Path(folder, "shared out"), strategy="fsdp")
    train(toys.make(), Path(folder, "shared out again"), strategy="fsdp", checkpoint_every=5, steps=5)
    train(toys.make(seed=1), Path(folder, "shared out again"), strategy="fsdp", resume=True)
    try:  # one process alone is asked to stop: both must
        task = toys.make("contrast")
        hook = task.after_step

        def after_step(step):
            if step.index == 5 and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            hook(step)

        task.after_step = after_step
        train(task, Path(folder, "stopped"))
        sys.exit(3)
    except SystemExit as ended:
        if ended.code != 143:
            raise
    train(toys.make("contrast"), Path(folder, "stopped"), resume=True)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """The folder with what two processes did."""
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    mp.start_processes(several, (port, str(folder)), nprocs=WORLD, start_method="forkserver")
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_two_processes_are_one(name, pair, tmp_path):
    """Twelve steps of two processes with half of each batch, against one with the whole."""
    train(make(name), tmp_path)
    alone, joined = kept(tmp_path), kept(pair / name)
    assert alone.keys() == joined.keys()
    for key, tensor in alone.items():
        if "exp_avg_sq" not in key:
            torch.testing.assert_close(joined[key], tensor, rtol=2e-2, atol=1e-4, msg=key)
    for a, b in zip(rows(tmp_path), rows(pair / name), strict=True):
        assert float(b["loss/total"]) == pytest.approx(float(a["loss/total"]), rel=1e-2, abs=1e-5)


def test_parts_of_shares_are_the_whole_batch(pair, tmp_path):
    train(toys.make(), tmp_path)
    for key, tensor in kept(tmp_path).items():
        if "exp_avg_sq" not in key:
            torch.testing.assert_close(kept(pair / "parts")[key], tensor, rtol=2e-2, atol=1e-4, msg=key)


def test_shared_out_parameters_are_the_whole_ones(pair, tmp_path):
    """FSDP against one process, and against itself after a checkpoint."""
    train(toys.make(), tmp_path)
    for key, tensor in kept(tmp_path).items():
        torch.testing.assert_close(kept(pair / "shared out")[key], tensor, rtol=2e-2, atol=1e-4, msg=key)
    assert kept(pair / "shared out again")["optimiser/main/head.weight/step"] == 12
    encoder = load_file(pair / "shared out" / "encoder.safetensors")
    assert torch.equal(encoder["1.weight"], kept(pair / "shared out")["task/encoder.model.1.weight"])


def test_all_processes_stop_when_one_is_told_to(pair):
    assert_same(pair / "contrast", pair / "stopped")
    assert checkpoint.read(pair / "stopped")[0].step == 12


def test_torchrun_says_how_many_processes_there_are(monkeypatch):
    found = {}
    monkeypatch.setattr(devices, "Fabric", lambda **settings: found.update(settings))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_WORLD_SIZE", "4"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    devices.make_fabric("auto", 1, 1, "auto")
    assert (found["devices"], found["num_nodes"]) == (4, 2)
