"""VICReg: variance keeps features from collapsing (Bardes et al., 2022)."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="Invariance, variance and covariance together teach features; without the variance term they collapse.",
    arms={
        "vicreg": Arm("vicreg"),
        "no variance": Arm("vicreg", {"variance_weight": 0.0}),
        "random": Arm("vicreg", steps=0),
    },
    comparisons=(
        Comparison("linear", "vicreg", "random"),
        Comparison("collapse std", "vicreg", "no variance"),
        Comparison("linear", "vicreg", "no variance"),
    ),
    metrics=("linear", "collapse"),
    encoder=SMALL_RESNET,
    steps=400,
)
