"""A linear probe at every block: does quality fall towards the last layer? (Kolesnikov, Zhai, Beyer, CVPR 2019)"""

from __future__ import annotations

from math import ceil, sqrt
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.errors import UsageError
from pretask.evaluation.features import frozen, to_device
from pretask.evaluation.linear import linear
from pretask.evaluation.score import Score

if TYPE_CHECKING:
    from pretask.data import Dataset

LIMIT = 9000  # features of a tap: the paper's
BATCH = 128


def blocks(encoder: Any) -> list[nn.Module]:
    """The stages of a convolutional network, the blocks of a transformer.

    Raises:
        UsageError: its network is not made of such.
    """
    model = encoder.model
    for name in ("stages", "blocks", "layers"):
        found = getattr(model, name, None)
        if isinstance(found, (nn.Sequential, nn.ModuleList)) and len(found):
            return list(found)
    found = [getattr(model, f"layer{number}") for number in range(1, 9) if hasattr(model, f"layer{number}")]
    if not found:
        raise UsageError(f"'{encoder.name}' has no stages or blocks that could be judged by themselves")
    return found


def as_map(x: Tensor, features: Any) -> Float[Tensor, "batch chans rows columns"]:
    """A block's output as a map; tokens are laid out as the encoder's are, class tokens left out."""
    if x.ndim == 4:
        return x
    if features.grid == () or x.shape[1] < features.tokens.shape[1]:
        raise UsageError("the blocks of this network give neither maps nor one token a place")
    return x[:, -features.tokens.shape[1] :].transpose(1, 2).unflatten(2, features.grid)


def capped(
    maps: Float[Tensor, "batch chans rows columns"], limit: int, pool: Literal["plain", "adaptive"] = "plain"
) -> Float[Tensor, "batch values"]:
    """Maps as vectors; larger ones than `limit` are max-pooled first.

    `plain` takes kernel and stride ceil(sqrt(values / limit)), and a border that does not fill it is left out;
    `adaptive` the side whose square times the channels comes closest to `limit`, of two as close the larger.
    """
    values, chans, side = maps[0].numel(), maps.shape[1], min(maps.shape[-2:])
    if values > limit and pool == "plain":
        kernel = min(ceil(sqrt(values / limit)), side)
        maps = F.max_pool2d(maps, kernel, kernel)
    elif values > limit:
        best = min(range(1, side + 1), key=lambda one: (abs(one * one * chans - limit), -one))
        maps = F.adaptive_max_pool2d(maps, best)
    return maps.flatten(1)


def taps(
    encoder: Any,
    dataset: Dataset,
    limit: int,
    pool: Literal["plain", "adaptive"],
    device: torch.device | str | None,
) -> list[Float[Tensor, "items values"]]:
    """What every block gives, and behind these the encoder's own features."""
    heard: dict[int, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _, __, out, number=number: heard.__setitem__(number, out))
        for number, block in enumerate(blocks(encoder))
    ]
    found: list[list[Tensor]] = [[] for _ in range(len(hooks) + 1)]
    try:
        with frozen(encoder, device) as place:
            for rows in torch.arange(len(dataset)).split(BATCH):
                features = encoder.encode(to_device(dataset.batch(rows), place))
                for number, parts in enumerate(found[:-1]):
                    values = capped(as_map(heard[number], features), limit, pool).float().cpu()
                    # several where a picture is seen in patches
                    parts.append(values.unflatten(0, (len(rows), -1)).mean(1))
                found[-1].append(features.pooled.float().cpu())
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(parts) for parts in found]


def layers(
    encoder: Any,
    train_set: Dataset,
    test_set: Dataset,
    *,
    limit: int = LIMIT,
    pool: Literal["plain", "adaptive"] = "plain",
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """A linear probe on the output of each block (`accuracy@1`, ...), and on the encoder's own features
    (`accuracy@last`).

    Args:
        encoder: what is judged.
        train_set: pictures and labels to learn from.
        test_set: what is judged.
        limit: maps with more values are max-pooled.
        pool: see `capped`.
        seed: of the probes.
        device: where the encoder runs.

    Raises:
        UsageError: the network is not made of blocks, or the data have no labels.
    """
    y, truth = train_set.labels, test_set.labels
    if y is None or truth is None:
        raise UsageError("a probe at every block needs labels")
    known, asked = (taps(encoder, part, limit, pool, device) for part in (train_set, test_set))
    names = [*(str(number + 1) for number in range(len(known) - 1)), "last"]
    scores = []
    for name, x, z in zip(names, known, asked, strict=True):
        (s,) = linear((x, y), (z, truth), seed=seed)
        detail = {**s.detail, "values": x.shape[1]}
        scores.append(Score("layers", f"accuracy@{name}", s.value, s.low, s.high, s.n, detail, s.items))
    return scores
