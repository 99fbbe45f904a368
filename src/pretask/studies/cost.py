"""What a step of an arm costs: pictures that go through the encoder, and memory kept for the way back."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pretask.errors import UsageError
from pretask.pretrain import check_encoder, rows_of
from pretask.studies.bench import Bench
from pretask.studies.claim import Arm
from pretask.task import PretextTask, Step

SAMPLES = 16


class Cost(NamedTuple):
    """Of one sample in one step.

    Args:
        seen: pictures that go through the encoder that learns, crops and patches by their area; what is hidden of a
            picture counts as seen, and what teachers see does not.
        kept: bytes that are kept for the way back, weights left out.
    """

    seen: float
    kept: int


def cost(bench: Bench, arm: Arm) -> Cost:
    """Measure a first step on a few samples; the task is thrown away.

    Raises:
        UsageError: the method cannot learn from these data, or not with this encoder.
    """
    if isinstance(arm.method, str):
        rows, kind = rows_of(arm.method), bench.train.modality
        if rows[0].modality != kind:
            raise UsageError(f"{arm.method} learns from {rows[0].modality} data, and these are {kind} data")
        check_encoder(rows, bench.encoder(arm, 0))  # type: ignore[arg-type]  # a bench's are encoders
    task = bench.task(arm, 0)
    some = bench.train.subset(range(min(SAMPLES, len(bench.train))))
    batch = some.batch(range(len(some)))
    if task.stages:
        task.begin_stage(0)
    if type(task).prepare is not PretextTask.prepare:
        task.prepare([batch], len(some))
    task.train()
    seen, kept, side = 0.0, dict[int, int](), getattr(task.encoder, "image_size", 1)
    own = {p.data_ptr() for p in task.parameters()}

    def count(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal seen
        shown = given[0] if given else next(iter(named.values()))
        if isinstance(shown, Tensor) and shown.ndim == 4:
            seen += len(shown) * shown.shape[-1] * shown.shape[-2] / side**2
        else:  # no pictures: samples are counted
            seen += len(some)

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = max(
                kept.get(tensor.data_ptr(), 0), tensor.numel() * tensor.element_size()
            )
        return tensor

    hook = task.encoder.register_forward_pre_hook(count, with_kwargs=True)
    try:
        with torch.random.fork_rng(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            task.loss(batch, Step.at(total=100))
    finally:
        hook.remove()
    return Cost((seen or len(some)) / len(some), sum(kept.values()) // len(some))


def steps_for(budget: float, seen: float, batch: int) -> int:
    """Steps in which so many pictures are seen."""
    return max(1, round(budget / (seen * batch)))
