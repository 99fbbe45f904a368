"""Relative location: to place a patch one must know what it shows (Doersch et al., 2015)."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="Placing patches around the middle one teaches features.",
    arms={
        "relative-location": Arm("relative-location"),
        "rotation": Arm("rotation"),
        "random": Arm("relative-location", steps=0),
    },
    comparisons=(Comparison("linear", "relative-location", "random"),),
    reading={"image_size": 48},
    encoder=SMALL_RESNET,
    steps=400,
    batch_size=64,
)
