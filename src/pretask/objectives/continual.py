"""Learning classes one after another: the loss that keeps old ones, and what a sequence of tasks is worth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pretask.objectives.distributed import gather


def present_classes(labels: Int[Tensor, "batch"], classes: int) -> Bool[Tensor, "classes"]:
    """Whether a class occurs in the batch of all processes."""
    found = torch.zeros(classes, dtype=torch.bool, device=labels.device)
    found[gather(labels)] = True
    return found


def asymmetric_mask(
    present: Bool[Tensor, "classes"], seen: Bool[Tensor, "classes"]
) -> Bool[Tensor, "classes"]:
    """The classes a stream's batch may push at: its own, and, unless the last class has been seen, all from
    the highest class seen on (ER-ACE as its authors run it: what is not known yet stays free).

    Args:
        present: classes in the batch.
        seen: classes in this and all earlier batches.
    """
    number = torch.arange(len(seen), device=seen.device)
    highest = torch.where(seen, number, -1).amax()
    return present | ((number >= highest) & (highest < len(seen) - 1))


def asymmetric_cross_entropy(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, "batch"],
    allowed: Bool[Tensor, "classes"],
) -> Float[Tensor, ""]:
    """Cross-entropy among the allowed classes only (Caccia et al., ICLR 2022, equation 4): logits of others
    are the lowest number there is, so that new classes do not push at old ones."""
    return F.cross_entropy(logits.masked_fill(~allowed, torch.finfo(logits.dtype).min), labels)
