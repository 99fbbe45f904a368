"""ScatSimCLR: where pictures are few, wavelets that need no learning spare parameters (Kinakh et al., 2021)."""

import torch

from pretask.studies.bench import Bench
from pretask.studies.claim import Arm, Claim, Comparison, Trained

SCAT = "scatnet8:angles=4,stem=32,stacks=[[64,2]]"
CONV = (
    "resnet10t:stem_width=8,channels=[16,32,48,80]"  # as many learned parameters as SCAT has, and a few more
)


def learned(trained: Trained, bench: Bench) -> dict[str, float]:
    """Parameters of the encoder that are learned, in thousands."""
    found = sum(torch.numel(p) for p in trained.encoder.parameters() if p.requires_grad)
    return {"thousands of parameters": found / 1000}


PLAIN = {"pretext": "none"}
CLAIM = Claim(
    statement="Contrast on wavelet scattering with a small adapter learns no worse features than a convolutional "
    "network of as many learned parameters, and asking for the turn besides helps.",
    arms={
        "scatsimclr": Arm("scatsimclr"),
        "jigsaw": Arm("scatsimclr", {"pretext": "jigsaw"}),
        "contrast alone": Arm("scatsimclr", PLAIN),
        "convolutions": Arm("scatsimclr", PLAIN, encoder=CONV),
        "random": Arm("scatsimclr", steps=0),
        "random convolutions": Arm("scatsimclr", steps=0, encoder=CONV),
        "scattering alone": Arm(None, encoder="scatnet8:angles=4,stem=0"),
    },
    comparisons=(
        Comparison("linear", "contrast alone", "convolutions", margin=-0.02),
        Comparison("thousands of parameters", "contrast alone", "convolutions", "lower"),
        Comparison("linear", "scatsimclr", "contrast alone", margin=-0.02),
        Comparison("linear", "scatsimclr", "random"),
        Comparison("linear", "random", "random convolutions"),
    ),
    metrics=("knn", "linear", learned),
    encoder=SCAT,
    steps=100,
    batch_size=32,
    train=5_000,
    labelled=3_000,
    test=1_000,
)
