"""Colorization: choosing among colours with rare ones weighed up gives vivid colours (Zhang et al., 2016)."""

import torch
from torch import Tensor

from pretask.methods.image.colorization import Colorization
from pretask.pretexts import colour
from pretask.studies.bench import Bench
from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison, Trained
from pretask.task import Step


def colours(trained: Trained, bench: Bench) -> dict[str, Tensor]:
    """Of each picture the chroma of its answer over the true one's, and the accuracy over rare colours."""
    task = trained.task
    if not isinstance(task, Colorization):
        return {}
    lab = task.crop(bench.test.batch(range(len(bench.test))), Step.at().generator)
    ab, _, which, coloured = task.targets(lab)
    logits = task.head(task.encoder(task.grey(lab)), tuple(ab.shape[-2:]))
    answer = colour.annealed_mean(logits, task.colours, task.temperature)
    chroma = [part.square().sum(1).sqrt().mean((1, 2)) for part in (answer, ab)]
    right = (logits.argmax(1) == which[:, 0]).float()
    counted = torch.bincount(which[:, 0].flatten(), minlength=len(task.colours)).float()
    rare = (len(which) / counted.clamp(min=1))[which[:, 0]]  # so that every colour weighs alike
    return {
        "chroma": chroma[0] / chroma[1].mean(),
        "balanced accuracy": (right * rare).sum((1, 2)) / rare.sum((1, 2)).mean(),
    }


CLAIM = Claim(
    statement="Choosing among colours with the rare ones weighed up gives more vivid colours than without "
    "weights and more colours right, and telling colours from grey pictures teaches features.",
    arms={
        "colorization": Arm("colorization"),
        "no weights": Arm("colorization", {"uniform_share": 1.0}),
        "random": Arm("colorization", steps=0),
    },
    comparisons=(
        Comparison("linear", "colorization", "random"),
        Comparison("chroma", "colorization", "no weights"),
        Comparison("balanced accuracy", "colorization", "no weights"),
    ),
    metrics=("knn", "linear", colours),
    encoder=SMALL_RESNET,
    steps=600,
)
