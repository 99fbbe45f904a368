"""Every method of the catalogue learns in two processes what it learns in one."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny
from pretask import catalog
from pretask.catalog import Row
from pretask.objectives.distributed import sync_batch_norm
from pretask.task import Step

COUNT, WORLD = 8, 2

MAGNIFIED = {
    "visual-jigsaw-grid": 6e-2,
    "jigsaw-grid": 1e-1,
    "relative-location-grid": 1e-1,
    "cpc-grid": 1e-1,
    "inpainting-grid": 1e-1,
    "s-key-own": 2e-2,
    "barlow-twins-patches": 2e-1,
    "vicreg-patches": 2e-1,
}
"""By slug and kind of encoder: tolerance where batch normalisation magnifies rounding still more: of tiny tiles, or
right behind a bias, whose gradient is nothing but rounding."""


def measure(row: Row, kind: str, own: slice) -> dict[str, Tensor]:
    """Losses and gradients, averaged over processes as DDP does, and what the task remembers then."""
    task = sync_batch_norm(tiny.task(row, kind, own=own))
    step = Step.at(3, 100, 10)
    losses = task.loss(tiny.take(tiny.BATCHES[row.modality](WORLD * COUNT), own), step)
    total = task.total(losses)
    if total.requires_grad:  # a task may learn in `after_step` alone
        total.backward()
    found = {f"loss {name}": value.detach().clone() for name, value in losses.items()}
    found |= {f"gradient of {n}": p.grad for n, p in task.named_parameters() if p.grad is not None}
    for value in found.values():
        if dist.is_initialized():
            dist.all_reduce(value)
            value /= WORLD
    task.after_step(step)
    found |= {f"after {name}": value.detach().clone() for name, value in task.named_buffers()}
    return {name: value.contiguous() for name, value in found.items()}


def worker(process: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=process, world_size=WORLD)
    own = slice(process * COUNT, (process + 1) * COUNT)
    for row in catalog.TASKS:
        for kind in tiny.kinds(row):
            save_file(measure(row, kind, own), f"{folder}/{row.slug}-{kind}-{process}.safetensors")
    dist.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    """The mean over processes of losses and gradients is one process's with the joined batch, and so is
    what every process remembers. One test for all methods: starting a pair of processes takes longer
    than all they do."""
    mp.spawn(worker, (str(tmp_path),), nprocs=WORLD)
    threads, wrong = torch.get_num_threads(), []
    torch.set_num_threads(1)  # as the processes do: several threads add in another order
    for row in catalog.TASKS:
        for kind in tiny.kinds(row):
            # batch normalisation divides by spreads of few numbers and so magnifies rounding
            tolerance = 2e-2 if kind == "grid" or row.modality == "points" else 2e-3
            tolerance = MAGNIFIED.get(f"{row.slug}-{kind}", tolerance)
            alone = measure(row, kind, slice(0, WORLD * COUNT))
            for process in range(WORLD):
                joined = load_file(tmp_path / f"{row.slug}-{kind}-{process}.safetensors")
                assert joined.keys() == alone.keys(), row.slug
                for name in (name for name, expected in alone.items() if expected.numel()):
                    scale = max(alone[name].double().abs().max().item(), 1e-3)
                    gap = (joined[name].double() - alone[name].double()).abs().max().item() / scale
                    if not gap <= tolerance:
                        wrong.append(f"{row.slug} with {kind}: {name} is off by a share of {gap:.2g}")
    torch.set_num_threads(threads)
    assert not wrong, "\n".join(wrong)
