"""Point-MAE: rebuilding the points of hidden patches teaches what a shape is (Pang et al., 2022)."""

from pretask.claims.maskfeat3d import OPTIONS, SMALL_CLOUDS
from pretask.studies.claim import Arm, Claim, Comparison

CLAIM = Claim(
    statement="Rebuilding most of a cloud from the rest teaches features that tell shapes apart; a small "
    "share hidden teaches less.",
    arms={
        "point-mae": Arm("point-mae", OPTIONS),
        "a fifth hidden": Arm("point-mae", {**OPTIONS, "mask_ratio": 0.2}),
        "random": Arm("point-mae", OPTIONS, steps=0),
        "raw": Arm(None, encoder="raw"),
    },
    comparisons=(
        Comparison("linear", "point-mae", "random"),
        Comparison("linear", "point-mae", "a fifth hidden"),
    ),
    metrics=("knn", "linear"),
    data="object_shapes",
    fallback="solids",
    modality="points",
    reading={"points": 512, "scans": 16, "turn": "z", "noise": 0.01, "limit": 1600},
    encoder=SMALL_CLOUDS,
    steps=120,
    batch_size=32,
)
