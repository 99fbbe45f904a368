"""SimMIM: large covered squares and the plainest of decoders suffice (Xie et al., CVPR 2022)."""

from pretask.studies.claim import Arm, Claim, Comparison

CLAIM = Claim(
    statement="Telling the pixels of covered squares by one linear layer teaches features, and squares larger than "
    "a patch are no worse to cover than single patches.",
    arms={
        "simmim": Arm("simmim"),
        "single patches": Arm("simmim", {"unit": 1}),
        "mae": Arm("mae"),
        "random": Arm("simmim", steps=0),
    },
    comparisons=(
        Comparison("linear", "simmim", "random"),
        Comparison("linear", "simmim", "single patches", margin=-0.02),
    ),
    steps=300,
    batch_size=64,
    lr=1e-3,
)
