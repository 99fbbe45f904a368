"""MaskFeat: gradient histograms are a better thing to tell of covered patches than pixels (Wei et al., 2022)."""

from pretask.studies.claim import Arm, Claim, Comparison

CLAIM = Claim(
    statement="Telling the histograms of gradients of covered patches teaches features, and no worse ones than "
    "telling their pixels.",
    arms={
        "maskfeat": Arm("maskfeat"),
        "pixels": Arm("simmim"),
        "random": Arm("maskfeat", steps=0),
    },
    comparisons=(
        Comparison("linear", "maskfeat", "random"),
        Comparison("linear", "maskfeat", "pixels", margin=-0.02),
    ),
    steps=300,
    batch_size=64,
    lr=1e-3,
)
