"""VALOR: what was trained for all groups of kinds of data serves each of them (Liu et al., 2024).

Made-up films: a digit moves, an instrument plays along, a caption says both. What is seen and what is heard have
something in common and something of their own.
"""

from pretask.studies.claim import Arm, Claim, Comparison

SIZE = "width=64,depth=2,heads=2,text_width=64,text_depth=2,embed=64,frames=4,slices=1,slice=128"
SEEN, HEARD, BOTH = (f"audiovisual t-{group} recall@1" for group in ("v", "a", "va"))


RATE = 5e-4  # for fresh weights; the paper starts from published ones


def arm(tasks: str) -> Arm:
    return Arm("valor", {"tasks": tasks})


CLAIM = Claim(
    statement="Training contrast and captions with all groups of kinds of data finds films by what is seen, heard, "
    "and both; training for both together alone loses where one is missing.",
    arms={
        "all groups": arm("contra%tva%tv%ta_caption%tva%tv%ta"),
        "both alone": arm("contra%tva_caption%tva"),
        "each alone": arm("contra%tv%ta_caption%tv%ta"),
        "contrast only": arm("contra%tva%tv%ta"),
        "captions only": arm("caption%tva%tv%ta"),
        "coarse": Arm("valor", encoder=f"valor:{SIZE},compare=coarse"),
        "random": Arm("valor", steps=0),
    },
    comparisons=(
        Comparison(SEEN, "all groups", "both alone"),
        Comparison(HEARD, "all groups", "both alone"),
        Comparison(BOTH, "all groups", "both alone", margin=-0.05),
        Comparison(BOTH, "all groups", "each alone"),
        Comparison(BOTH, "all groups", "coarse"),
        Comparison("captions words va", "all groups", "contrast only"),
        Comparison(BOTH, "all groups", "random"),
    ),
    metrics=("audiovisual", "captions"),
    data="sounding-digits",
    fallback="sounding-digits",
    modality="film",
    reading={"frames": 4, "max_length": 12},
    encoder=f"valor:{SIZE}",
    steps=400,
    batch_size=16,
    lr=RATE,
    train=2000,
    test=400,
)
