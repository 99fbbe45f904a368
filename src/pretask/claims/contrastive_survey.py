"""Contrastive survey: every way to negatives beats puzzles and chance (Jaiswal et al., 2021)."""

from pretask.studies.claim import SMALL_RESNET, Arm, Claim, Comparison
from pretask.studies.surveys.contrastive import moco_v1, simclr

CLAIM = Claim(
    statement="Telling views of one picture from those of others teaches more than a puzzle on a single picture; "
    "heads and colours matter; without negatives something else must prevent collapse.",
    arms={
        "simclr": Arm("simclr"),
        "moco": Arm("moco"),
        "simsiam": Arm("simsiam"),
        "moco v1": Arm(moco_v1),
        "simclr, no colours changed": Arm(simclr(jitter=0.0, grey=0.0)),
        "simsiam, gradient not stopped": Arm("simsiam", {"stop_gradient": False}),
        "jigsaw": Arm(
            "jigsaw", steps=67
        ),  # nine patches, each as large as a picture: as many as 300 steps of two views
        "random": Arm("simclr", steps=0),
    },
    comparisons=(
        Comparison("linear", "simclr", "random"),
        Comparison("linear", "moco", "random"),
        Comparison("linear", "simclr", "jigsaw"),
        Comparison("linear", "moco", "moco v1"),
        Comparison("linear", "simclr", "simclr, no colours changed"),
        Comparison("collapse std", "simsiam, gradient not stopped", "simsiam", "lower"),
    ),
    metrics=("knn", "linear", "collapse"),
    encoder=SMALL_RESNET,
    steps=300,
    seeds=2,
)
