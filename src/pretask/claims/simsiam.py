"""SimSiam: without the stopped gradient everything collapses (Chen, He, 2021)."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison

CLAIM = Claim(
    statement="Stopping the gradient is what keeps Siamese networks from collapsing; with it they learn features.",
    arms={
        "simsiam": Arm("simsiam"),
        "gradient not stopped": Arm("simsiam", {"stop_gradient": False}),
        "random": Arm("simsiam", steps=0),
    },
    comparisons=(
        Comparison("collapse std", "simsiam", "gradient not stopped"),
        Comparison("linear", "simsiam", "gradient not stopped"),
        Comparison("linear", "simsiam", "random"),
    ),
    metrics=("linear", "collapse"),
    encoder=SMALL_RESNET,
    steps=600,
)
