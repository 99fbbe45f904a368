"""JigClu: grouping the pieces of montages teaches more than placing them alone (Chen et al., CVPR 2021)."""

from pretask.studies.claim import Arm, Claim, Comparison

CLAIM = Claim(
    statement="Grouping the pieces of montages by picture and saying where they were teaches features, better ones "
    "than saying where they were alone.",
    arms={
        "jigclu": Arm("jigclu"),
        "grouping alone": Arm("jigclu", {"location_weight": 0.0}),
        "rotation": Arm("rotation"),
        "random": Arm("jigclu", steps=0),
    },
    comparisons=(
        Comparison("linear", "jigclu", "random"),
        Comparison("linear", "jigclu", "grouping alone", margin=-0.02),
        Comparison("linear", "jigclu", "rotation"),
    ),
    encoder="resnet18:layers=[1,1,1,1],channels=[16,32,64,128]",
    steps=600,
)
