"""PIRL: saying the same of a picture and of its shuffled patches teaches (Misra, van der Maaten, 2020)."""

import torch
from torch import Tensor

from pretask.methods.image.pirl import PIRL
from pretask.studies.bench import Bench
from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison, Trained
from pretask.task import Step


def invariance(trained: Trained, bench: Bench) -> dict[str, Tensor]:
    """Cosine of a picture with its own shuffled patches, less that with another picture's."""
    task = trained.task
    if not isinstance(task, PIRL) or not task.transforms:
        return {}
    batch = bench.test.batch(range(len(bench.test)))
    image, shuffled = (task.embed(name, batch, Step.at()) for name in ("image", task.transforms[0]))
    own, other = (image * shuffled).sum(1), (image * shuffled.roll(1, 0)).sum(1)
    return {"invariance": torch.sub(own, other)}


CLAIM = Claim(
    statement="A picture and its shuffled patches contrasted with all other pictures teach better features "
    "than the pictures alone (instance discrimination), and make the encoding indifferent to the shuffling.",
    arms={
        "pirl": Arm("pirl"),
        "pictures alone": Arm("pirl", {"transform_weight": 0.0}),
        "rotation": Arm("rotation"),
        "random": Arm("pirl", steps=0),
    },
    comparisons=(
        Comparison("linear", "pirl", "random"),
        Comparison("linear", "pirl", "pictures alone"),
        Comparison("invariance", "pirl", "random"),
    ),
    metrics=("knn", "linear", invariance),
    encoder=SMALL_RESNET,
    steps=600,
)
