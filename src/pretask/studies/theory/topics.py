"""S6: two halves of a text from a topic model, as bags of words; independent given the mixture of topics."""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import factorial, prod

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.studies.theory.check import Check
from pretask.studies.theory.worlds import DOUBLE, DiscreteWorld, dirichlet, left_over

WORLDS, TOPICS, WORDS, LENGTH, MIXTURES = 20, 3, 6, 3, 8


def bags(words: int, length: int) -> Float[Tensor, "bags words"]:
    """Every bag of so many words, as counts."""
    found = combinations_with_replacement(range(words), length)
    return torch.stack([torch.bincount(torch.tensor(bag), minlength=words) for bag in found]).to(DOUBLE)


def multinomial(
    counts: Float[Tensor, "bags words"], p: Float[Tensor, "mixtures words"]
) -> Float[Tensor, "mixtures bags"]:
    """The probability of each bag under each distribution of words."""
    ways = [factorial(int(row.sum())) / prod(factorial(int(n)) for n in row) for row in counts]
    return torch.tensor(ways, dtype=DOUBLE) * torch.exp(p.log() @ counts.T)


def topic_world(seed: int) -> tuple[DiscreteWorld, Float[Tensor, "mixtures topics"]]:
    """A world whose class is one of several mixtures of topics, and these mixtures.

    The task asks for the mixture, in R^topics. A = E[X2 | mixture] is linear in it: length times topics' words.
    """
    generator = torch.Generator().manual_seed(seed)
    topics = dirichlet(TOPICS, WORDS, generator=generator)
    mixtures = dirichlet(MIXTURES, TOPICS, generator=generator)
    counts = bags(WORDS, LENGTH)
    p = multinomial(counts, mixtures @ topics)
    return DiscreteWorld.of(dirichlet(MIXTURES, generator=generator), p, p, counts), mixtures


def checks() -> list[Check]:
    """psi* is linear in E[mixture | x1], which a head recovers; features that are not universal lose some of it."""
    universal, counted, linear = [], [], []
    for seed in range(WORLDS):
        world, mixtures = topic_world(seed)
        target = world.target @ mixtures  # E[mixture | x1]
        universal.append(left_over(world.psi, target, world.p1))
        bag = world.values
        root = world.p1.sqrt()[:, None]
        head = torch.linalg.pinv(root * bag)
        psi, best = bag @ (head @ (root * world.psi)), bag @ (head @ (root * target))  # regressions on counts
        counted.append(left_over(psi, target, world.p1))
        linear.append(left_over(psi, best, world.p1))
    found = {
        "worlds": WORLDS,
        "largest e_apx": max(universal),
        "psi linear in counts, against the best linear": max(linear),
        "against f*": min(counted),
    }
    holds = max(*universal, *linear) < 1e-16 and min(counted) > 1e-9
    says = "psi* holds the mixture; with linear features it holds what is linear of it"
    return [Check("S6", f"halves of {LENGTH} words, {TOPICS} topics", says, found, holds)]
