"""Instance discrimination: telling every picture from all others teaches what is alike (Wu et al., 2018)."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="Classifying pictures as one class each, without labels, teaches features in which pictures of one "
    "kind are near each other.",
    arms={
        "instdisc": Arm("instdisc"),
        "rotation": Arm("rotation"),
        "random": Arm("instdisc", steps=0),
    },
    comparisons=(
        Comparison("knn", "instdisc", "random"),
        Comparison("linear", "instdisc", "random"),
        Comparison("knn", "instdisc", "rotation"),
    ),
    encoder=SMALL_RESNET,
    steps=1000,
)
