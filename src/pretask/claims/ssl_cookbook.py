"""A cookbook: encoders know more than their projectors, and what keeps features apart is needed (Balestriero et al.,
2023)."""

import torch
from torch import Tensor

from pretask.evaluation.protocols import evaluate
from pretask.studies.bench import Bench
from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison, Trained
from pretask.studies.surveys.measures import behind


def lost(trained: Trained, bench: Bench) -> dict[str, Tensor | float]:
    """By how much the encoder's features are ahead of the projector's output, for classes and for colours."""
    (score,) = evaluate(trained.encoder, bench.labelled, bench.test, ["linear"])
    assert score.items is not None
    found = {name: torch.as_tensor(value) for name, value in behind(trained, bench).items()}
    return {
        "lost, classes": score.items - found["accuracy, projector"],
        "lost, colours": found["colour, encoder"] - found["colour, projector"],
    }


CLAIM = Claim(
    statement="The encoder knows more of classes and of colours than its projector; without a stopped gradient, or "
    "without the variance term, features collapse.",
    arms={
        "simclr": Arm("simclr"),
        "vicreg": Arm("vicreg"),
        "simsiam": Arm("simsiam"),
        "vicreg, no variance": Arm("vicreg", {"variance_weight": 0.0}),
        "simsiam, gradient not stopped": Arm("simsiam", {"stop_gradient": False}),
        "random": Arm("simclr", steps=0),
    },
    comparisons=(
        Comparison("lost, classes", "simclr"),
        Comparison("lost, colours", "simclr"),
        Comparison("lost, classes", "vicreg"),
        Comparison("lost, colours", "vicreg"),
        Comparison("collapse std", "simsiam, gradient not stopped", "simsiam", "lower"),
        Comparison("collapse std", "vicreg, no variance", "vicreg", "lower"),
        Comparison("rankme rank", "vicreg, no variance", "vicreg", "lower"),
    ),
    metrics=("linear", "collapse", "rankme", lost),
    encoder=SMALL_RESNET,
    steps=300,
    seeds=2,
)
