"""Hiera of videos: rebuilding units that were left out teaches what moves and how (Ryali et al., ICML 2023)."""

from pretask.studies.claim import Arm, Claim, Comparison

CLAIM = Claim(
    statement="Rebuilding mask units of videos that were left out teaches a bare hierarchical transformer features, "
    "and leaving out nine tenths of them is no worse than the six tenths of pictures.",
    arms={
        "hiera-video": Arm("hiera-video"),
        "six tenths left out": Arm("hiera-video", {"mask_ratio": 0.6}),
        "random": Arm("hiera-video", steps=0),
    },
    comparisons=(
        Comparison("linear", "hiera-video", "random"),
        Comparison("linear", "hiera-video", "six tenths left out", margin=-0.02),
    ),
    data="moving-digits",
    fallback="moving-digits",
    modality="video",
    reading={"frames": 8, "stride": 6, "hop": 48, "image_size": 32},
    encoder="hiera_tiny:embed_dim=48,q_pool=2,frames=8",
    steps=300,
    batch_size=32,
)
