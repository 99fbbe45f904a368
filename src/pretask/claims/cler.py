"""CLER: an equivariant pretext beside a stream of classes lessens forgetting, an invariant one does not
(Bonicelli et al., 2023)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pretask.encoders.heads import mlp
from pretask.encoders.image import ImageEncoder
from pretask.evaluation.features import pick_device, weights_hash
from pretask.evaluation.protocols import evaluate
from pretask.evaluation.sequence import TASKS, forgetting, learn_sequence
from pretask.methods.image.cler import CLER
from pretask.objectives.contrastive import nt_xent
from pretask.studies.bench import Bench
from pretask.studies.claim import Arm, Claim, Comparison, Trained
from pretask.task import Step

# a small network: rate and weights are those of the paper's commands for its small one (miniImageNet)
LR = 0.03
SHARED: dict[str, Any] = {"buffer_size": 200, "num_tasks": TASKS}


class WithContrast(CLER):
    """The same base with SimCLR's loss on two augmentations of the same pictures in the pretext's place."""

    def __init__(self, encoder: ImageEncoder):
        super().__init__(encoder, "none", **SHARED)
        self.projector = mlp(encoder.dim, 256, encoder.dim, batch_norm=True)
        self.weights = {"pretext": 1.0}

    def regularise(self, parts: list[Tensor], step: Step) -> Tensor:
        views = [torch.cat([self.augment(part, step) for part in parts]) for _ in range(2)]
        one, other = self.projector(self.encoder(torch.cat(views)).pooled).chunk(2)
        return nt_xent(one, other, temperature=0.5)


def learned(trained: Trained, bench: Bench) -> dict[str, Tensor | float]:
    """Each arm passes through the stream here, where it can be tested after each task. All arms of a seed
    start from the same encoder: from its weights comes the seed of the stream."""
    found: dict[str, Tensor | float] = {}
    if isinstance(trained.task, CLER):
        seed = int(weights_hash(trained.encoder)[:8], 16)
        trained.task.recipe = replace(trained.task.recipe, lr=LR)
        device = pick_device(trained.encoder, None)[1]
        with torch.enable_grad():
            sequence = learn_sequence(
                trained.task,
                bench.train,
                bench.test,
                batch_size=bench.claim.batch_size,
                seed=seed,
                device=device,
            )
        found = {"final accuracy": sequence.items, "forgetting": forgetting(sequence.results)}
    (score,) = evaluate(trained.encoder, bench.labelled, bench.test, ["linear"])
    assert score.items is not None
    return {**found, "linear": score.items}


CLAIM = Claim(
    statement="A classifier that learns classes one task after another in a single pass knows more of all of "
    "them in the end if it must also tell how its pictures were shuffled or turned; contrasting their views "
    "helps less.",
    arms={
        "rotation": Arm("cler", {"pretext": "rotation", "pretext_weight": 0.3, **SHARED}, steps=0),
        "jigsaw": Arm("cler", {"pretext_weight": 1.0, **SHARED}, steps=0),
        "all stages shared": Arm(
            "cler", {"pretext": "rotation", "pretext_weight": 0.3, "shared_stages": 4, **SHARED}, steps=0
        ),
        "contrast": Arm(WithContrast, steps=0),  # type: ignore[arg-type]
        "er-ace": Arm("cler", {"pretext": "none", **SHARED}, steps=0),
        "fine-tuned": Arm("cler", {"pretext": "none", "base": "finetune", "num_tasks": TASKS}, steps=0),
        "joint": Arm("cler", {"pretext": "none", "base": "finetune", "num_tasks": 1}, steps=0),
        "random": Arm(None),
    },
    comparisons=(
        Comparison("final accuracy", "rotation", "er-ace"),
        Comparison("final accuracy", "jigsaw", "er-ace"),
        Comparison("final accuracy", "rotation", "contrast"),
        Comparison("final accuracy", "er-ace", "fine-tuned"),
        Comparison("linear", "rotation", "er-ace"),
    ),
    metrics=(learned,),
    encoder="resnet10t:stem_width=16,channels=[16,32,64,128]",
    batch_size=10,
    labelled=2_000,
    seeds=3,
)
