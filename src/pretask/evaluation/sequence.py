"""Classes learned one task after another: what is known in the end, and what was forgotten on the way.

A row of `results` is the state after a task, a column a task's test samples; classes are told apart among all
of the data, whatever task they belong to (class-incremental).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.data.loader import batches, steps_per_epoch, task_of_class
from pretask.encoders.base import Encoder
from pretask.encoders.image import ImageEncoder
from pretask.errors import UsageError
from pretask.evaluation.features import pick_device, to_device
from pretask.evaluation.score import Score, bootstrap_interval
from pretask.evaluation.splits import few
from pretask.task import Batch, PretextTask, Step
from pretask.training.optimisers import make_optimiser, set_rates
from pretask.training.plan import make_plan

if TYPE_CHECKING:
    from pretask.data import Dataset

Results = Float[Tensor, "tasks tasks"]

TASKS, BATCH, BUFFER = 5, 10, 200
PER_CLASS = 500  # samples a class that the protocol's stream has at most
AT_ONCE = 256  # test samples


def final_accuracy(results: Results) -> float:
    """Mean over tasks of the accuracy after the last one."""
    return float(results[-1].mean())


def forgetting(results: Results) -> float:
    """Mean over all tasks but the last of the best accuracy ever less the final one; never negative, for the
    final one counts among them (Chaudhry et al., ECCV 2018, with the last row included)."""
    if len(results) < 2:
        return 0.0
    return float((results.amax(0) - results[-1])[:-1].mean())


def backward_transfer(results: Results) -> float:
    """Mean over all tasks but the last of the final accuracy less that right after the task was learned
    (Lopez-Paz & Ranzato, NeurIPS 2017); what later tasks did to it."""
    if len(results) < 2:
        return 0.0
    return float((results[-1] - results.diagonal())[:-1].mean())


def forward_transfer(results: Results, untrained: Float[Tensor, "tasks"]) -> float:
    """Mean over all tasks but the first of the accuracy just before the task was learned less that of the
    untrained network; what earlier tasks did for it."""
    if len(results) < 2:
        return 0.0
    return float((results.diagonal(1) - untrained[1:]).mean())


class Learned(NamedTuple):
    """What a sequence left.

    Args:
        results: accuracy after each task on each task.
        untrained: accuracy on each task before the first.
        right: by test item, whether it is told right in the end.
        task: by test item, its task.
    """

    results: Results
    untrained: Float[Tensor, "tasks"]
    right: Float[Tensor, "items"]
    task: Int[Tensor, "items"]

    @property
    def items(self) -> Float[Tensor, "items"]:
        """A number for each test item; their mean is the final accuracy: every task counts alike."""
        counts = torch.bincount(self.task, minlength=len(self.results))
        return self.right * (len(self.right) / (len(self.results) * counts[self.task]))


class Classifier(Protocol):
    """A task that names classes, such as `methods.image.cler.CLER`."""

    def pictures(self, batch: Batch) -> Tensor: ...

    def classify(self, image: Tensor) -> Tensor: ...


@torch.no_grad()
def right_answers(task: PretextTask, dataset: Dataset, device: torch.device) -> Float[Tensor, "items"]:
    """1 for each sample whose class a `Classifier` tells."""
    was = task.training
    task.eval()
    found = []
    for rows in torch.arange(len(dataset)).split(AT_ONCE):
        batch = to_device(dataset.batch(rows), device)
        logits = task.classify(task.pictures(batch))  # type: ignore[operator]
        found.append((logits.argmax(1) == batch["label"]).double().cpu())
    task.train(was)
    return torch.cat(found)


def means(right: Float[Tensor, "items"], task: Int[Tensor, "items"], tasks: int) -> Float[Tensor, "tasks"]:
    """The mean of each task's items."""
    return torch.bincount(task, right, tasks) / torch.bincount(task, minlength=tasks)


def divided(train_set: Dataset, test_set: Dataset, tasks: int) -> tuple[Tensor, Tensor]:
    """The task of each training and of each test sample.

    Raises:
        UsageError: they cannot be divided.
    """
    if train_set.labels is None or test_set.labels is None:
        raise UsageError("a sequence of tasks needs labels: put the files into one folder a class")
    classes = int(train_set.labels.max()) + 1
    if not 2 <= tasks <= classes or int(test_set.labels.max()) >= classes:
        raise UsageError(
            f"{classes} classes to learn, {int(test_set.labels.max()) + 1} to be tested, {tasks} tasks: "
            "there must be at least two tasks with a class each, and no test of a class that is not learned"
        )
    task = task_of_class(classes, tasks)
    own, judged = task[train_set.labels], task[test_set.labels]
    if len(judged.unique()) < tasks or len(own.unique()) < tasks:
        raise UsageError(f"every one of the {tasks} tasks needs samples to learn from and to be tested by")
    return own, judged


def learn_sequence(
    task: PretextTask,
    train_set: Dataset,
    test_set: Dataset,
    *,
    tasks: int = TASKS,
    batch_size: int = BATCH,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Learned:
    """Train a `Classifier` in one pass, in the order its recipe asks for, and test it whenever a task's share
    of the stream is over.

    Args:
        task: is trained in place.
        train_set: samples with labels.
        test_set: samples of the same classes.
        tasks: parts the classes are divided into for the test.
        batch_size: samples a step.
        seed: of the order and of the draws.
        device: where to train.

    Raises:
        UsageError: data that cannot be divided into these tasks.
    """
    own, judged = divided(train_set, test_set, tasks)
    place, batch_size = torch.device(device), min(batch_size, len(train_set))
    total = steps_per_epoch(train_set, batch_size)
    ends = [min(-(-int((own <= number).sum()) // batch_size), total) for number in range(tasks)]
    task.to(place).train()
    whole = torch.arange(len(train_set)).split(AT_ONCE)
    task.prepare((to_device(train_set.batch(rows), place) for rows in whole), len(train_set))
    schedule = make_plan(task.recipe, len(train_set), batch_size=batch_size, max_steps=total).schedule(
        task.recipe
    )
    named = [(name, p) for name, p in task.named_parameters() if p.requires_grad]
    optimiser = make_optimiser(named, schedule, task.encoder)
    right = right_answers(task, test_set, place)
    untrained, rows = means(right, judged, tasks), []
    stream = batches(train_set, batch_size, seed=seed, stop=total, tasks=task.recipe.tasks)
    for index, batch in enumerate(stream):
        step = Step.at(index, total, total, seed, place)
        set_rates(optimiser, schedule, index)
        optimiser.zero_grad()
        task.total(task.loss(to_device(batch, place), step)).backward()
        task.after_backward(step)
        optimiser.step()
        task.after_step(step)
        if index + 1 in ends:
            right = right_answers(task, test_set, place)
            rows += [means(right, judged, tasks)] * ends.count(index + 1)
    return Learned(torch.stack(rows), untrained, right, judged)


def sequence(
    encoder: Encoder,
    train_set: Dataset,
    test_set: Dataset,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    tasks: int = TASKS,
) -> list[Score]:
    """How well an encoder goes on to learn classes that come a few at a time, each sample once, with a small
    memory (ER-ACE; `methods.image.cler` without a pretext): final accuracy, forgetting, transfer.

    Args:
        encoder: of pictures; a copy of it is trained.
        train_set: samples with labels; at most 500 of a class are used.
        test_set: samples of the same classes.
        seed: of the subset, the order and the draws.
        device: where to train.
        tasks: parts the classes are divided into; fewer if there are fewer classes.

    Raises:
        UsageError: data that cannot be divided, or an encoder of other data than pictures.
    """
    from pretask.methods.image.cler import CLER

    if not isinstance(encoder, ImageEncoder):
        raise UsageError(f"the sequence protocol trains a network of pictures; '{encoder.name}' is none")
    if train_set.labels is None:
        raise UsageError("a sequence of tasks needs labels: put the files into one folder a class")
    train_set = train_set.subset(few(train_set.labels, PER_CLASS, seed))
    tasks = min(tasks, int(train_set.labels.max()) + 1)  # type: ignore[union-attr]  # a part of labelled data
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        task = CLER(encoder.fresh_copy(), pretext="none", num_tasks=tasks, buffer_size=BUFFER)
    place = pick_device(encoder, device)[1]
    learned = learn_sequence(task, train_set, test_set, tasks=tasks, seed=seed, device=place)
    results, detail = learned.results, {"tasks": tasks, "results": learned.results.tolist()}
    low, high = bootstrap_interval(learned.items, seed=seed)
    n = len(learned.items)
    return [
        Score("sequence", "accuracy", final_accuracy(results), low, high, n, detail, learned.items),
        Score("sequence", "forgetting", forgetting(results), n=n),
        Score("sequence", "backward transfer", backward_transfer(results), n=n),
        Score("sequence", "forward transfer", forward_transfer(results, learned.untrained), n=n),
    ]
