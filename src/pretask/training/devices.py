"""Where a run computes: Lightning Fabric, set up so that one process and many do the same."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from pretask.errors import UsageError

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
STRATEGIES = ("auto", "ddp", "fsdp")

NEW_NAME = "forward_sync_buffers"
NO_BROADCAST: dict[str, Any] = {
    NEW_NAME
    if NEW_NAME in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False
}
"""Buffers are not sent around before each forward pass; torch has renamed the argument."""


def make_fabric(precision: str, devices: int, nodes: int, strategy: str) -> Fabric:
    """Fabric for a GPU where there is one, else for the CPU; under torchrun with the processes that it made.

    Args:
        precision: `32-true`, `bf16-mixed` or `16-mixed`; `auto` is the first on a CPU and else the best that
            the GPU has of the others.
        devices: processes a node.
        nodes: how many nodes.
        strategy: `ddp` keeps the whole task in each process, `fsdp` shares parameters and optimisers out.

    Raises:
        UsageError: an unknown precision or strategy, or more GPUs than there are.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision must be one of {', '.join(PRECISIONS)}, not '{precision}'")
    if strategy not in STRATEGIES:
        raise UsageError(f"strategy must be one of {', '.join(STRATEGIES)}, not '{strategy}'")
    cuda = torch.cuda.is_available()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    if precision == "16-mixed" and not cuda:
        raise UsageError("16-mixed needs a GPU: a CPU computes in 32-true or bf16-mixed")
    if cuda and devices > torch.cuda.device_count():
        raise UsageError(f"{devices} devices were asked for and this machine has {torch.cuda.device_count()}")
    if precision == "auto":
        half = (
            "bf16-mixed" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
        )
        precision = half if cuda else "32-true"
    world = devices * nodes
    chosen: str | Strategy = "auto"
    if world > 1 and strategy == "fsdp":
        chosen = ModelParallelStrategy(shard, data_parallel_size=world, tensor_parallel_size=1)
    elif world > 1:
        # buffers are the same everywhere by the contract; parts of a task may stand idle for a step
        chosen = DDPStrategy(find_unused_parameters=True, **NO_BROADCAST)
    return Fabric(
        accelerator="cuda" if cuda else "cpu", devices=devices, num_nodes=nodes, strategy=chosen,
        precision=precision,  # type: ignore[arg-type]  # one of Lightning's own, see above
    )  # fmt: skip


def shard(task: nn.Module, mesh: Any) -> nn.Module:
    """FSDP: the blocks of transformers one by one, the rest together."""
    for module in task.modules():
        blocks = getattr(module, "blocks", None)
        if isinstance(blocks, nn.Sequential | nn.ModuleList) and module is not task:
            for block in blocks:
                if not isinstance(block, FSDPModule):  # encoders show their model's blocks as their own
                    fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(task, mesh=mesh["data_parallel"])
    return task


@contextmanager
def synced(module: nn.Module, sync: bool) -> Iterator[None]:
    """Whether the backward pass of what is computed within averages gradients over processes."""
    if isinstance(module, DistributedDataParallel) and not sync:
        with module.no_sync():
            yield
        return
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(sync)
    yield


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over processes, in one go for each type."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    kinds = {(tensor.dtype, tensor.device) for tensor in tensors}
    for kind in sorted(kinds, key=str):
        same = [tensor for tensor in tensors if (tensor.dtype, tensor.device) == kind]
        flat = torch.cat([tensor.flatten() for tensor in same]).div_(dist.get_world_size())
        dist.all_reduce(flat)
        for tensor, part in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
            tensor.copy_(part.view_as(tensor))
