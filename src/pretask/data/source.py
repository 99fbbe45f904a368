"""What every reader of a kind of source gives: pictures not yet decoded, with what is known of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Int
from torch import Tensor

from pretask.data.masks import Masks
from pretask.data.stores import Store


@dataclass
class Source:
    """Pictures not yet decoded.

    Args:
        name: for people.
        store: where they lie.
        parts: for each the place of its split in `part_names`, or -1.
        part_names: the splits there are.
        targets: for each its class, or -1.
        classes: their names.
        ignored: how many other files there are, by extension.
        masks: what is where in the pictures, if that is known of any.
    """

    name: str
    store: Store
    parts: Int[Tensor, "files"] | None = None
    part_names: tuple[str, ...] = ()
    targets: Int[Tensor, "files"] | None = None
    classes: list[str] | None = None
    ignored: dict[str, int] = field(default_factory=dict)
    masks: Masks | None = None
