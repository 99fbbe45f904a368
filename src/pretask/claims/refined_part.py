"""A hidden part refined by labels (Teng and Huang, 2021): many labels for the refinement, few, or none."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="A target refined by many labels serves a linear head better than the hidden part itself, one "
    "refined by few does not.",
    arms={
        "many labels": Arm("refined-part", {"labelled": 5000}),
        "few labels": Arm("refined-part", {"labelled": 20}),
        "no refinement": Arm("predict-part"),
        "random": Arm("predict-part", steps=0),
    },
    comparisons=(
        Comparison("linear", "many labels", "no refinement"),
        Comparison("linear", "many labels", "few labels"),
        Comparison("linear", "few labels", "no refinement", claimed="lower", margin=0.02),
        Comparison("linear", "many labels", "random"),
    ),
    metrics=("knn", "linear"),
    encoder=SMALL_RESNET,
    labelled=500,
    steps=600,
)
