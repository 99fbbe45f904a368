"""A student answers as its teacher does: DINO's and iBOT's cross-entropy with centring, and schedules."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pretask.objectives.chunks import row_parts
from pretask.objectives.distributed import mean


class SoftCrossEntropy(torch.autograd.Function):
    """Sum over rows of w (log sum exp z - t . z): the gradient w (softmax z - t) is formed at once, so that
    one array of the logits' size is all that is made."""

    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor, weight: Tensor, scale: float) -> Tensor:
        formed = torch.empty_like(logits)
        total = logits.new_zeros(())
        for part in row_parts(len(logits), logits.shape[1], logits.device):
            z = torch.mul(logits[part], scale, out=formed[part])
            agreement = torch.linalg.vecdot(target[part], z)
            top = z.amax(1)
            norm = z.sub_(top[:, None]).exp_().sum(1)
            total += weight[part] @ norm.log().add_(top).sub_(agreement)
            z.div_(norm[:, None]).sub_(target[part]).mul_(weight[part, None] * scale)
        ctx.save_for_backward(formed)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        return ctx.saved_tensors[0] * grad, None, None, None


def soft_cross_entropy(
    logits: Float[Tensor, "rows classes"],
    target: Float[Tensor, "rows classes"],
    weight: Float[Tensor, "rows"],
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """Weighted sum over rows of -sum_k t_k log softmax(z / T)_k, in float32 at least.

    Args:
        logits: z.
        target: t, sums to 1; learns nothing.
        weight: of each row.
        temperature: T.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    target, weight = target.detach().to(logits.dtype), weight.detach().to(logits.dtype)
    with torch.autocast(logits.device.type, enabled=False):
        return SoftCrossEntropy.apply(logits, target, weight, 1 / temperature)


def view_loss(
    student: Float[Tensor, "views*batch classes"],
    target: Float[Tensor, "globals*batch classes"],
    batch: int,
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """DINO's loss (equation 2): each view is asked for what the teacher says of every OTHER global view.

    The mean over these pairs of views of the batch's mean cross-entropy. A view's cross-entropies share
    its log-softmax, so they are one cross-entropy with the mean of their targets.

    Args:
        student: logits of all views, the global ones first, each view's batch together.
        target: the teacher's probabilities for the global views.
        batch: samples.
        temperature: the student's.
    """
    targets = target.detach().view(-1, batch, target.shape[1])  # (globals, B, K)
    total, num_globals, num_views = targets.sum(0), len(targets), len(student) // batch
    loss, pairs = student.new_zeros(()), num_globals * (num_views - 1)
    for view, logits in enumerate(student.split(batch)):
        others = num_globals - (view < num_globals)
        if others:
            asked = (total - targets[view] if view < num_globals else total) / others
            weight = asked.new_full((batch,), others / (pairs * batch))
            loss = loss + soft_cross_entropy(logits, asked, weight, temperature)
    return loss


def sharpen(
    logits: Float[Tensor, "*rows classes"], centre: Float[Tensor, "classes"], temperature: float
) -> Float[Tensor, "*rows classes"]:
    """The teacher's probabilities softmax((z - C) / T), without gradient."""
    logits = logits.detach() if logits.dtype == torch.float64 else logits.detach().float()
    return (logits - centre.to(logits.dtype)).div_(temperature).softmax(-1)


class Centre(nn.Module):
    """The running mean of a teacher's logits, over all processes: C <- m C + (1 - m) mean.

    `observe` only takes note, so that a loss is computed with the old centre; `update` follows the
    optimiser's step. Notes of accumulated batches count together.

    Args:
        classes: width of the logits.
        momentum: m.
    """

    value: Tensor

    def __init__(self, classes: int, momentum: float = 0.9):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(classes))
        self.noted: list[Tensor] = []

    def observe(self, logits_mean: Float[Tensor, "classes"]) -> None:
        """Take note of a batch's mean logits, before any temperature."""
        self.noted.append(logits_mean.detach().to(self.value.dtype))

    @torch.no_grad()
    def update(self) -> None:
        if self.noted:
            self.value.lerp_(mean(torch.stack(self.noted).mean(0)), 1 - self.momentum)
            self.noted.clear()


def cosine(index: int, total: int, start: float, end: float, warmup: int = 0) -> float:
    """The value at step `index` of `total`: linear from 0 to `start` in the first `warmup` steps (both ends
    included), then end + (start - end) (1 + cos(pi i / n)) / 2 for i = 0 .. n - 1 of the n others."""
    if index < warmup:
        return start * index / max(warmup - 1, 1)
    share = min((index - warmup) / max(total - warmup, 1), 1.0)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * share))


def linear_warmup(epoch: int, start: float, end: float, epochs: int) -> float:
    """The value in an epoch: linear from `start` to `end` over the first `epochs` (both ends included),
    then `end`; one epoch of warm-up has `start`."""
    if epoch >= epochs:
        return end
    return start + (end - start) * epoch / max(epochs - 1, 1)


def entropy(probability: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows"]:
    """-sum p ln p."""
    return torch.special.entr(probability).sum(-1)
