"""Two things compared part by part: each part finds its best partner, and parts have weights of their own.

VALOR (Liu et al., TPAMI 2024), section on multimodal grouping alignment; the unweighted form is FILIP's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pretask.encoders.parts import Parts
from pretask.objectives.distributed import gather


def gathered(own: Parts) -> Parts:
    """The things of all processes, which must have equally many parts each."""
    columns = (
        own.feature,
        own.weight[..., None].to(own.feature.dtype),
        own.there[..., None].to(own.feature.dtype),
    )
    whole = gather(torch.cat(columns, dim=2))
    return Parts(whole[..., :-2], whole[..., -2], whole[..., -1] > 0)


def fine_similarity(a: Parts, b: Parts) -> Float[Tensor, "as bs"]:
    """Half of the weighted mean over a's parts of the similarity to b's nearest part, and half of the other way
    round.

    Similarities of parts that are not there count as 0, not as nothing: a part all of whose partners are unlike
    it finds a filler (as in the authors' code).
    """
    with torch.autocast(a.feature.device.type, enabled=False):
        each = torch.einsum("atd,bvd->abtv", a.feature, b.feature)
        each = each * a.there[:, None, :, None] * b.there[None, :, None, :]
        first, second = (x.weight.masked_fill(~x.there, -torch.inf).softmax(1) for x in (a, b))
        there = torch.einsum("abt,at->ab", each.amax(3), first)
        back = torch.einsum("abv,bv->ab", each.amax(2), second)
        return (there + back) / 2


def symmetric_nce(score: Float[Tensor, "things things"], temperature: Tensor | float) -> Float[Tensor, ""]:
    """Each row finds its own column, and each column its own row: the mean of both cross-entropies."""
    truth = torch.arange(len(score), device=score.device)
    logits = score / temperature
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
