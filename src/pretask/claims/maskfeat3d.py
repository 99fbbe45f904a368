"""MaskFeat3D: better to predict how the surface lies at hidden points than where they are (Yan et al., 2024).

Everyday objects, each scanned sixteen times in random poses about the vertical, with noise and from other
points: which object is it? The places of hidden points are given to MaskFeat3D's decoder, so asking for them
would be trivial; the arm that recovers positions is Point-MAE, with Point-MAE's own decoder.
"""

from pretask.studies.claim import Arm, Claim, Comparison

OPTIONS = {"decoder_depth": 2, "num_points": 512}
ASKED = {**OPTIONS, "up": "z", "query_share": 0.8422}  # 256 of the 304 points of 19 hidden patches
SMALL_CLOUDS = "point_vit_tiny:embed_dim=96,depth=4,num_heads=3,groups=32,group_size=16"

CLAIM = Claim(
    statement="Predicting normals and curvature at the places of hidden points teaches features that tell "
    "shapes apart better than recovering where the hidden points are.",
    arms={
        "maskfeat3d": Arm("maskfeat3d", ASKED),
        "normals only": Arm("maskfeat3d", {**ASKED, "targets": "normal"}),
        "variation only": Arm("maskfeat3d", {**ASKED, "targets": "variation"}),
        "positions (Point-MAE)": Arm("point-mae", OPTIONS),
        "random": Arm("maskfeat3d", ASKED, steps=0),
        "raw": Arm(None, encoder="raw"),
    },
    comparisons=(
        Comparison("linear", "maskfeat3d", "positions (Point-MAE)"),
        Comparison("linear", "maskfeat3d", "random"),
        Comparison("linear", "maskfeat3d", "normals only", margin=-0.02),
        Comparison("surface normals", "maskfeat3d", "positions (Point-MAE)"),
    ),
    metrics=("linear", "fewshot", "surface"),
    data="object_shapes",
    fallback="solids",
    modality="points",
    reading={"points": 512, "scans": 16, "turn": "z", "noise": 0.01, "limit": 1600},
    encoder=SMALL_CLOUDS,
    steps=120,
    batch_size=32,
)
