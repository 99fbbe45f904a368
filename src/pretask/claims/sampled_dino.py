"""DINO with sampled prototypes: where classes are rare, few answers at a time help (Wen et al., 2024)."""

from typing import Any

from pretask.methods.image.sampled_dino import SampledDINO
from pretask.studies.claim import Arm, Claim, Comparison

MANY, FEW = 1024, 128


def dino(prototypes: int, sampled: int, steps: int | None = None) -> Arm:
    def make(encoder: Any) -> SampledDINO:
        return SampledDINO(encoder.tower("image"), prototypes, sampled, num_local=2)

    return Arm(make, steps=steps)


CLAIM = Claim(
    statement="On data with few common classes, comparing with a sample of many prototypes at each step teaches "
    "better features than comparing with all of them, or with all of few.",
    arms={
        "sampled": dino(MANY, FEW),
        "all": dino(MANY, MANY),
        "few": dino(FEW, FEW),
        "random": dino(MANY, FEW, steps=0),
    },
    comparisons=(
        Comparison("knn", "sampled", "all"),
        Comparison("knn", "sampled", "few"),
        Comparison("knn", "sampled", "random"),
    ),
    data="long-tailed-digits",
    fallback="long-tailed-digits",
    modality="captioned",
    encoder="image=resnet10t:stem_width=8,channels=[16,32,64,128]",
    steps=300,
    batch_size=64,
    train=10_000,
    labelled=5_000,
    test=2_000,
)
