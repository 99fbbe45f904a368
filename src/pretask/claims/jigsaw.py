"""Jigsaw: to put patches in order one must know what they show (Noroozi, Favaro, 2016)."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="Putting patches in order teaches features, and a few permutations teach less than a hundred.",
    arms={
        "jigsaw": Arm("jigsaw"),
        "ten permutations": Arm("jigsaw", {"permutations": 10}),
        "rotation": Arm("rotation"),
        "random": Arm("jigsaw", steps=0),
    },
    comparisons=(
        Comparison("linear", "jigsaw", "random"),
        Comparison("linear", "jigsaw", "ten permutations"),
    ),
    reading={"image_size": 48},
    encoder=SMALL_RESNET,
    steps=400,
    batch_size=64,
)
