"""CLIP: captions teach features, and classes that are only named are known (Radford et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from pretask.data.narration import NUMBERS
from pretask.data.tokens import Ragged
from pretask.encoders.towers import Towers
from pretask.evaluation.crossmodal import crossmodal
from pretask.evaluation.features import frozen, to_device
from pretask.objectives.contrastive import unit
from pretask.studies.bench import Bench
from pretask.studies.claim import Arm, Claim, Comparison, Trained

TOWERS = (
    "image=resnet10t:stem_width=16,channels=[32,64,128,256];"
    "text=distilbert:dim=96,n_layers=2,n_heads=3,hidden_dim=384"
)


def measures(trained: Trained, bench: Bench) -> dict[str, Tensor | float]:
    """Retrieval, and whether the nearest of ten sentences names the digit of a picture ("zero-shot")."""
    encoder = trained.encoder
    if not isinstance(encoder, Towers) or "text" not in encoder.kinds:
        return {}
    found: dict[str, Tensor | float] = {
        score.metric: score.items
        for score in crossmodal(encoder, bench.labelled, bench.test)
        if score.metric.endswith("recall@1") and score.items is not None
    }
    tokenizer = encoder.tower("text").tokenizer
    ids, lengths, _ = tokenizer.encode([f"a photo of a {name}" for name in NUMBERS], 16)
    tokens, there = Ragged(ids, lengths).gather(torch.arange(len(NUMBERS)), tokenizer.vocabulary.pad)
    right = []
    with frozen(encoder) as place:
        names = unit(encoder.embed(to_device({"tokens": tokens, "attention": there}, place), "text"))
        for part in torch.arange(len(bench.test)).split(64):
            batch = to_device(bench.test.batch(part), place)
            answer = (unit(encoder.embed(batch, "image")) @ names.T).argmax(1)
            right.append((answer == batch["label"]).double().cpu())
    return found | {"zero-shot": torch.cat(right)}


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
