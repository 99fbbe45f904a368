"""ColorMAE: clusters of one size are a better thing to hide than scattered patches (Hinojosa et al., 2024)."""

from pretask.studies.claim import Arm, Claim, Comparison

CLAIM = Claim(
    statement="Hiding what green noise hides teaches features that tell pasted pieces from their surroundings no "
    "worse than hiding scattered patches does, and better than hiding what red noise hides.",
    arms={
        "green": Arm("colormae"),
        "white": Arm("mae"),
        "red": Arm("colormae", {"colour": "red"}),
        "blue": Arm("colormae", {"colour": "blue"}),
        "random": Arm("mae", steps=0),
    },
    comparisons=(
        Comparison("pasted auroc", "green", "white", margin=-0.02),
        Comparison("pasted auroc", "green", "red"),
        Comparison("linear", "green", "random"),
    ),
    metrics=("linear", "pasted"),
    inputs={"patch_size": 2},
    steps=600,
    batch_size=64,
    lr=1e-3,
)
