"""W-MSE: whitening alone keeps views that agree from collapsing (Ermolov et al., 2021)."""

from typing import Any

from pretask.methods.image.w_mse import WMSE
from pretask.objectives.contrastive import unit
from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison
from pretask.task import Batch, Losses, Step


class Bare(WMSE):
    """Agreement without whitening."""

    def loss(self, batch: Batch, step: Step) -> Losses:
        first, second = (unit(part) for part in self.compared(self.views(batch, step)).chunk(2))
        return {"w_mse": (2 - 2 * (first * second).sum(1)).mean()}


def bare(encoder: Any) -> Bare:
    return Bare(encoder)


CLAIM = Claim(
    statement="Views that agree in whitened features teach features; without whitening they collapse.",
    arms={"w-mse": Arm("w-mse"), "not whitened": Arm(bare), "random": Arm("w-mse", steps=0)},
    comparisons=(
        Comparison("linear", "w-mse", "random"),
        Comparison("collapse std", "w-mse", "not whitened"),
        Comparison("linear", "w-mse", "not whitened"),
    ),
    metrics=("linear", "collapse"),
    encoder=SMALL_RESNET,
    steps=400,
    seeds=5,
)
