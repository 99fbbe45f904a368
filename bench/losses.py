"""Losses, forward and backward: seconds, and the memory of the tensors a call makes.

Each is first shown to give the peers' value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.harness import Row, against, alternate, find, peak_memory, same
from pretask.objectives.contrastive import info_nce, multi_positive, nt_xent
from pretask.objectives.decorrelation import barlow_twins, covariance, variance_hinge
from pretask.objectives.distillation import sharpen, view_loss
from pretask.objectives.sinkhorn import sinkhorn

Loss = Callable[[], Tensor]


class Case(NamedTuple):
    """One loss in its forms.

    Args:
        ours: forward.
        peers: makers of the peers' forward.
        learning: what gets a gradient.
        target: of the times' ratio.
    """

    ours: Loss
    peers: dict[str, Callable[[], Loss]]
    learning: list[Tensor]
    target: float


def normal(*shape: int, seed: int = 0, learns: bool = True) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_(learns)


def contrast(batch: int, dim: int) -> Case:
    """SimCLR's loss."""
    a, b = normal(batch, dim), normal(batch, dim, seed=1)

    def lightly() -> Loss:
        from lightly.loss import NTXentLoss

        criterion = NTXentLoss(0.5)
        return lambda: criterion(a, b)

    def stable_pretraining() -> Loss:
        from stable_pretraining.losses import NTXEntLoss

        criterion = NTXEntLoss(0.5)
        return lambda: criterion(a, b)

    def reference() -> Loss:
        def loss() -> Tensor:
            z = F.normalize(torch.cat([a, b]), dim=1)
            logits = (z @ z.T / 0.5).fill_diagonal_(-torch.inf)
            return F.cross_entropy(logits, torch.arange(2 * batch).roll(batch))

        return loss

    peers = {"lightly": lightly, "stable-pretraining": stable_pretraining, "five lines of torch": reference}
    return Case(lambda: nt_xent(a, b, 0.5), peers, [a, b], 0.6)


def queue(batch: int, dim: int, size: int) -> Case:
    """MoCo's loss."""
    query, key = normal(batch, dim), normal(batch, dim, seed=1, learns=False)
    rows = F.normalize(normal(size, dim, seed=2, learns=False), dim=1)

    def lightly() -> Loss:
        from lightly.loss import NTXentLoss

        criterion = NTXentLoss(0.1, memory_bank_size=(size, dim))
        criterion.memory_bank.bank = rows.clone()  # its keys enter after the first call
        return lambda: criterion(query, key)

    return Case(lambda: info_nce(query, key, rows, 0.1), {"lightly": lightly}, [query], 0.6)


def groups(rows: int, dim: int, classes: int) -> Case:
    """Contrast with several positives."""
    x = normal(rows, dim)
    group = torch.arange(rows) % classes

    def reference() -> Loss:
        def loss() -> Tensor:
            z = F.normalize(x, dim=1)
            own = torch.eye(rows, dtype=torch.bool)
            positive = (group[:, None] == group) & ~own
            log_p = (z @ z.T / 0.1).masked_fill(own, -torch.inf).log_softmax(1)
            return -(log_p.masked_fill(~positive, 0).sum(1) / positive.sum(1)).mean()

        return loss

    peers = {"a few lines of torch": reference}
    return Case(lambda: multi_positive(x, group, 0.1), peers, [x], 1.0)


def distillation(batch: int, classes: int, views: int) -> Case:
    """DINO's loss, the teacher's sharpening included."""
    student = normal(views * batch, classes)
    teacher = normal(2 * batch, classes, seed=1, learns=False)
    centre = torch.zeros(classes)

    def lightly() -> Loss:
        from lightly.loss import DINOLoss

        criterion = DINOLoss(classes)
        parts = list(teacher.split(batch))

        def loss() -> Tensor:
            criterion.center.zero_()
            return criterion(parts, list(student.split(batch)))

        return loss

    return Case(
        lambda: view_loss(student, sharpen(teacher, centre, 0.04), batch),
        {"lightly": lightly},
        [student],
        0.9,
    )


def redundancy(batch: int, dim: int) -> Case:
    """Barlow Twins."""
    a, b = normal(batch, dim), normal(batch, dim, seed=1)

    def lightly() -> Loss:
        from lightly.loss import BarlowTwinsLoss

        criterion = BarlowTwinsLoss()
        return lambda: criterion(a, b)

    return Case(lambda: barlow_twins(a, b), {"lightly": lightly}, [a, b], 0.6)


def variance(batch: int, dim: int) -> Case:
    """VICReg."""
    a, b = normal(batch, dim), normal(batch, dim, seed=1)

    def lightly() -> Loss:
        from lightly.loss import VICRegLoss

        criterion = VICRegLoss()
        return lambda: criterion(a, b)

    def ours() -> Tensor:
        spread = (variance_hinge(a) + variance_hinge(b)) / 2
        return 25 * F.mse_loss(a, b) + 25 * spread + covariance(a) + covariance(b)

    return Case(ours, {"lightly": lightly}, [a, b], 0.6)


def swapping(batch: int, prototypes: int, views: int) -> Case:
    """SwAV, the codes included."""
    scores = (0.3 * normal(views * batch, prototypes, learns=False)).requires_grad_()

    def lightly() -> Loss:
        from lightly.loss import SwaVLoss

        criterion = SwaVLoss()

        def loss() -> Tensor:
            parts = list(scores.split(batch))
            return criterion(parts[:2], parts[2:]).squeeze()

        return loss

    def ours() -> Tensor:
        codes = [sinkhorn(part.detach()) for part in scores.split(batch)[:2]]
        return view_loss(scores, torch.cat(codes), batch, 0.1)

    return Case(ours, {"lightly": lightly}, [scores], 0.9)


def cases(toy: bool) -> dict[str, Case]:
    if toy:
        return {
            "NT-Xent": contrast(16, 8), "queue": queue(8, 8, 32), "several positives": groups(32, 8, 4),
            "DINO": distillation(4, 64, 4), "Barlow Twins": redundancy(8, 16), "VICReg": variance(8, 16),
            "SwAV": swapping(4, 16, 4),
        }  # fmt: skip
    return {
        "NT-Xent, 1024 x 128": contrast(1024, 128),
        "InfoNCE with a queue, 256 x 128 against 65536": queue(256, 128, 65536),
        "several positives, 2048 x 128 in 256 groups": groups(2048, 128, 256),
        "DINO, 10 views of 16, 65536 prototypes": distillation(16, 65536, 10),
        "Barlow Twins, 256 x 8192": redundancy(256, 8192),
        "VICReg, 256 x 8192": variance(256, 8192),
        "SwAV, 8 views of 64, 3000 prototypes": swapping(64, 3000, 8),
    }


def backward(loss: Loss, learning: list[Tensor]) -> Callable[[], None]:
    def run() -> None:
        torch.autograd.grad(loss(), learning)

    return run


def measure(toy: bool = False) -> list[Row]:
    rounds, least = (1, 0.0) if toy else (5, 0.3)
    rows = []
    for name, case in cases(toy).items():
        found, missing = find(case.peers)
        agreed = same(
            float(case.ours().detach()), {peer: float(loss().detach()) for peer, loss in found.items()}
        )
        runs = {key: backward(loss, case.learning) for key, loss in {"ours": case.ours, **found}.items()}
        note = "; ".join(filter(None, (agreed, missing)))
        rows.append(against(f"{name}: time", alternate(runs, rounds, least, 1), {}, case.target, note))
        memory = {key: [float(peak_memory(run))] for key, run in runs.items()}
        rows.append(against(f"{name}: memory", memory, {}, case.target, missing, "bytes"))
    return rows
