"""data2vec: what a slow copy makes of the whole picture is worth telling (Baevski et al., ICML 2022)."""

from pretask.studies.claim import Arm, Claim, Comparison

SHORT = {"momentum": 0.99}  # the paper's 0.9998 leaves a teacher as it began in so few steps

CLAIM = Claim(
    statement="Telling what a slow copy of the network, which sees the whole picture, makes of covered patches "
    "teaches features, and the mean of all blocks is no worse a target than the last block's output.",
    arms={
        "data2vec": Arm("data2vec", SHORT),
        "the last block alone": Arm("data2vec", {**SHORT, "target_layers": 1}),
        "feed-forward parts": Arm("data2vec", {**SHORT, "target": "feed-forward"}),
        "random": Arm("data2vec", steps=0),
    },
    comparisons=(
        Comparison("linear", "data2vec", "random"),
        Comparison("linear", "data2vec", "the last block alone", margin=-0.02),
    ),
    steps=300,
    batch_size=64,
    lr=1e-3,
)
