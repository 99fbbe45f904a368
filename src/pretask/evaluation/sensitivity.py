"""To which changes of a picture are its features blind? One kind of change at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pretask.evaluation.features import frozen, to_device
from pretask.evaluation.score import Score, bootstrap_interval
from pretask.pretexts.views import ViewSpec, apply_view, draw_view

if TYPE_CHECKING:
    from pretask.data import Dataset

BATCH = 256


def kinds(size: int, channels: int) -> dict[str, ViewSpec]:
    """Each of SimCLR's and BYOL's changes by itself, always made, as strong as SimCLR makes it at strength 1."""
    whole = ViewSpec(size, scale=None)
    found = {
        "crop": replace(whole, scale=(0.08, 1.0)),
        "flip": replace(whole, flip=1.0),
        "brightness": replace(whole, jitter=1.0, brightness=0.8),
        "contrast": replace(whole, jitter=1.0, contrast=0.8),
        "saturation": replace(whole, jitter=1.0, saturation=0.8),
        "hue": replace(whole, jitter=1.0, hue=0.2),
        "grey": replace(whole, grey=1.0),
        "blur": replace(whole, blur=1.0),
        "solarise": replace(whole, solarise=1.0),
    }
    coloured = ("saturation", "hue", "grey")
    return {name: spec for name, spec in found.items() if channels == 3 or name not in coloured}


def moved(
    x: Float[Tensor, "images dim"], changed: Float[Tensor, "images views dim"]
) -> tuple[Float[Tensor, "images"], float]:
    """How far changing a picture moves its features: the mean squared distance of the views, all of length 1, over
    that of two different pictures. 0 is blind to the change, 1 takes the changed picture for another one. Also the
    mean cosine."""
    x, changed = F.normalize(x.double(), dim=1), F.normalize(changed.double(), dim=2)
    others = 2 - 2 * (len(x) * x.mean(0).square().sum() - 1) / (
        len(x) - 1
    )  # mean over pairs of different pictures
    cosine = (x[:, None] * changed).sum(2)
    return (2 - 2 * cosine).mean(1) / others.clamp(min=1e-12), float(cosine.mean())


def sensitivity(
    encoder: Any,
    train_set: Dataset,
    test_set: Dataset,
    *,
    images: int = 500,
    views: int = 4,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """How far each augmentation moves features, from `views` draws for each of `images` test pictures; nothing
    where the data are no pictures.

    Args:
        encoder: what is judged.
        train_set: not looked at.
        test_set: pictures.
        images: at most so many.
        views: changed pictures of each, and of each kind of change.
        seed: of the choice and the changes.
        device: where the encoder runs.
    """
    if test_set.modality != "image" or len(test_set) < 2 or not hasattr(encoder, "image_size"):
        return []
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(test_set), generator=generator)[:images]
    specs = kinds(encoder.image_size, encoder.in_chans)
    whole, found = ViewSpec(encoder.image_size, scale=None), dict[str, list[Tensor]]()
    with frozen(encoder, device) as place:
        for rows in chosen.split(BATCH):
            batch = to_device(test_set.batch(rows), place)
            size = batch["size"].cpu() if "size" in batch else None
            for name, spec in {"": whole, **specs}.items():
                seen = [
                    encoder(
                        apply_view(spec, batch["image"], draw_view(spec, len(rows), generator, size))
                    ).pooled
                    for _ in range(views if name else 1)
                ]
                found.setdefault(name, []).append(torch.stack(seen, dim=1).float().cpu())
    x, scores = torch.cat(found.pop(""))[:, 0], []
    for name, parts in found.items():
        items, cosine = moved(x, torch.cat(parts))
        ends = bootstrap_interval(items, seed=seed)
        detail = {"cosine": cosine, "views": views}
        scores.append(Score("sensitivity", name, float(items.mean()), *ends, len(items), detail, items))
    return scores
