"""The loop on a GPU: the same bits after a resume in every precision, and next to no time of its own."""

import time

import pytest
import torch

import toys
from pretask.data import Dataset
from pretask.data.dataset import Memory
from pretask.data.loader import batches
from pretask.encoders import build_encoder
from pretask.registry import build_task
from pretask.task import PretextTask, Step
from pretask.training.feed import feed
from pretask.training.learners import make_learners
from pretask.training.loop import fit
from pretask.training.plan import make_plan
from toys import Crash, assert_same, crash_at, rows, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def pictures(count: int, side: int) -> Dataset:
    noise = torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0))
    return Dataset(Memory({"image": noise.byte()}), "noise", 3, side)


def task_of(slug: str, encoder: str, side: int) -> PretextTask:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_task(slug, build_encoder(encoder, image_size=side, seed=0))


@pytest.mark.parametrize("kind", toys.KINDS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_toys_are_resumed_bit_for_bit(tmp_path, kind, precision):
    train(toys.make(kind, dropout=0.3), tmp_path / "whole", precision=precision)
    with pytest.raises(Crash):
        cut = crash_at(toys.make(kind, dropout=0.3), 8)
        train(cut, tmp_path / "cut", precision=precision, checkpoint_every=3)
    again = toys.make(kind, seed=1, dropout=0.3)
    resumed = train(again, tmp_path / "cut", precision=precision, resume=True)
    assert_same(tmp_path / "whole", tmp_path / "cut")
    assert next(resumed.parameters()).device.type == "cpu", "the task comes home"


@pytest.mark.parametrize(
    ("slug", "encoder"), [("simclr", "resnet18"), ("mae", "vit_tiny_patch16_224:depth=4")]
)
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_methods_are_resumed_bit_for_bit(tmp_path, slug, encoder, precision):
    data = pictures(512, 64)
    plan = make_plan(task_of(slug, encoder, 64).recipe, 512, batch_size=128, max_steps=8)
    settings = {"precision": precision, "progress": False, "checkpoint_every": 4}
    fit(task_of(slug, encoder, 64), data, plan, tmp_path / "whole", **settings)
    with pytest.raises(Crash):
        fit(crash_at(task_of(slug, encoder, 64), 6), data, plan, tmp_path / "cut", **settings)
    fit(task_of(slug, encoder, 64), data, plan, tmp_path / "cut", resume=True, **settings)
    assert_same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("compiled", [False, True])
def test_the_loop_costs_next_to_nothing(tmp_path, compiled):
    """Against the bare loop with its batches on the GPU beforehand; waiting for data is no part of it."""
    steps, size, data = 60, 256, pictures(512, 224)
    task = task_of("mae", "vit_small_patch16_224", 224).cuda()
    plan = make_plan(task.recipe, 512, batch_size=size, max_steps=steps)
    device, learner = torch.device("cuda", 0), make_learners(task, plan, 0)["main"]
    ready = list(feed(batches(data, size, seed=0, stop=2), device))
    for index in range(steps):
        if index == 10:
            torch.cuda.synchronize()
            start = time.perf_counter()
        step = Step.at(index, steps, 2, 0, device)
        with torch.autocast("cuda", torch.bfloat16):
            losses = task.loss(ready[index % 2], step)
        task.total(losses).backward()
        learner.set_rates(index)
        learner.optimiser.step()
        learner.optimiser.zero_grad()
    torch.cuda.synchronize()
    bare = (time.perf_counter() - start) / (steps - 10)
    fit(task_of("mae", "vit_small_patch16_224", 224), data, plan, tmp_path, progress=False, compile=compiled)
    found = sorted(float(row["seconds/compute"]) for row in rows(tmp_path)[10:])
    assert found[len(found) // 2] < 1.03 * bare
    assert 0.01 < float(rows(tmp_path)[-2]["utilisation"]) < 1
