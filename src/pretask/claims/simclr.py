"""SimCLR: contrast teaches, and it needs strong colour distortion beside crops (Chen et al., 2020)."""

from dataclasses import replace
from typing import Any

from pretask.methods.image.simclr import SimCLR
from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison


def without_colour(encoder: Any) -> SimCLR:
    task = SimCLR(encoder)
    task.first = task.second = replace(task.first, jitter=0.0, grey=0.0)
    return task


CLAIM = Claim(
    statement="Telling apart whose crops belong together teaches features, and distorting their colours "
    "matters: without it colours alone give the answer.",
    arms={
        "simclr": Arm("simclr"),
        "crops only": Arm(without_colour),
        "rotation": Arm("rotation"),
        "random": Arm("simclr", steps=0),
    },
    comparisons=(
        Comparison("linear", "simclr", "random"),
        Comparison("linear", "simclr", "crops only"),
        Comparison("linear", "simclr", "rotation"),
    ),
    encoder=SMALL_RESNET,
)
