"""Several pretext tasks on one encoder; their losses are summed."""

from collections.abc import Iterable

from torch import nn

from pretask.errors import UsageError
from pretask.task import Batch, Losses, PretextTask, Sheet, Step


class Joint(PretextTask):
    """Train several tasks at once on a shared encoder.

    Args:
        tasks: by name; all must hold the same encoder. The first one's recipe trains the mix.

    Raises:
        UsageError: the tasks do not share one encoder.
    """

    def __init__(self, tasks: dict[str, PretextTask]):
        first = next(iter(tasks.values()))
        if any(task.encoder is not first.encoder for task in tasks.values()):
            raise UsageError("joint tasks must share one encoder")
        super().__init__(first.encoder)
        self.tasks = nn.ModuleDict(tasks)
        self.recipe = first.recipe
        self.weights = {
            f"{name}/{term}": weight for name, task in tasks.items() for term, weight in task.weights.items()
        }

    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        kept = list(batches)
        for task in self.tasks.values():
            task.prepare(kept, num_samples)

    def loss(self, batch: Batch, step: Step) -> Losses:
        return {
            f"{name}/{term}": value
            for name, task in self.tasks.items()
            for term, value in task.loss(batch, step).items()
        }

    def after_backward(self, step: Step) -> None:
        for task in self.tasks.values():
            task.after_backward(step)

    def after_step(self, step: Step) -> None:
        for task in self.tasks.values():
            task.after_step(step)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        sheets = [task.preview(batch, step) for task in self.tasks.values()]
        return Sheet(
            " + ".join(sheet.title for sheet in sheets),
            " / ".join(sheet.note for sheet in sheets),
            [sum(rows, []) for rows in zip(*(sheet.rows for sheet in sheets), strict=False)],
        )

    def chance(self, batch_size: int) -> dict[str, float]:
        return {
            f"{name}/{term}": value
            for name, task in self.tasks.items()
            for term, value in task.chance(batch_size).items()
        }
