"""MoCo v3: contrast without a queue teaches vision transformers too (Chen, Xie, He, 2021)."""

from pretask.studies.claim import SMALL_VIT, Arm, Claim, Comparison

CLAIM = Claim(
    statement="Contrasting the views of a batch, with a predictor and a slow copy, teaches a vision transformer; its "
    "projection of patches need not be learned for it.",
    arms={
        "moco-v3": Arm("moco-v3"),
        "patches learned": Arm("moco-v3", {"freeze_patches": False}),
        "a copy that keeps up": Arm("moco-v3", {"momentum": 0.0}),
        "random": Arm("moco-v3", steps=0),
    },
    comparisons=(
        Comparison("linear", "moco-v3", "random"),
        Comparison("linear", "moco-v3", "patches learned", margin=-0.01),
        Comparison("linear", "moco-v3", "a copy that keeps up"),
    ),
    encoder=SMALL_VIT,
    steps=300,
    batch_size=64,
    lr=5e-4,
)
