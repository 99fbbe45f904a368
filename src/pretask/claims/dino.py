"""DINO: a student that sees a part says what a teacher says of the whole (Caron et al., 2021)."""

from pretask.studies.claim import Arm, Claim, Comparison

CLAIM = Claim(
    statement="Saying of small crops what a slow copy says of large ones teaches features; the small crops "
    "matter, and without centring the answers collapse.",
    arms={
        "dino": Arm("dino"),
        "large crops alone": Arm("dino", {"num_local": 0}),
        "no centring": Arm("dino", {"centre_momentum": 1.0}),
        "random": Arm("dino", steps=0),
    },
    comparisons=(
        Comparison("knn", "dino", "random"),
        Comparison("knn", "dino", "large crops alone"),
        Comparison("knn", "dino", "no centring"),
    ),
    steps=300,
    batch_size=32,
    lr=5e-4,
)
