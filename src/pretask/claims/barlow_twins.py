"""Barlow Twins: features that repeat each other must be told apart (Zbontar et al., 2021)."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="Cross-correlations brought to the identity teach features, and the weight on different "
    "features matters.",
    arms={
        "barlow": Arm("barlow-twins"),
        "agreement alone": Arm("barlow-twins", {"redundancy_weight": 0.0}),
        "random": Arm("barlow-twins", steps=0),
    },
    comparisons=(
        Comparison("linear", "barlow", "random"),
        Comparison("linear", "barlow", "agreement alone"),
    ),
    metrics=("knn", "linear"),
    encoder=SMALL_RESNET,
    steps=400,
    seeds=5,
)
