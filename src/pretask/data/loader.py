"""One endless stream of shuffled batches: batch number k is the same whenever, and in however many
processes, it is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
import torch.utils.data
from jaxtyping import Int
from torch import Tensor

from pretask.data.dataset import Dataset
from pretask.data.stream import Stream
from pretask.errors import UsageError
from pretask.task import Batch


def steps_per_epoch(dataset: Dataset, batch_size: int) -> int:
    """Whole batches in one pass over the data; one if the data are fewer than a batch.

    Raises:
        UsageError: the data are streamed, and nobody knows how many there are.
    """
    if dataset.stream:
        raise UsageError(f"{dataset.name} is streamed, nobody knows its length: say how many steps to train")
    return max(1, len(dataset) // batch_size)


class Order:
    """Which samples make up which batch.

    Every epoch is a new permutation by (seed, epoch); what does not fill a batch is left out, another
    remainder each time. Data fewer than a batch are repeated within it.

    Args:
        count: samples.
        batch_size: samples a batch.
        seed: of the permutations.
        groups: a number for each sample: those of lower numbers come first, shuffled among themselves. The
            batch at a border holds both.
        passes: epochs in which a group is met before the next one comes.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        groups: Int[Tensor, "count"] | None = None,
        passes: int = 1,
    ):
        self.count, self.batch_size, self.seed, self.passes = count, batch_size, seed, passes
        self.groups = None if groups is None else groups.numpy()
        self.steps = max(1, count // batch_size) * passes
        self.turn, self.shuffled = -1, torch.empty(0, dtype=torch.long)

    def __getitem__(self, number: int) -> Int[Tensor, "batch"]:
        turn, step = divmod(number, self.steps)
        if turn != self.turn:
            epochs = range(turn * self.passes, (turn + 1) * self.passes)
            order = np.concatenate([self.epoch(epoch) for epoch in epochs])
            if self.groups is not None:
                order = order[self.groups[order].argsort(kind="stable")]
            self.turn, self.shuffled = turn, torch.from_numpy(order)
        return self.shuffled[step * self.batch_size : (step + 1) * self.batch_size]

    def epoch(self, number: int) -> np.ndarray:
        order = np.random.default_rng([self.seed, number]).permutation(self.count)
        return np.resize(order, self.batch_size) if self.count < self.batch_size else order


def batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int,
    stop: int,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int | None = None,
    parts: int = 1,
    tasks: int = 0,
    passes: int = 1,
) -> Iterator[Batch]:
    """Batches number `start` to `stop` - 1 of the stream that belongs to `seed`.

    Args:
        dataset: where samples come from.
        batch_size: samples in the joined batch of all processes.
        seed: of the order.
        stop: the first batch not to give.
        start: the first batch to give; a run that is resumed goes on with the same batches.
        rank: which process this is: it gets its share of the joined batch's rows, in order of rank.
        world: how many processes there are.
        workers: processes that decode; default the data set's. Without effect on data in memory.
        parts: each process's share comes in so many parts, one after the other.
        tasks: the classes come in their order, in so many parts; 0 shuffles them (`Recipe.tasks`).
        passes: with `tasks`, epochs over a part before the next one comes: those of the whole run, as a
            continual learner trains; 1 comes back to the first part with every epoch.

    Raises:
        UsageError: the batch cannot be shared evenly, or classes cannot come in order.
    """
    if batch_size % (world * parts):
        raise UsageError(
            f"a batch of {batch_size} cannot be shared evenly by {world} processes in {parts} parts each"
        )
    workers = dataset.workers if workers is None else workers
    groups = groups_of(dataset, tasks)
    if isinstance(dataset, Stream):
        small, first, last = batch_size // parts, start * parts, stop * parts
        yield from dataset.batches(small, seed, first, last, rank, world, workers)
        return
    if len(dataset) < batch_size:
        warnings.warn(
            f"{dataset.name} has {len(dataset)} samples, fewer than a batch of {batch_size}: every batch "
            "repeats some of them. A smaller batch is better.", stacklevel=2,
        )  # fmt: skip
    share = batch_size // (world * parts)
    order = Order(len(dataset), batch_size, seed, groups, passes if tasks else 1)
    own = range(rank * parts, (rank + 1) * parts)
    mine = (
        order[number][place * share : (place + 1) * share] for number in range(start, stop) for place in own
    )
    if dataset.in_memory or workers == 0:
        yield from map(dataset.batch, mine)
        return
    fetched = torch.utils.data.DataLoader(
        Fetch(dataset), sampler=mine, batch_size=None, num_workers=workers,
        prefetch_factor=4, pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    for batch, broken in fetched:
        dataset.record(broken)
        yield batch


def task_of_class(classes: int, tasks: int) -> Int[Tensor, "classes"]:
    """Which of `tasks` parts each class belongs to when classes come in their order: parts of equally many
    classes, or as equal as they can be."""
    return torch.arange(classes) * tasks // classes


def groups_of(dataset: Dataset, tasks: int) -> Int[Tensor, "samples"] | None:
    """The task of each sample; None where all are shuffled together.

    Raises:
        UsageError: the data have no labels to go by.
    """
    if not tasks:
        return None
    if dataset.labels is None:
        raise UsageError(
            f"{dataset.name} cannot come as a stream of classes: it has no labels. Put the files into one "
            "folder a class"
        )
    return task_of_class(int(dataset.labels.max()) + 1, tasks)[dataset.labels]


class Fetch(torch.utils.data.Dataset):
    """A data set as workers see it: an item is a whole batch, with what was found broken on the way."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, indices: Int[Tensor, "batch"]) -> tuple[Batch, dict[int, str]]:
        return self.dataset.fetch(indices)
