"""Revisiting: width helps every pretext, and skip connections keep quality up to the last block (Kolesnikov et al.,
2019)."""

from pretask.studies.claim import Claim, Comparison
from pretask.studies.surveys.revisiting import NETS, arm, probes

ARMS = {
    f"{task}, {net}, k={k}": arm(task, net, k)
    for task, net, k in (
        ("rotation", "resnet v2", 1), ("rotation", "resnet v2", 2), ("rotation", "revnet", 1), ("rotation", "vgg", 1),
        ("relative-location", "resnet v2", 1), ("relative-location", "resnet v2", 2), ("random", "resnet v2", 1),
    )
}  # fmt: skip

CLAIM = Claim(
    statement="Wider networks learn better features by every pretext; with skip connections the last block is as "
    "good as any, without them it is not.",
    arms=ARMS,
    comparisons=(
        Comparison("linear", "rotation, resnet v2, k=2", "rotation, resnet v2, k=1"),
        Comparison("linear", "relative-location, resnet v2, k=2", "relative-location, resnet v2, k=1"),
        Comparison("last - best", "rotation, resnet v2, k=1", "rotation, vgg, k=1"),
        Comparison("last - best", "rotation, revnet, k=1", "rotation, vgg, k=1"),
        Comparison("linear", "rotation, resnet v2, k=1", "random, resnet v2, k=1"),
    ),
    metrics=(probes,),
    encoder=NETS["resnet v2"].format(k=1),
    steps=120,
    batch_size=32,
    labelled=1_000,
    test=1_000,
    seeds=2,
)
