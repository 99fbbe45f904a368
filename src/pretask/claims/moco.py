"""MoCo v2: a queue of keys from a slow copy (Chen et al., 2020)."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="Contrast with a queue of keys from a slow copy teaches features, no worse than contrast "
    "within the batch.",
    arms={
        "moco": Arm("moco"),
        "simclr": Arm("simclr"),
        "random": Arm("moco", steps=0),
    },
    comparisons=(
        Comparison("linear", "moco", "random"),
        Comparison("linear", "moco", "simclr", margin=-0.02),
    ),
    metrics=("knn", "linear"),
    encoder=SMALL_RESNET,
    steps=400,
    seeds=5,
)
