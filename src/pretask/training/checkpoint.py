"""What a run continues from: one safetensors file that is there whole or not at all.

`checkpoint/last.safetensors` holds the task's state under `task/NAME` and each optimiser's under
`optimiser/LEARNER/PARAMETER/KEY`; everything that is no tensor stands as JSON in its header. Nothing is
unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from pretask.errors import PretaskError
from pretask.task import PretextTask

FILE = Path("checkpoint", "last.safetensors")
HEADER, TASK, OPTIMISER = "pretask", "task/", "optimiser/"


@dataclass
class Place:
    """Where a run stood when its checkpoint was written.

    Args:
        step: optimiser steps done.
        stage: the stage that had begun; -1 before the first.
        settings: what must be the same for the run to go on as if it had not stopped.
        num_samples: what `prepare` was told.
        pending: logged values of steps since the last row of metrics.csv.
        scaler: state of the gradient scaler, for half precision.
        aliases: names of tensors that are stored under another name.
    """

    step: int
    stage: int
    settings: dict[str, Any]
    num_samples: int
    pending: list[dict[str, float]] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)


def whole(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, contiguous; a sharded one is gathered from all processes."""
    tensor = tensor.detach()
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()
    return tensor.cpu().contiguous()


def task_tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every parameter and buffer once, and the other names of those that have several."""
    tensors: dict[str, Tensor] = {}
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    stores: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) in first:
            aliases[name] = first[id(tensor)]
            continue
        first[id(tensor)] = name
        kept = whole(tensor)
        store = kept.untyped_storage().data_ptr()
        tensors[name] = kept.clone() if store and store in stores else kept
        stores.add(store)
    return tensors, aliases


def optimiser_tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    """An optimiser's memory of each parameter, by the parameter's name."""
    return {
        f"{name}/{key}": whole(value)
        for group in optimiser.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for key, value in optimiser.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def save(
    folder: Path, task: nn.Module, optimisers: Mapping[str, Optimizer], place: Place, write: bool
) -> None:
    """Write the checkpoint; every process takes part in gathering, one writes."""
    tensors, place.aliases = task_tensors(task)
    tensors = {TASK + name: tensor for name, tensor in tensors.items()}
    for learner, optimiser in optimisers.items():
        own = optimiser_tensors(optimiser).items()
        tensors |= {f"{OPTIMISER}{learner}/{name}": tensor for name, tensor in own}
    if not write:
        return
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={HEADER: json.dumps(vars(place))})
    with partial.open("rb") as file:
        os.fsync(file.fileno())  # or a power cut could leave the new name with nothing behind it
    os.replace(partial, path)


def read(folder: str | Path, prefix: str = "") -> tuple[Place, dict[str, Tensor]] | None:
    """The checkpoint of a run folder and its tensors whose names begin with `prefix`; None if there is none.

    Raises:
        PretaskError: the file is damaged or not one of ours.
    """
    path = Path(folder, FILE)
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            place = Place(**json.loads((file.metadata() or {})[HEADER]))
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - no mapping
            return place, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise PretaskError(f"{path} cannot be read as a checkpoint: {error}") from error


def load_task(task: PretextTask, place: Place, tensors: Mapping[str, Tensor]) -> None:
    """Give a task the state of a checkpoint.

    Raises:
        PretaskError: the checkpoint is of another task, or of one with other options.
    """
    state = {name.removeprefix(TASK): value for name, value in tensors.items() if name.startswith(TASK)}
    state |= {alias: state[name] for alias, name in place.aliases.items()}
    try:
        task.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise PretaskError(
            f"the checkpoint does not fit this task, its options or its data: {reason}"
        ) from error


def load_optimiser(optimiser: Optimizer, learner: str, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser its memory of each parameter back."""
    start = f"{OPTIMISER}{learner}/"
    memory: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(start):
            parameter, _, key = name.removeprefix(start).rpartition("/")
            memory.setdefault(parameter, {})[key] = value
    named = [
        pair for group in optimiser.param_groups for pair in zip(group["names"], group["params"], strict=True)
    ]
    state = {
        number: {key: like(value, parameter) for key, value in memory[name].items()}
        for number, (name, parameter) in enumerate(named)
        if name in memory
    }
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A loaded tensor laid out in memory, and sharded, as the parameter it belongs to."""
    if value.shape != parameter.shape:
        return value  # the count of steps
    if hasattr(parameter, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        value = value.to(parameter.device)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def load_task_state(task: PretextTask, folder: str | Path) -> None:
    """The whole task as a run's last checkpoint holds it: encoder, heads, teachers, memories.

    Raises:
        PretaskError: there is no checkpoint, or it does not fit.
    """
    found = read(folder, TASK)
    if found is None:
        raise PretaskError(f"'{folder}' has no checkpoint yet: nothing was trained in it")
    place, tensors = found
    for index in range(place.stage + 1 if task.stages else 0):
        task.begin_stage(index)
    own = set(task.state_dict())
    if any(name.removeprefix(TASK) not in own for name in tensors):
        task.prepare([], place.num_samples)  # a memory with a row a sample gets its size
    load_task(task, place, tensors)
