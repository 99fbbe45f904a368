"""What every encoder is, whatever library its model comes from."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Self

import yaml
from torch import nn

from pretask.encoders.features import Features
from pretask.errors import UsageError
from pretask.task import Batch


class Encoder(nn.Module):
    """A model with one face: `encoder(x) -> Features`.

    Attributes:
        modality: what it takes, as in the catalogue: the batch's entry of this name.
        model: the third party's own module: its state is what is saved and exported, under its own names.
            Everything that is learned and kept lies in it.
        dim: width of `Features.pooled`.
        name: what `build` was given, arguments behind a colon included.
        inputs: what `build` was told of the data; with the name it builds the same network again.
        pretrained: whether its weights were learned before: a task must not start them anew.
        at_once: samples at most that protocols encode, or train on, at a time; None leaves it to them.
    """

    modality: ClassVar[str]
    model: Any
    dim: int
    name: str
    inputs: dict[str, Any]
    pretrained: bool = False
    at_once: int | None = None

    def encode(self, batch: Batch) -> Features:
        """What protocols judge and `embed` writes: the features of a batch as it is read."""
        return self(batch[self.modality])

    @property
    def reading(self) -> dict[str, Any]:
        """Settings by which a reader makes other data fit this encoder."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What builds this network again, as plain data."""
        return {"modality": self.modality, "name": self.name, "inputs": self.inputs}

    def fresh_copy(self) -> Self:
        """The same network and weights apart from this one (for a teacher)."""
        return copy.deepcopy(self)


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """`gcn:hidden=64,layers=2` as the name and its arguments.

    Raises:
        UsageError: what stands behind the colon is not key=value,key=value.
    """
    plain, _, extra = name.partition(":")
    try:
        arguments = yaml.safe_load("{" + extra.replace("=", ": ") + "}")
    except yaml.YAMLError as error:
        raise UsageError(f"encoder '{plain}': behind the colon stands key=value,key=value") from error
    return plain, arguments
