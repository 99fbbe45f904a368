"""Hiera: masked pretraining makes a bare hierarchical transformer learn (Ryali et al., ICML 2023)."""

from pretask.studies.claim import Arm, Claim, Comparison

CLAIM = Claim(
    statement="Rebuilding mask units that were left out teaches a bare hierarchical transformer features, and "
    "leaving out most of them is no worse than leaving out few.",
    arms={
        "hiera": Arm("hiera"),
        "few left out": Arm("hiera", {"mask_ratio": 0.2}),
        "random": Arm("hiera", steps=0),
    },
    comparisons=(
        Comparison("linear", "hiera", "random"),
        Comparison("linear", "hiera", "few left out", margin=-0.02),
    ),
    encoder="hiera_tiny_224:embed_dim=48",
    steps=600,
    batch_size=64,
    lr=1e-3,
)
