"""iBOT: words for hidden patches on top of DINO (Zhou et al., 2022)."""

from pretask.studies.claim import Arm, Claim, Comparison

CLAIM = Claim(
    statement="Asking a slow teacher's words for hidden patches too teaches better features than asking them "
    "for whole crops alone (DINO); words for patches alone, without those for crops, teach little.",
    arms={
        "ibot": Arm("ibot"),
        "dino": Arm("dino"),
        "patches alone": Arm("ibot", {"cls_weight": 0.0}),
        "random": Arm("ibot", steps=0),
    },
    comparisons=(
        Comparison("knn", "ibot", "random"),
        Comparison("knn", "ibot", "dino"),
        Comparison("knn", "ibot", "patches alone"),
    ),
    steps=300,
    batch_size=32,
    lr=5e-4,
)
