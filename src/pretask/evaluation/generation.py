"""What a model draws, compared with real pictures in the features of a judge that learned neither by drawing.

Fréchet distance (Heusel et al., NeurIPS 2017) with the judge's features in Inception's place, precision and
recall (Kynkäänniemi et al., NeurIPS 2019). Distances compare between models only for one judge, one set of
real pictures and equally many drawn ones.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pretask.data import Dataset
from pretask.data.dataset import Memory, spread
from pretask.encoders import build_encoder
from pretask.encoders.denoiser import Denoiser
from pretask.encoders.sampling import Sampler, reverse
from pretask.errors import UsageError
from pretask.evaluation.features import extract, frozen
from pretask.evaluation.finetune import fine_tuned
from pretask.evaluation.score import Score, bootstrap_interval
from pretask.pretexts.diffusion import spread_levels, strided_levels

JUDGE = "resnet10t:stem_width=16,channels=[32,64,128,256]"
EPOCHS, LEARNED_FROM = 5, 5000  # passes over, and number of, the pictures that the judge learns from
NEIGHBOUR = 3  # whose distance is the radius around a picture
ROWS = 512  # pictures whose distances are held at once


class Moments(NamedTuple):
    """Mean and (unbiased) covariance of features, in float64."""

    mean: Float[Tensor, "dim"]
    covariance: Float[Tensor, "dim dim"]

    @classmethod
    def of(cls, x: Float[Tensor, "items dim"]) -> Moments:
        return cls(x.double().mean(0), x.double().T.cov())


def root(matrix: Float[Tensor, "dim dim"]) -> Float[Tensor, "dim dim"]:
    """The symmetric square root of a positive semi-definite matrix."""
    values, axes = torch.linalg.eigh(matrix)
    return axes * values.clamp(min=0).sqrt() @ axes.T


def frechet(x: Float[Tensor, "items dim"], y: Float[Tensor, "others dim"]) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)): the distance of two Gaussians with the features' moments."""
    one, other = Moments.of(x), Moments.of(y)
    half = root(one.covariance)
    shared = torch.linalg.eigvalsh(half @ other.covariance @ half).clamp(min=0).sqrt().sum()
    spread = one.covariance.trace() + other.covariance.trace() - 2 * shared
    return float((one.mean - other.mean).square().sum() + spread)


def radii(x: Float[Tensor, "items dim"], k: int = NEIGHBOUR) -> Float[Tensor, "items"]:
    """The distance of each item to its k-th nearest other."""
    return torch.cat([torch.cdist(part, x).kthvalue(k + 1, dim=1).values for part in x.split(ROWS)])


def covered(x: Float[Tensor, "items dim"], by: Float[Tensor, "others dim"]) -> Bool[Tensor, "items"]:
    """Whether each item lies within the radius of any of the others."""
    reach = radii(by)
    return torch.cat([(torch.cdist(part, by) <= reach).any(1) for part in x.split(ROWS)])


@lru_cache(maxsize=2)
def judge_of(train_set: Dataset, seed: int) -> nn.Module:
    """What looks at pictures: a classifier of these data, or where they have no labels an untrained network
    (whose features still tell distributions apart: Naeem et al., ICML 2020)."""
    made = build_encoder(JUDGE, seed=seed, **train_set.inputs)
    if train_set.labels is None:
        return made.eval()
    some = train_set.subset(spread(len(train_set), LEARNED_FROM))
    return fine_tuned(made, some, epochs=EPOCHS, seed=seed).encoder


def drawable(encoder: nn.Module) -> Denoiser:
    """
    Raises:
        UsageError: the encoder does not draw.
    """
    if not isinstance(encoder, Denoiser):
        raise UsageError("only a denoiser draws pictures: this protocol judges runs of p2-weighting")
    return encoder


def draw(
    encoder: Denoiser,
    count: int,
    *,
    steps: int = 50,
    sampler: Sampler = "ddim",
    seed: int = 0,
    batch_size: int = 250,
    device: torch.device | str | None = None,
) -> Float[Tensor, "count chans side side"]:
    """Pictures in [0, 1] from noise.

    Args:
        encoder: what draws.
        count: pictures.
        steps: levels the way back goes through, evenly spaced; at most so many with `ddim`.
        sampler: `ddim`, or `ddpm` with about 250 steps and more.
        seed: of the noise.
        batch_size: pictures at once.
        device: where to draw.
    """
    total = len(encoder.betas)
    levels = strided_levels(total, steps) if sampler == "ddim" else spread_levels(total - 1, steps)
    side, found = encoder.image_size, []
    with frozen(encoder, device) as place:
        generator = torch.Generator(place).manual_seed(seed)
        for start in range(0, count, batch_size):
            shape = (min(batch_size, count - start), encoder.in_chans, side, side)
            noise = torch.randn(shape, generator=generator, device=place)
            drawn = reverse(encoder.predict, encoder.betas, noise, levels, generator, sampler)
            found.append((drawn / 2 + 0.5).cpu())
    return torch.cat(found)


def as_dataset(image: Float[Tensor, "count chans side side"], like: Dataset) -> Dataset:
    size = torch.tensor([image.shape[-2:]]).expand(len(image), -1)
    return Dataset(Memory({"image": image, "size": size}), "drawn", like.channels, like.image_size)


def samples(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    count: int = 2000,
    steps: int = 50,
    sampler: Sampler = "ddim",
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """Drawn pictures against as many test pictures: Fréchet distance, precision, recall.

    The detail of the distance names `real`: that of as many training pictures, which a perfect model would
    have. Precision is the share of drawn pictures among the real ones, recall that of real pictures among
    the drawn ones, both by `covered`.

    Args:
        encoder: a denoiser.
        train_set: what the judge learns from.
        test_set: real pictures to compare with.
        count: drawn pictures, at most as many as there are test pictures.
        steps: levels of the way back.
        sampler: `ddim` or `ddpm`.
        seed: of noise and judge.
        device: where to draw.

    Raises:
        UsageError: the encoder does not draw, or there are too few test pictures.
    """
    count = min(count, len(test_set), len(train_set))
    if count <= NEIGHBOUR + 1:
        raise UsageError(f"{count} pictures are too few to compare what is drawn with")
    judge = judge_of(train_set, seed)
    picture = draw(drawable(encoder), count, steps=steps, sampler=sampler, seed=seed, device=device)
    drawn = extract(judge, as_dataset(picture, train_set))[0]
    train, real = (extract(judge, part.subset(spread(len(part), count)))[0] for part in (train_set, test_set))
    judged = "a classifier of the training data" if train_set.labels is not None else "an untrained network"
    detail: dict[str, Any] = {
        "judge": judged,
        "steps": steps,
        "sampler": sampler,
        "real": frechet(train, real),
    }
    found = [Score("samples", "frechet", frechet(drawn, real), n=count, detail=detail)]
    for name, hits in (("precision", covered(drawn, real)), ("recall", covered(real, drawn))):
        items = hits.double()
        found.append(
            Score(
                "samples", name, float(items.mean()), *bootstrap_interval(items, seed=seed), count, {}, items
            )
        )
    return found
