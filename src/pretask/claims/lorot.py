"""LoRot: asking how a part was turned helps to learn classes and to reject what is none (Moon et al., 2022)."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="A classifier that is also asked how a part of the picture was turned learns features that tell "
    "classes better than one that is not.",
    arms={
        "implicit": Arm("lorot"),
        "explicit": Arm("lorot", {"where": "explicit"}),
        "classes alone": Arm("lorot", {"rotation_weight": 0.0}),
        "random": Arm("lorot", steps=0),
    },
    comparisons=(
        Comparison("linear", "implicit", "classes alone"),
        Comparison("linear", "explicit", "classes alone"),
        Comparison("linear", "implicit", "random"),
    ),
    encoder=SMALL_RESNET,
    steps=500,
)
