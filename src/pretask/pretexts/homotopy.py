"""The lasso, exactly: follow its solution from the penalty at which it is 0 down to the one that is asked for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROOM = 32  # parts of a combination there is room for; it grows by as much again
TINY = 1e-9


def combination(
    samples: Float[Tensor, "batch dim"],
    parts: Float[Tensor, "parts dim"],
    penalty: float,
    own: Int[Tensor, "batch"] | None = None,
) -> Float[Tensor, "batch parts"]:
    """Every sample as a sparse combination of others: argmin |x - a P|^2 + penalty |a|_1, exactly.

    Follows the solution from the penalty at which it is 0 downwards (the homotopy of Osborne et al., 2000,
    and Efron et al., 2004), all samples in step: between two events, a part joining or leaving, coefficients
    are linear in the penalty, and every part in use correlates equally with what is left of the sample.

    Args:
        samples: x.
        parts: rows of P; of equal ones one is used.
        penalty: of the absolute values.
        own: which part is the sample itself and must stay out.
    """
    given, samples, parts = samples.dtype, samples.double(), parts.double()
    left = samples @ parts.T  # correlations with what is not explained yet
    barred = torch.zeros_like(left, dtype=torch.bool)
    if own is not None:
        barred.scatter_(1, own[:, None], True)
    goal = penalty / 2
    level = left.abs().masked_fill(barred, 0).amax(1)
    which = torch.zeros(len(samples), 0, dtype=torch.long, device=left.device)
    a, sign = left.new_zeros(which.shape), left.new_zeros(which.shape)
    first = left.abs().masked_fill(barred, -1).argmax(1)
    join, gone = torch.where(level > goal, first, -1), torch.zeros_like(left)
    for _ in range(8 * len(parts)):
        which, a, sign = admit(which, a, sign, join, left)
        slope = directions(parts, which, sign)
        change = (slope[:, None] @ parts[which]).squeeze(1) @ parts.T
        step, join, leave = next_event(left, change, level, goal, which, a, slope, sign, barred, gone)
        a, left, level = a + step[:, None] * slope, left - step[:, None] * change, level - step
        out = F.one_hot(leave + 1, which.shape[1] + 1)[:, 1:].bool()
        # what has just left stands at the level on its side; it may come back from the other one
        gone = torch.zeros_like(left).scatter_add(1, which, sign * out)
        a, sign = a.masked_fill(out, 0), sign.masked_fill(out, 0)
        if not bool((level > goal + TINY).any()):
            break
    return torch.zeros_like(left).scatter_add(1, which, a).to(given)


def admit(
    which: Int[Tensor, "batch room"],
    a: Float[Tensor, "batch room"],
    sign: Float[Tensor, "batch room"],
    join: Int[Tensor, "batch"],
    left: Float[Tensor, "batch parts"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Put the part that joins (or none: -1) into a free place; places without a part have sign 0."""
    if which.shape[1] == 0 or bool(((sign != 0).all(1) & (join >= 0)).any()):
        which, a, sign = (F.pad(table, (0, ROOM)) for table in (which, a, sign))
    place = (sign == 0).to(torch.uint8).argmax(1, keepdim=True)
    part = join.clamp(min=0)[:, None]
    joins = torch.zeros_like(sign, dtype=torch.bool).scatter(1, place, (join >= 0)[:, None])
    new_sign = left.gather(1, part).sign()
    return (
        torch.where(joins, part, which), a.masked_fill(joins, 0), torch.where(joins, new_sign, sign)
    )  # fmt: skip


def directions(
    parts: Float[Tensor, "parts dim"], which: Int[Tensor, "batch room"], sign: Float[Tensor, "batch room"]
) -> Float[Tensor, "batch room"]:
    """How coefficients change as the level falls by 1: G^-1 sign among the parts in use."""
    used = sign != 0
    local = parts[which] * used[:, :, None]
    gram = local @ local.mT + torch.diag_embed((~used).to(local.dtype) + 1e-12)
    return torch.linalg.solve(gram, sign)


def next_event(
    left: Float[Tensor, "batch parts"],
    change: Float[Tensor, "batch parts"],
    level: Float[Tensor, "batch"],
    goal: float,
    which: Int[Tensor, "batch room"],
    a: Float[Tensor, "batch room"],
    slope: Float[Tensor, "batch room"],
    sign: Float[Tensor, "batch room"],
    barred: Bool[Tensor, "batch parts"],
    gone: Float[Tensor, "batch parts"],
) -> tuple[Float[Tensor, "batch"], Int[Tensor, "batch"], Int[Tensor, "batch"]]:
    """How far the level falls until something happens; which part joins then and which place leaves, or -1.

    A part joins when its correlation reaches the level, which falls with it; one leaves when its
    coefficient passes 0.
    """
    free = ~barred & (torch.zeros_like(left).scatter_add(1, which, sign) == 0)
    steps = []
    for side in (1, -1):
        gap, speed = level[:, None] - side * left, 1 - side * change
        reached = gap.clamp(min=0) / speed.clamp(min=TINY)
        steps.append(reached.masked_fill(~free | (speed <= TINY) | (gone == side), torch.inf))
    joining, join = torch.minimum(*steps).min(1)
    falls = (sign != 0) & (slope * sign < 0)
    leaving, leave = torch.where(falls, -a / slope, torch.inf).min(1)
    room = (level - goal).clamp(min=0)
    step = torch.minimum(torch.minimum(joining, leaving), room)
    nothing = torch.full_like(join, -1)
    ends = step >= room
    return (
        step,
        torch.where(~ends & (joining <= leaving), join, nothing),
        torch.where(~ends & (leaving < joining), leave, nothing),
    )
