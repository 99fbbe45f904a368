"""Negatives that are hard to tell count more (Robinson et al., ICLR 2021)."""

from math import log

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.objectives.contrastive import own_places, unit
from pretask.objectives.distributed import gather


def hard_nt_xent(
    a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"], temperature: float, beta: float
) -> Float[Tensor, ""]:
    """SimCLR's loss with each of a view's M negatives weighted by exp(beta s / T), s its cosine, over the mean of
    these weights: -log p / (p + sum_j w_j n_j), p and n_j the partner's and the negatives' exp(s / T) (equation 5,
    with no debiasing). The weights learn, too, as in the official code; beta 0 is NT-Xent.

    Args:
        a: one view of each sample; normalised here.
        b: the other views.
        temperature: divides the cosine similarities.
        beta: how much more the hard ones count.
    """
    own = unit(torch.cat([a, b]))
    everyone, place = gather(own), own_places(len(own), own.device)
    logits = own @ everyone.T / temperature
    rows = torch.arange(len(own), device=own.device)
    partner = place.roll(len(a))  # within this process's rows the other half
    positive = logits[rows, partner]
    negative = logits.scatter(1, torch.stack([place, partner], dim=1), -torch.inf)
    count = negative.shape[1] - 2
    # log sum_j w_j n_j, w_j = exp(beta l_j) / mean exp(beta l)
    hard = ((1 + beta) * negative).logsumexp(1) - (beta * negative if beta else flat(negative)).logsumexp(1)
    return (torch.logaddexp(positive, hard + log(count)) - positive).mean()


def flat(x: Tensor) -> Tensor:
    """0 where there is a number, for 0 times infinity is none."""
    return torch.where(x.isinf(), x, 0.0)
