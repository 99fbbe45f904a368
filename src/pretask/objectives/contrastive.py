"""Telling partners from strangers: InfoNCE in its forms, and its ancestors against a memory bank.

The large matrix of similarities is never kept: it is made a few rows at a time and turned into the
loss and its gradient at once.
"""

from __future__ import annotations

from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.data.batch import single as single
from pretask.objectives.chunks import PRODUCT, row_parts
from pretask.objectives.distributed import gather, rank


class LogSumExp(torch.autograd.Function):
    """Sum over rows of w_i log(exp(extra_i) + sum_j exp(q_i . k_j)), without the j that is skipped.

    With P the softmax of a row, the gradient is w P k for its query and the sum over rows of w P q for
    the keys: both need P once, so they are formed while a few rows of it are at hand.
    """

    @staticmethod
    def forward(
        ctx, queries: Tensor, keys: Tensor, weight: Tensor, skip: Tensor | None, extra: Tensor | None
    ) -> Tensor:
        formed = [
            torch.zeros_like(given) if given is not None and needed else None
            for given, needed in zip((queries, keys, None, None, extra), ctx.needs_input_grad, strict=True)
        ]
        for_query, for_key, _, _, for_extra = formed
        total = queries.new_zeros(())
        for part in row_parts(len(queries), len(keys), queries.device, PRODUCT):
            p = queries[part] @ keys.T
            if skip is not None:
                p.scatter_(1, skip[part, None], -torch.inf)
            top = p.amax(1) if extra is None else torch.maximum(p.amax(1), extra[part])
            p.sub_(top[:, None]).exp_()
            norm = p.sum(1)
            if extra is not None:
                own = (extra[part] - top).exp_()
                norm += own
            total += weight[part] @ norm.log().add_(top)
            scale = weight[part] / norm
            if for_query is not None:
                torch.mm(p, keys, out=for_query[part]).mul_(scale[:, None])
            if for_key is not None:
                for_key.addmm_(p.T, queries[part] * scale[:, None])
            if for_extra is not None:
                for_extra[part] = own * scale
        ctx.save_for_backward(*formed)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        return tuple(None if formed is None else formed * grad for formed in ctx.saved_tensors)


def log_sum_exp(
    queries: Float[Tensor, "rows dim"],
    keys: Float[Tensor, "columns dim"],
    weight: Float[Tensor, "rows"] | None = None,
    skip: Int[Tensor, "rows"] | None = None,
    extra: Float[Tensor, "rows"] | None = None,
) -> Float[Tensor, ""]:
    """Weighted sum over rows of the log of summed exp(q . k). Memory grows with rows + columns.

    Args:
        queries: already divided by the temperature.
        keys: what they are compared with.
        weight: of each row; None takes the mean.
        skip: a column that does not count, one a row (its own).
        extra: one more logit a row.
    """
    if weight is None:
        weight = queries.new_full((len(queries),), 1 / len(queries))
    with torch.autocast(queries.device.type, enabled=False):
        return LogSumExp.apply(queries, keys, weight, skip, extra)


def unit(x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Rows of length 1, in float32 at least: of half precision they are too coarse to divide by a temperature."""
    return F.normalize(single(x), dim=-1)


def nt_xent(
    a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"], temperature: float, across: bool = True
) -> Float[Tensor, ""]:
    """SimCLR's loss (equation 1): each of 2N views finds its partner among the 2N - 1 others, of all
    processes. The denominator contains the partner and not the view itself.

    On the nodes of a graph it is GRACE's (Zhu et al., 2020, equations 1-2).

    Args:
        a: one view of each sample; normalised here.
        b: the other views.
        temperature: divides the cosine similarities.
        across: whether the other processes' views are others; not where all hold the same samples.
    """
    own = unit(torch.cat([a, b]))  # (2B, D)
    everyone, place = own, torch.arange(len(own), device=own.device)
    if across:
        everyone, place = gather(own), own_places(len(own), own.device)
    # each pair counts twice, once for either partner
    agreement = (own[: len(a)] * own[len(a) :]).sum(1).mean() / temperature
    return log_sum_exp(own / temperature, everyone, skip=place) - agreement


def own_places(rows: int, device: torch.device) -> Int[Tensor, "rows"]:
    """Where this process's rows stand among the gathered ones."""
    return torch.arange(rows, device=device) + rank() * rows


def info_nce(
    query: Float[Tensor, "batch dim"],
    key: Float[Tensor, "batch dim"],
    negatives: Float[Tensor, "queue dim"],
    temperature: float,
    normalise: bool = True,
) -> Float[Tensor, ""]:
    """MoCo's loss: cross-entropy of [q.k, q.negatives] / T with target 0; only the query learns.

    Args:
        query: what the encoder says of one view.
        key: what the momentum encoder says of the other view.
        negatives: rows that all samples share: the queue, before this batch enters it.
        temperature: divides the similarities.
        normalise: compare by cosine: query and key are normalised here, the queue holds normalised rows.
            Else by inner products of what is given.
    """
    key = key.detach()
    query, key = (unit(query), unit(key)) if normalise else (single(query), single(key))
    agreement = (query * key).sum(1) / temperature
    negatives = negatives.detach().to(query.dtype)
    return log_sum_exp(query / temperature, negatives, extra=agreement) - agreement.mean()


def multi_label_cpc(
    query: Float[Tensor, "batch dim"],
    key: Float[Tensor, "batch dim"],
    negatives: Float[Tensor, "queue dim"],
    temperature: float,
    alpha: float,
) -> Float[Tensor, ""]:
    """Multi-label CPC (Song & Ermon, NeurIPS 2020) as Geo-SSL has it: the rows [q.k, q.negatives] / T of all samples,
    of all processes, are one softmax, and its positives shall be alike likely.

    With K' logits a row, log alpha is added to positives and log beta to negatives, beta = (K' - alpha) / (K' - 1);
    the loss is the divergence KL(uniform over positives || softmax) / alpha.

    Args:
        query: what the encoder says of one view; normalised here.
        key: what the momentum encoder says of the other view; normalised here.
        negatives: rows of length 1 that all samples share.
        temperature: divides the similarities.
        alpha: weight of positives, from 0 to K'; 1 changes nothing.
    """
    query, key = unit(query), unit(key.detach())
    columns = 1 + len(negatives)
    positive = (query * key).sum(1) / temperature + log(alpha)
    others = query @ negatives.detach().to(query.dtype).T / temperature + log((columns - alpha) / (columns - 1))
    own = torch.cat([positive, others.flatten()]).logsumexp(0)
    whole = gather(own[None])
    samples = len(query) * len(whole)
    return (whole.logsumexp(0) - positive.mean() - log(samples)) / alpha


def in_batch_nce(
    query: Float[Tensor, "batch dim"], key: Float[Tensor, "batch dim"], temperature: float | Tensor
) -> Float[Tensor, ""]:
    """InfoNCE within a batch: each query finds its own key among those of all samples, of all processes. Both
    sides learn; of N alike the loss is ln N.

    Args:
        query: a row a sample; normalised here.
        key: what it belongs to, another vector of the same sample; normalised here.
        temperature: divides the cosine similarities; it may learn.
    """
    query, key = unit(query), unit(key)
    agreement = (query * key).sum(1).mean() / temperature
    return log_sum_exp(query / temperature, gather(key)) - agreement


def triplet(
    anchor: Float[Tensor, "batch dim"],
    positive: Float[Tensor, "batch dim"],
    negative: Float[Tensor, "batch dim"],
    margin: float,
) -> Float[Tensor, ""]:
    """Mean of max(0, cos(anchor, negative) - cos(anchor, positive) + margin)."""
    anchor, positive, negative = unit(anchor), unit(positive), unit(negative)
    return ((anchor * (negative - positive)).sum(1) + margin).clamp(min=0).mean()


def multi_positive(
    embedding: Float[Tensor, "batch dim"],
    group: Int[Tensor, "batch"],
    temperature: float,
    sum_positives: Literal["outside", "inside"] = "outside",
) -> Float[Tensor, ""]:
    """Contrast with several positives: all rows of the same group, in all processes.

    `outside` averages log-probabilities over a row's positives (SupCon's L_out, without the factor T / 0.07
    of its code); `inside` takes the log of their summed probability (L_in without 1/|P|; solo-learn's
    SimCLR loss). They differ as soon as there is more than one positive. A row without any counts as 0.

    Args:
        embedding: all views of all samples; normalised here.
        group: which rows belong together (the sample's index, a class).
        temperature: divides the cosine similarities.
        sum_positives: where the positives are brought together.
    """
    own, place = unit(embedding), own_places(len(embedding), embedding.device)
    everyone, groups = gather(own), gather(group)
    if sum_positives == "inside":
        same = (group[:, None] == groups).scatter_(1, place[:, None], False)  # (B, all)
        logits = (own @ everyone.T / temperature).scatter(1, place[:, None], -torch.inf)
        found = logits.masked_fill(~same & same.any(1, keepdim=True), -torch.inf)
        return (logits.logsumexp(1) - found.logsumexp(1)).mean()
    code = numbered(groups)
    sums = torch.zeros_like(everyone).index_add(0, code, everyone)[code[place]] - own
    count = torch.zeros_like(code).index_add_(0, code, torch.ones_like(code))[code[place]] - 1
    agreement = (own * sums).sum(1) / count.clamp(min=1) / temperature * (count > 0)
    weight = (count > 0).to(own.dtype) / len(own)
    return log_sum_exp(own / temperature, everyone, weight, skip=place) - agreement.mean()


def numbered(group: Int[Tensor, "rows"]) -> Int[Tensor, "rows"]:
    """The same groups with numbers from 0 on, without asking a device how many there are."""
    value, order = group.sort()
    return torch.zeros_like(order).scatter_(0, order, (value.diff(prepend=value[:1]) != 0).cumsum(0))


def bank_nce(probability: Float[Tensor, "batch 1+negatives"], num_samples: int) -> Float[Tensor, ""]:
    """Noise-contrastive estimation against a memory bank (Wu et al., CVPR 2018; PIRL's default).

    With Pn = 1/N: -mean_b [ log(P_0 / (P_0 + K Pn + eps)) + sum_j log(K Pn / (P_j + K Pn + eps)) ].

    Args:
        probability: exp(s / T) / Z, the positive in column 0 (`memory.Partition` freezes Z).
        num_samples: N, rows of the bank.
    """
    noise = (probability.shape[1] - 1) / num_samples
    evidence = probability + (noise + torch.finfo(torch.float32).eps)
    positive = probability[:, 0].log() - evidence[:, 0].log()
    negative = (noise / evidence[:, 1:]).log().sum(1)
    return -(positive + negative).mean()


def bank_cross_entropy(logits: Float[Tensor, "batch 1+negatives"]) -> Float[Tensor, ""]:
    """InfoNCE against a memory bank: which column is the sample's own? (the first)"""
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def bank_probability(logits: Float[Tensor, "batch 1+negatives"]) -> Float[Tensor, ""]:
    """PIRL's equation 5: -log h(positive) - sum_j log(1 - h(negative_j)) with h the softmax over all
    columns; mean over the batch."""
    log_h = logits.log_softmax(1)
    # 1 - h is 0 to rounding when a negative takes all: the smallest step below 1 keeps the log finite
    not_h = torch.log1p(-log_h[:, 1:].exp().clamp(max=1 - torch.finfo(logits.dtype).eps))
    return -(log_h[:, 0] + not_h.sum(1)).mean()
