"""What a denoiser knows at each level of noise: three ways to look (Choi et al., CVPR 2022, section 3).

How wrong its guesses are in each band of levels; what of a picture survives being hidden and found again;
how well a linear classifier reads the features it has there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data import Dataset
from pretask.data.batch import to_float
from pretask.data.dataset import spread
from pretask.encoders.denoiser import Denoiser
from pretask.encoders.sampling import reverse
from pretask.evaluation.features import extract, frozen, to_device
from pretask.evaluation.generation import as_dataset, drawable, judge_of
from pretask.evaluation.linear import linear
from pretask.evaluation.score import Score, bootstrap_interval, known_labels
from pretask.objectives.diffusion import noise_error
from pretask.pretexts.diffusion import BANDS, bands, diffuse, spread_levels
from pretask.pretexts.views import centre_view

LOOKED_AT = 8  # levels of each band, evenly spaced
PROBED = (10, 50, 100, 200, 400, 700)
"""Levels of a thousand at which features are read."""


def band_levels(snr: Float[Tensor, "levels"], count: int) -> dict[str, list[int]]:
    """By band, noisiest first, the levels in the middle of `count` equal parts of it."""
    place, found = bands(snr), {}
    for number, name in enumerate(BANDS):
        own = (place == number).nonzero().flatten()
        if len(own):
            middles = (torch.arange(count) + 0.5) / count * len(own)
            found[name] = own[middles.long()].unique().tolist()
    return found


def pictures(encoder: Denoiser, dataset: Dataset, count: int) -> Float[Tensor, "count chans side side"]:
    """Spread over the data, in [-1, 1]."""
    batch = to_device(dataset.batch(spread(len(dataset), count)), encoder.mean.device)
    return encoder.normalise(centre_view(to_float(batch["image"]), batch.get("size"), encoder.image_size))


def hidden(
    encoder: Denoiser, clean: Tensor, level: int, generator: torch.Generator, shared: bool = False
) -> tuple[Tensor, Tensor, Int[Tensor, "batch"]]:
    """Pictures under noise of a level, each its own or all the same; the noise; the level of each."""
    shape = (1 if shared else len(clean), *clean.shape[1:])
    noise = torch.randn(shape, generator=generator).to(clean).expand_as(clean)
    levels = torch.full((len(clean),), level, device=clean.device)
    return diffuse(encoder.schedule, clean, noise, levels), noise, levels


def band_errors(encoder: Denoiser, clean: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """By band each picture's mean squared error of the guessed noise, over `LOOKED_AT` levels."""
    found = {}
    for name, levels in band_levels(encoder.schedule.snr, LOOKED_AT).items():
        each = []
        for level in levels:
            noisy, noise, at = hidden(encoder, clean, level, generator)
            guess = [encoder.predict(*part)[0] for part in zip(noisy.split(256), at.split(256), strict=True)]
            each.append(noise_error(torch.cat(guess), noise).double().cpu())
        found[name] = torch.stack(each).mean(0)
    return found


def found_again(
    encoder: Denoiser, clean: Tensor, level: int, steps: int, generator: torch.Generator, shared: bool = False
) -> Float[Tensor, "batch chans side side"]:
    """Pictures in [0, 1] that ancestral sampling makes of hidden ones, from their level back."""
    noisy, _, _ = hidden(encoder, clean, level, generator, shared)
    levels = spread_levels(level, steps)
    drawn = reverse(encoder.predict, encoder.betas, noisy, levels, generator, "ddpm")
    return drawn / 2 + 0.5


class Alike(NamedTuple):
    """Cosines of a judge's features for each picture.

    Args:
        kept: by band, of the picture and of what is found again of it: what survives.
        shared: by band, of what is found again of it and of another, both under one noise: what two pictures
            have become one in.
        apart: of the picture and that other.
    """

    kept: dict[str, Float[Tensor, "items"]]
    shared: dict[str, Float[Tensor, "items"]]
    apart: Float[Tensor, "items"]


def alike(encoder: Denoiser, judge: nn.Module, dataset: Dataset, count: int, steps: int, seed: int) -> Alike:
    """How alike pictures are that were hidden and found again, from the level in the middle of each band."""
    clean = pictures(encoder, dataset, count)

    def seen(image: Tensor) -> Tensor:
        return F.normalize(extract(judge, as_dataset(image.cpu(), dataset))[0].double(), dim=1)

    original = seen(clean / 2 + 0.5)
    found = Alike({}, {}, (original * original.roll(1, 0)).sum(1))
    for name, (level,) in band_levels(encoder.schedule.snr, 1).items():
        for shared in (False, True):
            generator = torch.Generator().manual_seed(seed)
            again = seen(found_again(encoder, clean, level, steps, generator, shared))
            if shared:
                found.shared[name] = (again * again.roll(1, 0)).sum(1)
            else:
                found.kept[name] = (again * original).sum(1)
    return found


def denoising(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    count: int = 1000,
    rebuilt: int = 128,
    steps: int = 50,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """By band of levels: the error of the guessed noise (1 is no guess at all), how alike a picture and what
    is found again of it are (`kept`), and how alike what is found again of two pictures under one noise is
    (`shared`; the detail says how alike two pictures are).

    Args:
        encoder: a denoiser.
        train_set: what the judge of likeness learns from.
        test_set: pictures that are hidden.
        count: pictures for the error.
        rebuilt: pictures that are found again.
        steps: levels of the way back.
        seed: of noise and judge.
        device: where to work.

    Raises:
        UsageError: the encoder is no denoiser.
    """
    made = drawable(encoder)
    judge = judge_of(train_set, seed)
    with frozen(made, device):
        errors = band_errors(made, pictures(made, test_set, count), torch.Generator().manual_seed(seed))
        likeness = alike(made, judge, test_set, rebuilt, steps, seed)
    named = {f"error {name}": items for name, items in errors.items()}
    named |= {f"kept {name}": items for name, items in likeness.kept.items()}
    named |= {f"shared {name}": items for name, items in likeness.shared.items()}
    detail = {"two pictures": float(likeness.apart.mean())}
    return [
        Score("denoising", name, float(x.mean()), *bootstrap_interval(x, seed=seed), len(x), dict(detail), x)
        for name, x in named.items()
    ]


def noisy_features(
    encoder: Denoiser, dataset: Dataset, level: int, seed: int, device: torch.device | str | None
) -> Float[Tensor, "items dim"]:
    """The middle of the network for every sample under noise of its own."""
    generator, found = torch.Generator().manual_seed(seed), []
    with frozen(encoder, device):
        for rows in torch.arange(len(dataset)).split(256):
            clean = pictures(encoder, dataset.subset(rows), len(rows))
            noisy, _, at = hidden(encoder, clean, level, generator)
            found.append(encoder.middle(noisy, at).mean((2, 3)).float().cpu())
    return torch.cat(found)


def levels(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    probed: tuple[int, ...] = PROBED,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """Linear probe of the features under noise of several levels: where is what a classifier needs?

    As an encoder a denoiser sees every picture under the same noise; here each has its own.

    Args:
        encoder: a denoiser.
        train_set: what the classifiers learn from.
        test_set: what is judged.
        probed: levels, of a thousand; of another number in proportion.
        seed: of noise and probes.
        device: where the encoder runs.

    Raises:
        UsageError: the encoder is no denoiser.
    """
    made, scores = drawable(encoder), []
    for number in probed:
        level = min(round(number * len(made.betas) / 1000), len(made.betas) - 1)
        parts = [
            known_labels((noisy_features(made, part, level, seed + place, device), part.labels))
            for place, part in enumerate((train_set, test_set))
        ]
        score = linear(*parts, seed=seed)[0]
        scores.append(
            replace(
                score, protocol="levels", metric=f"accuracy@{number}", detail={**score.detail, "level": level}
            )
        )
    return scores
