"""CPC: predicting which patches lie below teaches features (van den Oord et al., 2018; Henaff et al., 2020)."""

from pretask.studies.claim import Arm, Claim, Comparison

CLAIM = Claim(
    statement="Telling from the rows above which patch lies below teaches features; where the patches share pixels "
    "with what is seen, or batch normalisation gives them away, it teaches less.",
    arms={
        "cpc": Arm("cpc"),
        "shared pixels": Arm("cpc", {"nearest": 1, "steps": 1}),
        "batch norm": Arm("cpc", encoder="resnet10t:stem_width=16,channels=[32,64,128,256]"),
        "random": Arm("cpc", steps=0),
    },
    comparisons=(
        Comparison("linear", "cpc", "random"),
        Comparison("linear", "cpc", "shared pixels"),
        Comparison("linear", "cpc", "batch norm"),
    ),
    metrics=("linear",),
    encoder="resnet10t:stem_width=16,channels=[32,64,128,256],norm_layer=groupnorm1",
    steps=300,
    batch_size=32,
)
