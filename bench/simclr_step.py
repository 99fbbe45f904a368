"""A training step of SimCLR (ResNet-18 with a 3x3 stem, 32 pixels, batch 256) beside the peers'.

Ours draws and cuts its views from bytes inside the step; the peers are given views that are ready.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.harness import Row, against, alternate, find, same
from bench.pictures import cuts, tensors
from pretask import Step, build_encoder, build_task
from pretask.objectives.contrastive import nt_xent


def training(module: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A step: forward, backward, stochastic gradient descent."""
    optimiser = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        value = loss()
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()

    return step


def our_task() -> Any:
    return build_task("simclr", build_encoder("resnet18", image_size=32, seed=0), {"temperature": 0.5})


class Example(nn.Module):
    """lightly's example with the stem for small pictures."""

    def __init__(self) -> None:
        from lightly.models.modules.heads import SimCLRProjectionHead
        from torchvision.models import resnet18

        super().__init__()
        backbone = resnet18()
        backbone.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        backbone.maxpool = nn.Identity()
        self.backbone = nn.Sequential(*list(backbone.children())[:-1])
        self.head = SimCLRProjectionHead(512, 512, 128)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).flatten(1))


def agreement(views: list[Tensor]) -> str:
    """That lightly's example gives our loss for our weights and the same views; for a row's note."""
    from lightly.loss import NTXentLoss

    task, model = our_task().eval(), Example().eval()
    mine = dict(task.encoder.model.named_parameters())
    with torch.no_grad():
        for ours, theirs in zip(mine.values(), model.backbone.parameters(), strict=True):
            theirs.copy_(ours)
        task.projector[0].bias.zero_()  # batch normalisation takes it away again
        weights = [p for name, p in task.projector.named_parameters() if name != "0.bias"]
        for ours, theirs in zip(weights, model.head.parameters(), strict=True):
            theirs.copy_(ours)
        loss = nt_xent(*(task.compared(view) for view in views), 0.5)
        theirs = NTXentLoss(0.5)(*(model(task.encoder.normalise(view)) for view in views))
    return same(float(loss), {"lightly": float(theirs)}, 1e-4)


def views_of(batch: int) -> list[Tensor]:
    return [torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(2)]


def makers(toy: bool) -> dict[str, Callable[[], Callable[[], None]]]:
    """What makes a step of ours and of every peer."""
    batch = 4 if toy else 256
    views = views_of(batch)

    def ours() -> Callable[[], None]:
        task, counter = our_task().train(), iter(range(10**9))
        pictures = {"image": tensors(cuts(batch, 32, 32))}
        return training(task, lambda: task.total(task(pictures, Step.at(next(counter)))))

    def lightly() -> Callable[[], None]:
        from lightly.loss import NTXentLoss

        model, criterion = Example().train(), NTXentLoss(0.5)
        return training(model, lambda: criterion(model(views[0]), model(views[1])))

    def stable_pretraining() -> Callable[[], None]:
        from stable_pretraining.methods import SimCLR

        model = SimCLR("resnet18", (512, 512, 128), low_resolution=True).train()
        return training(model, lambda: model(views[0], views[1]).loss)

    return {"ours": ours, "lightly": lightly, "stable-pretraining": stable_pretraining}


def measure(toy: bool = False) -> list[Row]:
    runs, missing = find(makers(toy))
    note = agreement(views_of(8)) if "lightly" in runs else ""
    taken = alternate(runs, 1 if toy else 3, 0.0, 0 if toy else 1)
    note = "; ".join(filter(None, (note, missing)))
    return [against("SimCLR step, ResNet-18, 32 px, batch 256", taken, {}, 0.75, note)]
