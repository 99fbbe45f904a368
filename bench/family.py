"""A training step of every method of the masked family beside MAE's: ViT-Ti/16 (or the network the method needs),
224 pixels, each with its own defaults, and how many times MAE's operations it counts."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from bench.harness import Row, alternate, spread
from bench.mae_step import operations, training
from bench.pictures import cuts, tensors
from pretask import Step, build_encoder, build_task
from pretask.catalogue.masked import ROWS

BARE = "class_token=false,global_pool=avg,fc_norm=false"


def name_of(slug: str, needs: str, toy: bool) -> str:
    """The encoder of a method, of one block where only a run is to be shown."""
    if needs in ("crate", "hiera"):
        kind = "vit_crate_tiny_patch16_224" if needs == "crate" else "hiera_tiny_224"
        small = "depth=1" if needs == "crate" else "embed_dim=16,stages=[1,1,1],q_pool=1"
        return f"{kind}:{small}" if toy else kind
    parts = ["depth=1" if toy else "depth=12", *([BARE] if needs == "bare" else [])]
    return f"vit_tiny_patch16_224:{','.join(parts)}"


def maker(slug: str, needs: str, toy: bool) -> Callable[[], None]:
    side, count = (32 if toy else 224), 4
    encoder = build_encoder(name_of(slug, needs, toy), image_size=side, seed=0)
    task: Any = build_task(slug, encoder, {}).train()
    canvas = round(side * 9 / 7 / 4) * 4

    def pictures(count: int) -> dict[str, torch.Tensor]:
        image, size = tensors(cuts(count, canvas, canvas)), torch.tensor([[375, 500]] * count)
        return {"image": image, "size": size, "index": torch.arange(count)}

    batch = pictures(count)
    task.prepare([pictures(64)], 64)  # enough patches for a codebook
    steps = iter(range(10**9))

    def loss() -> torch.Tensor:
        step = Step.at(next(steps), 10**6, 10**3)
        return task.total(task(batch, step))

    return training(task, loss)


def measure(toy: bool = False) -> list[Row]:
    runs = {row.slug: maker(row.slug, row.needs, toy) for row in ROWS}
    counted = {slug: operations(run) for slug, run in runs.items()}
    taken = alternate(runs, 1 if toy else 3, 0.0, 1)
    base = statistics.median(taken["mae"])
    return [
        Row(
            f"{slug} step, 224 px, batch 4", statistics.median(values), base, "our MAE", "",
            statistics.median(values) / base, spread=(spread(values), spread(taken["mae"])),
            note=f"{counted[slug] / counted['mae']:.2f} times MAE's operations",
        )
        for slug, values in taken.items()
        if slug != "mae"
    ]  # fmt: skip
