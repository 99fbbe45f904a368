"""CLIP: captions teach features, and classes that are only named are known (Radford et al., 2021)."""

from __future__ import annotations

from torch import Tensor

from pretask.encoders.towers import Towers
from pretask.evaluation.crossmodal import crossmodal
from pretask.evaluation.zero_shot import zero_shot
from pretask.studies.bench import Bench
from pretask.studies.claim import Arm, Claim, Comparison, Trained

TOWERS = (
    "image=resnet10t:stem_width=16,channels=[32,64,128,256];"
    "text=distilbert:dim=96,n_layers=2,n_heads=3,hidden_dim=384"
)


def measures(trained: Trained, bench: Bench) -> dict[str, Tensor | float]:
    """Retrieval, and whether the nearest of the digits' names names a picture's digit."""
    encoder = trained.encoder
    if not isinstance(encoder, Towers) or "text" not in encoder.kinds:
        return {}
    parts = bench.labelled, bench.test
    scores = [score for score in crossmodal(encoder, *parts) if score.metric.endswith("recall@1")]
    found = {score.metric: score.items for score in scores}
    found["zero-shot"] = zero_shot(encoder, *parts)[0].items
    return {name: items for name, items in found.items() if items is not None}


CLAIM = Claim(
    statement="Matching pictures with captions teaches features of what is named, finds one by the other, and knows "
    "classes of which only the names are given.",
    arms={"clip": Arm("clip"), "random": Arm("clip", steps=0), "raw": Arm(None, encoder="raw")},
    comparisons=(
        Comparison("zero-shot", "clip", margin=0.2),
        Comparison("zero-shot", "clip", "random"),
        Comparison("linear", "clip", "random"),
        Comparison("linear", "clip", "raw"),
        Comparison("text to image recall@1", "clip", "random"),
    ),
    metrics=("linear", measures),
    data="captioned-digits",
    fallback="captioned-digits",
    modality="captioned",
    encoder=TOWERS,
    steps=800,
    train=4000,
    labelled=4000,
    test=1000,
)
