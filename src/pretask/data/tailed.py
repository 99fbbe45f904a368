"""Data in which few classes are common: made-up ones, and the trimming of others' tails."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pretask.data.arrays import from_arrays
from pretask.data.embedded import divided, placed
from pretask.data.narration import NUMBERS
from pretask.data.source import Source

NAME = "long-tailed-digits"
COLOURS = {
    "white": (1, 1, 1), "black": (0, 0, 0), "red": (0.9, 0.1, 0.1), "green": (0.1, 0.7, 0.2), "blue": (0.15, 0.3, 1),
    "yellow": (1, 0.9, 0.1), "purple": (0.5, 0.1, 0.6), "orange": (1, 0.55, 0), "pink": (1, 0.6, 0.75),
    "brown": (0.45, 0.25, 0.1),
}  # fmt: skip
NAMES = tuple(f"{colour} {number}" for colour in COLOURS for number in NUMBERS)
SIDE, MOST, TEST = 32, 1000, 20  # pictures of the commonest class, and of each for testing


def long_tailed_digits(seed: int = 0) -> tuple[Source, list[str]]:
    """Handwritten digits in one of ten colours on grey, a class for each pair: the commonest has a hundred times as
    many pictures as the rarest (Zipf), the test part as many of each. Captions are as "a red three". No test picture
    shows a digit that a training picture shows."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    digits = load_digits()
    ink, sources = torch.from_numpy(digits.images).float() / 16, divided(digits.target, seed)
    rank = rng.permutation(len(NAMES))
    counts = {"train": np.round(MOST / (1 + rank)).astype(int), "test": np.full(len(NAMES), TEST)}
    parts, captions = {}, list[str]()
    for part, count in counts.items():
        label = rng.permutation(np.repeat(np.arange(len(NAMES)), count))
        own = {digit: sources[part][digits.target[sources[part]] == digit] for digit in range(10)}
        chosen = np.array([rng.choice(own[kind % 10]) for kind in label])
        paint = torch.tensor(list(COLOURS.values())).float()[label // 10][:, :, None, None]
        ground = torch.from_numpy(rng.uniform(0.3, 0.7, (len(label), 1, 1, 1))).float()
        noise = torch.from_numpy(rng.normal(0, 0.05, (len(label), 3, SIDE, SIDE))).float()
        image = ground + placed(ink[chosen], SIDE, rng) * (paint - ground) + noise
        parts[part] = ((image.clamp(0, 1) * 255).round().byte().numpy(), label)
        captions += [f"a {NAMES[kind]}" for kind in label]
    return from_arrays(NAME, parts, list(NAMES)), captions


def trimmed(
    label: Int[Tensor, "items"], training: Bool[Tensor, "items"], classes: int, tail: int, ceil: int
) -> Int[Tensor, "kept"]:
    """Rows that are left where of the `tail` rarest classes at most `ceil` training items stay, the first ones; 0
    makes a class that is only named. Of classes alike rare those of higher number count as rarer."""
    count = torch.bincount(label[training & (label >= 0)], minlength=classes)
    rare = count.flip(0).argsort(stable=True)[:tail]
    rare = classes - 1 - rare
    kept = torch.ones_like(training)
    for kind in rare.tolist():
        own = (training & (label == kind)).nonzero().flatten()
        kept[own[ceil:]] = False
    return kept.nonzero().flatten()
