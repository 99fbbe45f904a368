"""What methods share that name classes beside their pretext: a last layer whose size only the data know."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from pretask.errors import UsageError
from pretask.objectives.distributed import gather
from pretask.task import Batch, PretextTask


class Classifying(PretextTask):
    """A task with a `classifier` over the labels of its data; `prepare` makes it.

    Args:
        encoder: any encoder.
    """

    classifier: nn.Linear

    def __init__(self, encoder: Any):
        super().__init__(encoder)
        # the number of classes is known only to the data: weights of the last layer as if drawn here
        self.classifier_seed = int(torch.randint(2**31, ()))

    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        """Count the classes.

        Raises:
            UsageError: the data have no labels.
        """
        highest = -1
        for batch in batches:
            if "label" not in batch:
                raise UsageError(
                    f"{type(self).__name__.lower()} learns classes and these data have no labels: put the files "
                    "into one folder a class"
                )
            highest = max(highest, int(batch["label"].max()))
        if highest >= 0:
            device = next(self.parameters()).device
            self.make_classifier(int(gather(torch.tensor([highest + 1], device=device)).max()))

    def make_classifier(self, classes: int) -> None:
        """The last layer."""
        device = next(self.encoder.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.classifier_seed)
            self.classifier = nn.Linear(self.encoder.dim, classes).to(device)  # type: ignore[arg-type]

    def check_prepared(self) -> None:
        """
        Raises:
            UsageError: nobody has said how many classes there are.
        """
        if not hasattr(self, "classifier"):
            raise UsageError(
                f"call prepare(batches, num_samples) first: {type(self).__name__.lower()} must know how many "
                "classes there are"
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A checkpoint knows the number of classes even where the data are not at hand."""
        weight = state_dict.get(prefix + "classifier.weight")
        if weight is not None and (
            not hasattr(self, "classifier") or len(weight) != len(self.classifier.weight)
        ):
            self.make_classifier(len(weight))
        super()._load_from_state_dict(state_dict, prefix, *args)
