"""What a run costs besides its task: the trainer around forward, backward and optimiser, and the loader.

The share of time that is spent outside, measured inside one run: a few per cent could not be told from two
runs on a machine that does other things.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from bench.harness import Row, clock
from bench.pictures import cuts, tensors
from pretask import Step, build_encoder, build_task, open_data
from pretask.data.loader import batches
from pretask.training.feed import feed
from pretask.training.loop import fit
from pretask.training.plan import make_plan

FIRST = 5  # steps that do not count


class Inside:
    """When a task's forward pass, backward pass and optimiser's step began and ended."""

    def __init__(self, task: torch.nn.Module):
        self.spans: list[tuple[str, float, float]] = []
        self.began = 0.0
        self.backward = torch.Tensor.backward
        self.handles = [
            task.register_forward_pre_hook(lambda *_: self.begin()),
            task.register_forward_hook(lambda *_: self.end("forward")),
            register_optimizer_step_pre_hook(lambda *_: self.begin()),
            register_optimizer_step_post_hook(lambda *_: self.end("step")),
        ]

    def begin(self) -> None:
        self.began = clock()

    def end(self, name: str) -> None:
        self.spans.append((name, self.began, clock()))

    def __enter__(self) -> Inside:
        def backward(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            self.begin()
            self.backward(tensor, *args, **kwargs)
            self.end("backward")

        torch.Tensor.backward = backward  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: Any) -> None:
        torch.Tensor.backward = self.backward  # type: ignore[method-assign]
        for handle in self.handles:
            handle.remove()

    def share_outside(self) -> float:
        """Time outside over time inside, from the first step that counts to the last."""
        ends = [number for number, span in enumerate(self.spans) if span[0] == "step"]
        counted = self.spans[ends[FIRST - 1] + 1 : ends[-1] + 1]
        inside = sum(end - begin for _, begin, end in counted)
        return (counted[-1][2] - self.spans[ends[FIRST - 1]][2]) / inside - 1


def trainer(toy: bool) -> Row:
    """A whole run: logging, looks at the features, checkpoints, clipping and all."""
    steps, batch = (8, 4) if toy else (150, 64)
    data = open_data(tensors(cuts(64 if toy else 2048, 32, 32)))
    name = "vit_tiny_patch16_224:depth=1" if toy else "vit_tiny_patch16_224"
    task = build_task("mae", build_encoder(name, image_size=32, seed=0))
    plan = make_plan(task.recipe, len(data), batch_size=batch, max_steps=steps)
    with tempfile.TemporaryDirectory() as folder, Inside(task) as inside:
        fit(task, data, plan, Path(folder), progress=False, note=lambda _: None)
    share = inside.share_outside()
    return Row(
        "a run of MAE (ViT-Ti, 32 px, batch 64) over its forward, backward and optimiser", 1 + share, 1.0,
        "a bare loop", "", 1 + share, 1.03, "x", note="logging, looks at the features and checkpoints included",
    )  # fmt: skip


def loader(toy: bool, side: int) -> Row:
    """Waiting for batches that are decoded once into memory, beside the step that they are for."""
    count, batch, steps = (8, 4, 2) if toy else (512, 64, 6)
    data = open_data(tensors(cuts(count, side, side)), cache="memory")
    task: Any = build_task("mae", build_encoder("vit_tiny_patch16_224", image_size=data.image_size, seed=0))
    waited = computed = 0.0
    last = clock()
    stream = batches(data, batch, seed=0, stop=steps + 1, workers=0)
    for number, given in enumerate(feed(stream, torch.device("cpu"))):
        arrived = clock()
        task.total(task(given, Step.at(number))).backward()
        done = clock()
        if number:
            waited, computed = waited + arrived - last, computed + done - arrived
        last = done
    ratio = 1 + waited / computed
    return Row(
        f"loader, {side} px in memory, MAE ViT-Ti, batch {batch}", ratio, 1.0, "tensors that lie ready", "", ratio,
        1.05, "x",
    )  # fmt: skip


def measure(toy: bool = False) -> list[Row]:
    return [trainer(toy), loader(toy, 32), *([] if toy else [loader(toy, 128)])]
