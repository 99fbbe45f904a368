"""MOOD: who learned to fill in what is hidden knows one class from all others (Li et al., CVPR 2023)."""

from pretask.studies.claim import SMALL_VIT, Arm, Claim, Comparison

SCORE = "one-class auroc one-gaussian"

CLAIM = Claim(
    statement="By the distance from one Gaussian of what is known, features of masked image modelling tell one "
    "class from each other one better than those of contrast, of rotation or of an untrained network.",
    arms={
        "mood": Arm("mood"),
        "simclr": Arm("simclr", lr="auto"),
        "rotation": Arm("rotation", lr="auto"),
        "random": Arm("mood", steps=0),
    },
    comparisons=(
        Comparison(SCORE, "mood", "random"),
        Comparison(SCORE, "mood", "simclr"),
        Comparison(SCORE, "mood", "rotation"),
    ),
    metrics=("one-class",),
    encoder=SMALL_VIT + ",global_pool=avg",
    steps=300,
    batch_size=64,
    lr=1e-3,
)
