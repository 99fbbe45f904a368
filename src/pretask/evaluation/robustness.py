"""Does a probe that learned from clean pictures still know spoilt ones? (after Hendrycks, Dietterich, ICLR 2019)"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pretask.data.batch import to_float
from pretask.evaluation.features import extract, frozen, to_device
from pretask.evaluation.linear import fit_chosen
from pretask.evaluation.score import Score, bootstrap_interval, known_labels
from pretask.pretexts.photometric import contrast, gaussian_blur
from pretask.pretexts.views import centre_view

if TYPE_CHECKING:
    from pretask.data import Dataset

BATCH = 256
Spoil = Callable[[Float[Tensor, "batch chans h w"], torch.Generator], Float[Tensor, "batch chans h w"]]


def noisy(image: Tensor, generator: torch.Generator) -> Tensor:
    return (image + 0.1 * torch.randn(image.shape, generator=generator).to(image)).clamp(0, 1)


def salted(image: Tensor, generator: torch.Generator) -> Tensor:
    """A twentieth of the places turn black or white."""
    unit = torch.rand(len(image), 1, *image.shape[2:], generator=generator).to(image.device)
    return torch.where(unit < 0.05, (unit < 0.025).to(image), image)


def blurred(image: Tensor, generator: torch.Generator) -> Tensor:
    """By a fortieth of the side, 0.8 pixels of 32."""
    sigma = image.shape[-1] / 40
    return gaussian_blur(image, image.new_full((len(image),), sigma), max(1, round(3 * sigma)))


def coarse(image: Tensor, generator: torch.Generator) -> Tensor:
    """Half as many pixels a side."""
    return F.interpolate(F.avg_pool2d(image, 2, ceil_mode=True), image.shape[-2:])


def faint(image: Tensor, generator: torch.Generator) -> Tensor:
    return contrast(image.clone(), image.new_full((len(image), 1, 1, 1), 0.3))


def bright(image: Tensor, generator: torch.Generator) -> Tensor:
    return (image + 0.3).clamp(max=1)


def covered(image: Tensor, generator: torch.Generator) -> Tensor:
    """A grey square of half the side at a random place."""
    side = image.shape[-1]
    corner = (
        (torch.rand(len(image), 2, generator=generator) * (side - side // 2 + 1)).floor().to(image.device)
    )
    place = torch.arange(side, device=image.device)
    inside = [(place >= c[:, None]) & (place < c[:, None] + side // 2) for c in corner.T]
    return torch.where((inside[0][:, :, None] & inside[1][:, None])[:, None], 0.5, image)


SPOILT: dict[str, Spoil] = {
    "noise": noisy, "salt": salted, "blur": blurred, "pixels": coarse, "contrast": faint, "bright": bright,
    "cover": covered,
}  # fmt: skip


def robustness(
    encoder: Any,
    train_set: Dataset,
    test_set: Dataset,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """A linear probe of clean pictures, judged on test pictures under each of seven corruptions: `accuracy` is the
    mean, `kept` its share of the accuracy on clean ones. Nothing where the data are no pictures.

    Args:
        encoder: what is judged; it has not to have seen corruptions.
        train_set: clean pictures with labels.
        test_set: pictures with labels that are spoilt.
        seed: of the probe and the corruptions.
        device: where the encoder runs.

    Raises:
        UsageError: the data have no labels.
    """
    if test_set.modality != "image" or not hasattr(encoder, "image_size"):
        return []
    model = fit_chosen(known_labels(extract(encoder, train_set, device=device)), seed=seed).model
    clean, truth = known_labels(extract(encoder, test_set, device=device))
    rows = torch.arange(len(test_set))
    if test_set.labels is not None:
        rows = (test_set.labels >= 0).nonzero().flatten()
    whole, right = (model(clean)[0].argmax(1) == truth).double(), {}
    with frozen(encoder, device) as place:
        for name, spoil in SPOILT.items():
            generator, found = torch.Generator().manual_seed(seed), []
            for part in rows.split(BATCH):
                batch = to_device(test_set.batch(part), place)
                image = centre_view(to_float(batch["image"]), batch.get("size"), encoder.image_size)
                found.append(encoder(spoil(image, generator)).pooled.float().cpu())
            right[name] = (model(torch.cat(found))[0].argmax(1) == truth).double()
    items = torch.stack(list(right.values())).mean(0)
    detail = {"clean": float(whole.mean()), **{name: float(part.mean()) for name, part in right.items()}}
    kept = float(items.mean() / whole.mean().clamp(min=1e-12))
    ends = bootstrap_interval(items, seed=seed)
    return [
        Score("robustness", "accuracy", float(items.mean()), *ends, len(items), detail, items),
        Score("robustness", "kept", kept, n=len(items), detail=detail),
    ]
