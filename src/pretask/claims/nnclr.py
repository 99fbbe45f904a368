"""NNCLR: neighbours are better positives than views alone (Dwibedi et al., 2021)."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="Taking the nearest neighbour for a positive teaches features no worse than taking the other view.",
    arms={
        "nnclr": Arm("nnclr"),
        "simclr": Arm("simclr"),
        "random": Arm("nnclr", steps=0),
    },
    comparisons=(
        Comparison("linear", "nnclr", "random"),
        Comparison("linear", "nnclr", "simclr", margin=-0.02),
    ),
    metrics=("knn", "linear"),
    encoder=SMALL_RESNET,
    steps=400,
    seeds=5,
)
