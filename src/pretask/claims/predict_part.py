"""A hidden part: regressing one half of a picture on the other (Lee et al., 2021), with a small network."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="An encoder that predicts the hidden half of a picture serves a linear head with few labels better "
    "than an untrained one and than pixels.",
    arms={
        "right half": Arm("predict-part"),
        "centre": Arm("predict-part", {"hidden": "centre"}),
        "every second column": Arm("predict-part", {"hidden": "columns"}),
        "random": Arm("predict-part", steps=0),
        "pixels": Arm(None, encoder="pixels"),
    },
    comparisons=(
        Comparison("linear", "right half", "random"),
        Comparison("linear", "right half", "pixels"),
        Comparison("linear", "right half", "every second column"),
    ),
    metrics=("knn", "linear"),
    encoder=SMALL_RESNET,
    labelled=500,
    steps=600,
)
