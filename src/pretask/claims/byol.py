"""BYOL: predicting a slow copy teaches without any negative (Grill et al., 2020)."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="Predicting what a slowly following copy says of another view teaches features without negatives.",
    arms={
        "byol": Arm("byol"),
        "a copy that keeps up": Arm("byol", {"momentum": 0.0}),
        "random": Arm("byol", steps=0),
    },
    comparisons=(
        Comparison("linear", "byol", "random"),
        Comparison("linear", "byol", "a copy that keeps up", margin=-0.02),
    ),
    metrics=("knn", "linear"),
    encoder=SMALL_RESNET,
    steps=400,
    seeds=5,
)
