"""Fine-tuning: the whole encoder is trained further on labels."""

from __future__ import annotations

import copy
from dataclasses import replace
from math import cos, pi
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretask.encoders.features import Features
from pretask.encoders.image import PatchEncoder
from pretask.errors import UsageError
from pretask.evaluation.features import Pool, extract, pick_device, pooled, to_device
from pretask.evaluation.score import Score, accuracy_score
from pretask.evaluation.splits import rank_in_class
from pretask.pretexts.views import ViewSpec, apply_view, draw_view
from pretask.task import Batch, Step

if TYPE_CHECKING:
    from pretask.data import Dataset

WARMUP = 0.1


def groups(
    encoder: nn.Module, head: nn.Module, lr: float, weight_decay: float, layer_decay: float
) -> list[dict]:
    """Parameters with their rates: each layer's is `layer_decay` times that of the layer above it (BEiT). The head is
    the layer above the last, and so is a final norm.

    Biases, one-dimensional parameters and what the model names itself (class token, positions) are not decayed.
    """
    from timm.optim import param_groups_layer_decay

    inner: Any = getattr(encoder, "model", encoder)
    made = []
    if hasattr(inner, "group_matcher"):
        exempt = inner.no_weight_decay() if hasattr(inner, "no_weight_decay") else ()
        found = param_groups_layer_decay(inner, weight_decay, exempt, layer_decay=layer_decay)
        final = {p for name, p in inner.named_parameters() if name.startswith(("norm.", "fc_norm."))}
        top = {p for group in found if group["lr_scale"] == 1 for p in group["params"]}
        above = 1 if top <= final else layer_decay  # the head is the layer above the last
        for group in found:
            scale = group.pop("lr_scale") * above
            parts = [[p for p in group["params"] if (p in final) == ends] for ends in (False, True)]
            made += [
                {**group, "params": part, "lr": lr * own}
                for part, own in zip(parts, (scale, 1), strict=True)
                if part
            ]
    else:
        for decay, flat in ((weight_decay, False), (0.0, True)):
            chosen = [p for p in inner.parameters() if p.requires_grad and (p.ndim <= 1) == flat]
            made += [{"params": chosen, "weight_decay": decay, "lr": lr}] if chosen else []
    return [
        *made,
        {"params": [head.weight], "weight_decay": weight_decay, "lr": lr},
        {"params": [head.bias], "weight_decay": 0.0, "lr": lr},
    ]


def rate(step: int, total: int) -> float:
    """Share of the peak rate: linear warm-up from 0, then a cosine to 0."""
    warm = round(WARMUP * total)
    return step / warm if step < warm else 0.5 * (1 + cos(pi * (step - warm) / max(1, total - warm)))


def labelled(dataset: Dataset) -> Dataset:
    """Without the samples whose label is unknown (negative).

    Raises:
        UsageError: there are no labels.
    """
    if dataset.labels is None:
        raise UsageError("fine-tuning needs labels")
    known = (dataset.labels >= 0).nonzero().flatten()
    return dataset if len(known) == len(dataset) else dataset.subset(known)


def encoded(
    encoder: Any, batch: Batch, modality: str, spec: ViewSpec, generator: torch.Generator
) -> Features:
    """Of pictures a view is encoded, of other data the sample as it is read."""
    if modality != "image":
        return encoder.encode(batch)
    image = batch["image"]
    return encoder(apply_view(spec, image, draw_view(spec, len(image), generator, batch.get("size"))))


def average(encoder: nn.Module) -> bool:
    """Have a vision transformer average its patches and normalise the mean by a new layer, in place of its final
    norm: MAE's fine-tuning. Whether it is one that ends in such a norm."""
    model: Any = getattr(encoder, "model", None)
    if not isinstance(encoder, PatchEncoder) or not isinstance(model.norm, nn.LayerNorm):
        return False
    model.fc_norm, model.norm = nn.LayerNorm(encoder.dim, eps=model.norm.eps), nn.Identity()
    model.global_pool = "avg"
    return True


def silent(width: int, classes: int) -> nn.Linear:
    """A linear layer that begins by saying nothing."""
    head: nn.Linear = nn.utils.skip_init(nn.Linear, width, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """One step, its gradient's norm cut at 1."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


class Tuned(NamedTuple):
    """An encoder trained further on labels, the linear layer it was trained with, how, and the way of pooling that is
    left to whoever asks the encoder."""

    encoder: nn.Module
    head: nn.Linear
    detail: dict[str, Any]
    pool: Pool | None = None


def fine_tuned(
    encoder: nn.Module,
    train_set: Dataset,
    *,
    epochs: int = 20,
    batch_size: int = 128,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    layer_decay: float = 0.75,
    label_smoothing: float = 0.1,
    crop_scale: tuple[float, float] = (0.5, 1.0),
    flip: float = 0.0,
    pool: Pool | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Tuned:
    """Train a copy of the encoder and a linear head on labels, in a small form of MAE's and BEiT's recipe: pictures
    are not mixed or partly erased, no path is dropped, gradients are cut at norm 1 and the head begins at zero.

    Args:
        encoder: where to start; it is not changed.
        train_set: pictures and labels to learn from.
        epochs: passes over the training set.
        batch_size: samples a step.
        lr: peak rate of the head.
        weight_decay: AdamW's.
        layer_decay: a layer's rate is this times that of the layer above.
        label_smoothing: of the cross-entropy.
        crop_scale: area of the random crop.
        flip: probability of mirroring; off, for it hurts where left and right matter.
        pool: `token`, `avg` or `token+avg`; None takes what the encoder gives. With `avg` a vision transformer gets a
            new norm behind the mean in place of its final one, as MAE's does.
        seed: of batches, crops and dropout.
        device: where to train, and where the encoder is then.

    Raises:
        UsageError: the data have no labels.
    """
    from pretask.data.loader import batches, steps_per_epoch

    train_set = labelled(train_set)
    classes = int(train_set.labels.max()) + 1  # type: ignore[union-attr]  # `labelled` has seen them
    width = extract(encoder, train_set.subset(torch.arange(1)), pool=pool)[0].shape[1]
    place = pick_device(encoder, device)[1]
    encoder, asked = copy.deepcopy(encoder), pool
    if pool == "avg" and average(encoder):
        pool = None  # it is what the encoder gives now
    encoder, head = encoder.to(place), silent(width, classes).to(place)
    optimizer = torch.optim.AdamW(groups(encoder, head, lr, weight_decay, layer_decay))
    batch_size = min(batch_size, len(train_set), getattr(encoder, "at_once", None) or batch_size)
    total = epochs * steps_per_epoch(train_set, batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, total))
    spec = ViewSpec(getattr(encoder, "image_size", 1), scale=crop_scale, flip=flip)
    encoder.train()
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)  # of dropout
        for index, batch in enumerate(batches(train_set, batch_size, seed=seed, stop=total)):
            generator = Step.at(index, total, seed=seed, device=place).generator
            features = encoded(encoder, to_device(batch, place), train_set.modality, spec, generator)
            logits = head(pooled(features, pool))
            loss = F.cross_entropy(logits, batch["label"].to(place), label_smoothing=label_smoothing)
            descend(loss, optimizer, [*encoder.parameters(), *head.parameters()])
            schedule.step()
    detail = {"epochs": epochs, "steps": total, "batch_size": batch_size, "lr": lr, "pool": asked}
    return Tuned(encoder.eval(), head.requires_grad_(False).cpu(), detail, pool)


def finetune(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    pool: Pool | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    **settings: Any,
) -> list[Score]:
    """Train a copy of the encoder and a linear head on labels, then judge it once.

    Args:
        encoder: where to start; it is not changed.
        train_set: pictures and labels to learn from.
        test_set: what is judged.
        pool: `token`, `avg` or `token+avg`; None takes what the encoder gives.
        seed: of batches, crops and dropout.
        device: where to train.
        settings: further ones of `fine_tuned`.

    Raises:
        UsageError: the data have no labels.
    """
    test_set = labelled(test_set)
    tuned = fine_tuned(encoder, train_set, pool=pool, seed=seed, device=device, **settings)
    x, truth = extract(tuned.encoder, test_set, pool=tuned.pool)
    assert truth is not None
    answers = tuned.head(x).argmax(1)
    return [accuracy_score("finetune", "accuracy", answers, truth, seed, **tuned.detail)]


def lowshot(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    shares: tuple[float, ...] = (0.01, 0.1),
    seed: int = 0,
    device: torch.device | str | None = None,
    **settings: Any,
) -> list[Score]:
    """Fine-tuning on a small share of the labels, the same of every class and at least one.

    Args:
        encoder: where to start; it is not changed.
        train_set: pictures and labels that the few are drawn from.
        test_set: what is judged.
        shares: of each class.
        seed: of the draw, batches, crops and dropout.
        device: where to train.
        settings: further ones of `fine_tuned`.

    Raises:
        UsageError: the data have no labels.
    """
    train_set, scores = labelled(train_set), []
    assert train_set.labels is not None  # `labelled` has seen them
    count = torch.bincount(train_set.labels)
    for share in shares:
        wanted = (share * count).round().clamp(min=1)[train_set.labels]
        rows = (rank_in_class(train_set.labels, seed) < wanted).nonzero().flatten()
        (found,) = finetune(encoder, train_set.subset(rows), test_set, seed=seed, device=device, **settings)
        detail = {**found.detail, "labels": len(rows)}
        name = f"accuracy@{100 * share:g}%"
        scores.append(replace(found, protocol="lowshot", metric=name, detail=detail))
    return scores
