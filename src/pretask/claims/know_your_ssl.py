"""Know your SSL: discriminative methods lead frozen, generative ones catch up tuned (Ozbulak et al., 2023)."""

from torch import Tensor

from pretask.evaluation.finetune import finetune
from pretask.methods.image.simclr import SimCLR
from pretask.studies.bench import Bench
from pretask.studies.claim import SMALL_VIT, Arm, Claim, Comparison, Trained
from pretask.studies.surveys.know_your_ssl import weak, whole


def tuned(trained: Trained, bench: Bench) -> dict[str, Tensor | float]:
    """Fine-tuned for a few passes."""
    (score,) = finetune(trained.encoder, bench.labelled, bench.test, epochs=5)
    assert score.items is not None
    return {"finetune": score.items}


CLAIM = Claim(
    statement="On one transformer, a discriminative method is ahead of a generative one as long as features stay as "
    "they are; both beat chance; and only the discriminative one lives by strong augmentation.",
    arms={
        "simclr": Arm("simclr"),
        "mae": Arm("mae", steps=400),  # one view of a picture a step
        "rotation": Arm("rotation", steps=100),  # four
        "simclr, weak": Arm(weak(SimCLR)),
        "mae, none": Arm(whole, steps=400),
        "random": Arm("simclr", steps=0),
    },
    comparisons=(
        Comparison("linear", "simclr", "mae"),
        Comparison("knn", "simclr", "mae"),
        Comparison("linear", "mae", "random"),
        Comparison("linear", "rotation", "random"),
        Comparison("linear", "simclr", "simclr, weak"),
        Comparison("linear", "mae, none", "mae", margin=-0.05),
        Comparison("finetune", "mae", "simclr", margin=-0.02),
    ),
    metrics=("knn", "linear", tuned),
    encoder=SMALL_VIT,
    inputs={"patch_size": 4},
    steps=200,
    labelled=2_000,
    test=1_000,
    seeds=2,
)
