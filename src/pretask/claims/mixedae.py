"""MixedAE: mixing alone makes rebuilding easy; attending to one's own kind makes it teach (Chen et al., 2023)."""

from pretask.studies.claim import Arm, Claim, Comparison

PLAIN = {"homologous": False, "contrast_weight": 0.0, "segments": False}

CLAIM = Claim(
    statement="Taking mixed pictures apart teaches features where tokens attend to their own kind, better ones "
    "than naive mixing and no worse ones than masking.",
    arms={
        "mixedae": Arm("mixedae"),
        "naive mixing": Arm("mixedae", PLAIN),
        "mae": Arm("mae"),
        "random": Arm("mae", steps=0),
    },
    comparisons=(
        Comparison("linear", "mixedae", "random"),
        Comparison("linear", "mixedae", "naive mixing"),
        Comparison("linear", "mixedae", "mae", margin=-0.02),
    ),
    steps=600,
    batch_size=64,
    lr=1e-3,
)
