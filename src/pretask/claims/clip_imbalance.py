"""CLIP beyond the tail: few classes at a time, and heads of names (Wen et al., 2024).

Of a hundred classes the commonest has a hundred times as many pictures as the rarest, and twenty have none at all. In
place of a large text encoder's, a name's vector is made of one for its colour and one for its number.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretask.data.tailed import COLOURS, NAMES
from pretask.encoders.towers import SHARED, Towers
from pretask.evaluation.features import frozen, to_device
from pretask.evaluation.imbalance import by_class, confusion, spearman
from pretask.methods.multimodal.clip import CLIP
from pretask.methods.multimodal.clip_imbalance import ClipImbalance, named
from pretask.objectives.contrastive import unit
from pretask.studies.bench import Bench
from pretask.studies.claim import Arm, Claim, Comparison, Trained

TOWERS = (
    "image=resnet10t:stem_width=8,channels=[16,32,64,128];"
    "text=distilbert:dim=64,n_layers=2,n_heads=2,hidden_dim=128"
)
RATE = 0.05
CLASSES = len(NAMES)


class Structured(ClipImbalance):
    """Names that share a word are near each other."""

    def class_vectors(self, classes: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        drawn = F.normalize(torch.randn(2, len(COLOURS), SHARED // 2, generator=generator), dim=2)
        kind = torch.arange(classes)
        return torch.cat([drawn[0, kind // 10], drawn[1, kind % 10]], dim=1)


def structured(vocabulary: int | None) -> Arm:
    def make(encoder: Any) -> Structured:
        return Structured(encoder, vocabulary, head="text", names=",".join(NAMES))

    return Arm(make, lr=RATE)


def few(vocabulary: int | None) -> Arm:
    return Arm("clip-imbalance", {"vocabulary": vocabulary, "names": ",".join(NAMES)}, lr=RATE)


def measures(trained: Trained, bench: Bench) -> dict[str, Tensor | float]:
    """By the task's own classifier, or by what CLIP says of names: correlations with frequency, the mean accuracy of
    classes, and that of pictures whose class was only named."""
    task: Any = trained.task
    if not isinstance(trained.encoder, Towers) or not (isinstance(task, CLIP) or hasattr(task, "classifier")):
        return {}
    answers, labels = [], []
    with frozen(trained.encoder) as place:
        rows = task.classifier.weight if hasattr(task, "classifier") else named(trained.encoder, NAMES)
        for part in torch.arange(len(bench.test)).split(64):
            batch = to_device(bench.test.batch(part), place)
            features = trained.encoder.embed(batch, "image")
            answers.append((unit(features) @ unit(rows.to(place)).T).argmax(1).cpu())
            labels.append(batch["label"].cpu())
    answer, label = torch.cat(answers), torch.cat(labels)
    assert bench.train.labels is not None
    frequency = torch.bincount(bench.train.labels, minlength=CLASSES)
    accuracy, predicted = by_class(confusion(answer, label, CLASSES))
    tested = accuracy.isfinite()
    found: dict[str, Tensor | float] = {
        "frequency and accuracy": spearman(frequency[tested], accuracy[tested]),
        "frequency and predictions": spearman(frequency[tested], predicted[tested]),
    }
    found = {
        name: value if value == value else 0.0 for name, value in found.items()
    }  # no spread, no correlation
    unseen = frequency[label] == 0
    found["balanced accuracy"] = float(accuracy[tested].mean())
    right = (answer == label)[unseen].double()
    found["accuracy of what was only named"] = float(right.mean()) if len(right) else 0.0
    return found


CLAIM = Claim(
    statement="To ask a classifier of a step's own classes and a few others makes what it knows depend less on how "
    "common classes are, as it does in CLIP; classes without any picture are known only where the head is made of "
    "names.",
    arms={
        "all classes": few(None),
        "10 classes": few(10),
        "50 classes": few(50),
        "names": structured(None),
        "names, 10 classes": structured(10),
        "clip": Arm("clip"),
        "random": Arm("clip-imbalance", steps=0),
    },
    comparisons=(
        Comparison("frequency and accuracy", "10 classes", "all classes", "lower"),
        Comparison("frequency and accuracy", "clip", "all classes", "lower"),
        Comparison("frequency and predictions", "10 classes", "all classes", "lower"),
        Comparison("accuracy of what was only named", "names", "all classes"),
        Comparison("accuracy of what was only named", "names, 10 classes", "names"),
        Comparison("linear", "10 classes", "random"),
    ),
    metrics=("linear", measures),
    data="long-tailed-digits",
    fallback="long-tailed-digits",
    modality="captioned",
    reading={"tail": 20, "ceil": 0},
    encoder=TOWERS,
    steps=300,
    batch_size=64,
    train=10_000,
    labelled=5_000,
    test=2_000,
)
