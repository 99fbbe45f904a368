"""SwAV: small crops help, and cost little (Caron et al., 2020)."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="Swapping prototype assignments between views teaches features, and small crops that only "
    "predict add to them.",
    arms={
        "swav": Arm("swav"),
        "large crops alone": Arm("swav", {"num_local": 0}),
        "random": Arm("swav", steps=0),
    },
    comparisons=(
        Comparison("linear", "swav", "random"),
        Comparison("linear", "swav", "large crops alone"),
    ),
    metrics=("knn", "linear"),
    encoder=SMALL_RESNET,
    steps=400,
    seeds=5,
)
