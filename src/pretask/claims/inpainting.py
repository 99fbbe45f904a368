"""Context encoders: painting what was cut out teaches features (Pathak et al., 2016)."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="Painting what was cut out of a picture teaches features, random regions more than the middle square; "
    "the critic makes what is painted sharper, and the features no worse.",
    arms={
        "inpainting": Arm("inpainting"),
        "middle": Arm("inpainting", {"region": "middle"}),
        "no critic": Arm("inpainting", {"adversarial_weight": 0.0}),
        "random": Arm("inpainting", steps=0),
    },
    comparisons=(
        Comparison("linear", "inpainting", "random"),
        Comparison("linear", "inpainting", "middle"),
        Comparison("linear", "inpainting", "no critic", margin=-0.02),
    ),
    metrics=("linear",),
    encoder=SMALL_RESNET,
    steps=500,
)
