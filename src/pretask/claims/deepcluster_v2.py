"""DeepCluster-v2: clusters of what was learned are classes to learn from (Caron et al., 2020)."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="Classes found by clustering what the network says, again and again while it learns, teach features; "
    "those found in what an untrained network says teach less.",
    arms={
        "deepcluster-v2": Arm("deepcluster-v2"),
        "one crop size": Arm("deepcluster-v2", {"num_local": 0}),
        "rotation": Arm("rotation"),
        "random": Arm("deepcluster-v2", steps=0),
    },
    comparisons=(
        Comparison("linear", "deepcluster-v2", "random"),
        Comparison("knn", "deepcluster-v2", "random"),
        Comparison("linear", "deepcluster-v2", "rotation"),
        Comparison("linear", "deepcluster-v2", "one crop size"),
    ),
    encoder=SMALL_RESNET,
    steps=500,
)
