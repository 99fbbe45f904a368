"""Rotation: to know which way is up, one must know what is seen (Gidaris et al., 2018)."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="Telling by which right angle a picture was turned teaches features of what is seen.",
    arms={"rotation": Arm("rotation"), "random": Arm("rotation", steps=0)},
    comparisons=(Comparison("linear", "rotation", "random"),),
    encoder=SMALL_RESNET,
)
