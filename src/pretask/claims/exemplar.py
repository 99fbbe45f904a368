"""Exemplar: what is the same picture in many copies teaches (Dosovitskiy et al., 2016)."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="Bringing changed copies of a picture together teaches features.",
    arms={
        "exemplar": Arm("exemplar"),
        "two copies": Arm("exemplar", {"copies": 2}),
        "random": Arm("exemplar", steps=0),
    },
    comparisons=(
        Comparison("linear", "exemplar", "random"),
        Comparison("linear", "exemplar", "two copies", margin=-0.02),
    ),
    encoder=SMALL_RESNET,
    steps=300,
    batch_size=32,
)
