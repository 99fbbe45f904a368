"""Several pretext tasks on one encoder; their losses are summed, or weighed so that none loses."""

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from pretask.errors import UsageError
from pretask.objectives.balance import balance as balanced
from pretask.task import Batch, Losses, PretextTask, Sheet, Step


class Joint(PretextTask):
    """Train several tasks at once on a shared encoder.

    Args:
        tasks: by name; all must hold the same encoder. The first one's recipe trains the mix.
        balance: `sum`, or `pareto`: at every step the min-norm point of the losses' gradients on the encoder
            says how much each counts (MGDA; see `objectives.balance`).

    Raises:
        UsageError: the tasks do not share one encoder, or one of them has players or stages.
    """

    def __init__(self, tasks: dict[str, PretextTask], balance: Literal["sum", "pareto"] = "sum"):
        leader, first = next(iter(tasks.items()))
        if any(task.encoder is not first.encoder for task in tasks.values()):
            raise UsageError("joint tasks must share one encoder")
        apart = next((name for name, task in tasks.items() if task.players or task.stages), None)
        if apart is not None:
            raise UsageError(f"{apart} has players or stages of its own: it cannot be trained jointly")
        super().__init__(first.encoder)
        self.tasks = nn.ModuleDict(tasks)
        self.recipe, self.balance = first.recipe.below(f"tasks.{leader}"), balance
        self.weights = {
            f"{name}/{term}": weight for name, task in tasks.items() for term, weight in task.weights.items()
        }

    @property
    def parts(self) -> dict[str, PretextTask]:
        return dict(self.tasks.items())  # type: ignore[arg-type]  # it knows only of modules

    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        kept = list(batches)
        for task in self.parts.values():
            task.prepare(kept, num_samples)

    def loss(self, batch: Batch, step: Step) -> Losses:
        terms = self.terms(batch, step)
        if self.balance == "sum" or not torch.is_grad_enabled():
            return dict(terms)
        shared = list(self.encoder.parameters())
        known = {id(parameter) for parameter in shared}
        others = [parameter for parameter in self.parameters() if id(parameter) not in known]
        losses, weights = balanced(terms, shared, others)
        step.metrics |= {f"weight of {name}": torch.tensor(weight) for name, weight in weights.items()}
        return losses

    def terms(self, batch: Batch, step: Step) -> Iterator[tuple[str, Tensor]]:
        for name, task in self.parts.items():
            for term, value in task.loss(batch, step).items():
                yield f"{name}/{term}", value

    def after_backward(self, step: Step) -> None:
        for task in self.parts.values():
            task.after_backward(step)

    def after_step(self, step: Step) -> None:
        for task in self.parts.values():
            task.after_step(step)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        sheets = [task.preview(batch, step) for task in self.parts.values()]
        return Sheet(
            " + ".join(sheet.title for sheet in sheets),
            " / ".join(sheet.note for sheet in sheets),
            [sum(rows, []) for rows in zip(*(sheet.rows for sheet in sheets), strict=False)],
        )

    def chance(self, batch_size: int) -> dict[str, float]:
        return {
            f"{name}/{term}": value
            for name, task in self.parts.items()
            for term, value in task.chance(batch_size).items()
        }
