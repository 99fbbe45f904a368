"""FlexPredict: asking for uncertain places teaches more than asking for certain ones (Bar et al., 2024)."""

from pretask.studies.claim import Arm, Claim, Comparison

CLAIM = Claim(
    statement="Predicting features at noisy positions teaches features, better ones than predicting them at "
    "certain positions.",
    arms={
        "stochastic": Arm("flexpredict"),
        "certain": Arm("flexpredict", {"query": "token"}),
        "positions alone": Arm("flexpredict", {"query": "alone"}),
        "random": Arm("flexpredict", steps=0),
    },
    comparisons=(
        Comparison("linear", "stochastic", "random"),
        Comparison("linear", "stochastic", "certain"),
    ),
    encoder="vit_tiny_patch16_224:depth=4,embed_dim=128,num_heads=4,class_token=false,global_pool=avg,fc_norm=false",
    steps=600,
    batch_size=64,
    lr=1e-3,
)
