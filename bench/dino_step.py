"""A training step of DINO (ViT-Ti/16, two crops of 224 and eight of 96 pixels, 65536 prototypes) beside lightly's
example. Both are given crops that are ready."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.harness import Row, against, alternate, find, same
from pretask import Step, build_encoder, build_task


@dataclass(frozen=True)
class Sizes:
    side: int = 224
    small: int = 96
    patch: int = 16
    batch: int = 4
    local: int = 8
    depth: int = 12
    prototypes: int = 65536

    def crops(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        sides = [self.side] * 2 + [self.small] * self.local
        return [torch.rand(self.batch, 3, side, side, generator=generator) for side in sides]


TOY = Sizes(32, 16, 8, 2, 2, 1, 64)


def our_task(sizes: Sizes) -> Any:
    name = f"vit_tiny_patch16_224:depth={sizes.depth}"
    encoder = build_encoder(name, image_size=sizes.side, patch_size=sizes.patch, seed=0)
    options = {
        "num_local": sizes.local, "local_size": sizes.small, "prototypes": sizes.prototypes, "drop_path": 0.0,
        "hidden_dim": 2048, "bottleneck_dim": 256, "unit_prototypes": True,
    }  # fmt: skip
    return build_task("dino", encoder, options)


def ours(sizes: Sizes, crops: list[Tensor]) -> Callable[[], None]:
    """Forward, backward, clipping, AdamW, teacher and centre."""
    task = our_task(sizes).train()
    task.views = lambda batch, step: crops
    optimiser = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=1e-5)
    steps = iter(range(10**9))

    def run() -> None:
        step = Step.at(next(steps), 10**6, 1)
        total = task.total(task({}, step))
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        task.after_backward(step)
        optimiser.step()
        task.after_step(step)

    return run


class Network(nn.Module):
    """lightly's example: a timm transformer and its head."""

    def __init__(self, sizes: Sizes):
        from lightly.models.modules import DINOProjectionHead
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        self.model = VisionTransformer(
            sizes.side, sizes.patch, embed_dim=192, depth=sizes.depth, num_heads=3, num_classes=0,
            dynamic_img_size=True,
        )  # fmt: skip
        self.head = DINOProjectionHead(192, 2048, 256, sizes.prototypes)

    def forward(self, crops: list[Tensor]) -> list[Tensor]:
        """Crops of one size together."""
        return list(self.head(self.model(torch.cat(crops))).split(len(crops[0])))


def lightly(sizes: Sizes, crops: list[Tensor]) -> Callable[[], Callable[[], None]]:
    def make() -> Callable[[], None]:
        from lightly.loss import DINOLoss
        from lightly.models.utils import update_momentum

        student = Network(sizes).train()
        teacher, criterion = Network(sizes).requires_grad_(False), DINOLoss(sizes.prototypes)
        teacher.load_state_dict(student.state_dict())
        optimiser = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-5)

        def run() -> None:
            with torch.no_grad():
                truth = teacher(crops[:2])
            loss = criterion(truth, student(crops[:2]) + student(crops[2:]), epoch=0)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 3.0)
            optimiser.step()
            update_momentum(student.model, teacher.model, 0.996)
            update_momentum(student.head, teacher.head, 0.996)

        return run

    return make


def agreement(sizes: Sizes, crops: list[Tensor]) -> str:
    """That lightly's network and loss give our loss for our weights; for a row's note."""
    from lightly.loss import DINOLoss

    task, network = our_task(sizes).eval(), Network(sizes).eval()
    task.views = lambda batch, step: crops
    network.model.load_state_dict(task.encoder.model.state_dict())
    with torch.no_grad():
        mine = [*task.head.mlp.parameters(), task.head.last_layer.weight_v]
        theirs = [
            p
            for name, p in network.head.named_parameters()
            if "original0" not in name and "weight_g" not in name
        ]
        for given, taken in zip(mine, theirs, strict=True):
            taken.copy_(given)
        shown = [task.encoder.normalise(crop) for crop in crops]
        said = network(shown[:2])
        loss = DINOLoss(sizes.prototypes)(said, said + network(shown[2:]), epoch=0)
        own = task.loss({}, Step.at())["cls"]
    return same(float(own), {"lightly": float(loss)}, 1e-4)


def measure(toy: bool = False) -> list[Row]:
    sizes = TOY if toy else Sizes()
    crops = sizes.crops()
    found, missing = find({"lightly": lightly(sizes, crops)})
    agreed = agreement(TOY, TOY.crops()) if found else ""
    taken = alternate({"ours": ours(sizes, crops), **found}, 1 if toy else 3, 0.0 if toy else 1.0, 1)
    note = "; ".join(filter(None, (agreed, missing)))
    return [against("DINO step, ViT-Ti/16, 2 + 8 crops, batch 4", taken, {}, 0.9, note)]
