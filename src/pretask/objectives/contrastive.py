"""Telling partners from strangers: InfoNCE in its forms.

The large matrix of similarities is never kept: it is made a few rows at a time and turned into the
loss and its gradient at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.objectives.distributed import gather, rank

CACHED = 2**18  # similarities at a time on a CPU: with what is made of them they stay in its cache
AT_ONCE = 2**26  # elsewhere: few large kernels in 256 MiB


class MeanLogSumExp(torch.autograd.Function):
    """Mean over rows of log(exp(extra_i) + sum_j exp(q_i . k_j)), without the j that is skipped.

    With P the softmax of a row, the gradient is P k / n for its query and the sum over rows of P q / n
    for the keys: both need P once, so they are formed while a few rows of it are at hand.
    """

    @staticmethod
    def forward(ctx, queries: Tensor, keys: Tensor, skip: Tensor | None, extra: Tensor | None) -> Tensor:
        n, limit = len(queries), CACHED if queries.device.type == "cpu" else AT_ONCE
        rows = max(1, limit // len(keys))
        for_query, for_key, for_extra = (
            torch.zeros_like(given) if needed else None
            for given, needed in zip(
                (queries, keys, extra), (ctx.needs_input_grad[i] for i in (0, 1, 3)), strict=True
            )
        )
        total = queries.new_zeros(())
        for start in range(0, n, rows):
            part = slice(start, min(start + rows, n))
            p = queries[part] @ keys.T
            if skip is not None:
                p.scatter_(1, skip[part, None], -torch.inf)
            top = p.amax(1)
            if extra is not None:
                top = torch.maximum(top, extra[part])
            p.sub_(top[:, None]).exp_()
            norm = p.sum(1)
            if extra is not None:
                own = (extra[part] - top).exp_()
                norm += own
            total += norm.log().add_(top).sum()
            scale = (norm * n).reciprocal_()
            if for_extra is not None:
                for_extra[part] = own * scale
            if for_query is not None:
                torch.mm(p, keys, out=for_query[part]).mul_(scale[:, None])
            if for_key is not None:
                for_key.addmm_(p.T, queries[part] * scale[:, None])
        ctx.save_for_backward(*(grad for grad in (for_query, for_key, for_extra) if grad is not None))
        return total / n

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        formed = iter(ctx.saved_tensors)
        for_query, for_key, for_extra = (
            next(formed) * grad if ctx.needs_input_grad[i] else None for i in (0, 1, 3)
        )
        return for_query, for_key, None, for_extra


def mean_log_sum_exp(
    queries: Float[Tensor, "rows dim"],
    keys: Float[Tensor, "columns dim"],
    skip: Int[Tensor, "rows"] | None = None,
    extra: Float[Tensor, "rows"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over rows of the log of summed exp(q . k), in float32 at least, memory linear in the rows.

    Args:
        queries: already divided by the temperature.
        keys: what they are compared with.
        skip: a column that does not count, one a row (its own).
        extra: one more logit a row.
    """
    with torch.autocast(queries.device.type, enabled=False):
        return MeanLogSumExp.apply(queries, keys, skip, extra)


def unit(x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Rows of length 1, in float32 at least: similarities of half precision are too coarse to divide by
    a temperature."""
    return F.normalize(x if x.dtype == torch.float64 else x.float(), dim=-1)


def nt_xent(
    a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"], temperature: float
) -> Float[Tensor, ""]:
    """SimCLR's loss (equation 1): each of 2N views finds its partner among the 2N - 1 others, of all
    processes. The denominator contains the partner and not the view itself.

    Args:
        a: one view of each sample; normalised here.
        b: the other views.
        temperature: divides the cosine similarities.
    """
    own = unit(torch.cat([a, b]))  # (2B, D)
    everyone = gather(own)
    place = torch.arange(len(own), device=own.device) + rank() * len(own)
    # each pair counts twice, once for either partner
    agreement = (own[: len(a)] * own[len(a) :]).sum(1).mean() / temperature
    return mean_log_sum_exp(own / temperature, everyone, skip=place) - agreement
