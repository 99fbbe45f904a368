"""A survey of contrastive learning: where negatives come from, and what goes without (Jaiswal et al., 2021)."""

from dataclasses import replace
from typing import Any

from torch import nn

from pretask.methods.image.moco import MoCo
from pretask.methods.image.simclr import SimCLR
from pretask.methods.image.two_views import Target
from pretask.objectives.hard_negatives import hard_nt_xent
from pretask.studies.baselines import supervised, told
from pretask.studies.claim import SMALL_RESNET, SMALL_VIT, Arm, Claim, Comparison
from pretask.studies.survey import Finding, Survey, Values
from pretask.studies.surveys.measures import column, difference, transfer
from pretask.task import Batch, Losses, Step

GROUPED = SMALL_RESNET + ",norm_layer=groupnorm1"  # CPC's batches must not tell of each other
COLOUR = {"jitter": 0.0, "grey": 0.0}


def moco_v1(encoder: Any) -> MoCo:
    """A linear head, temperature 0.07, and colours that always change, hue as much as the rest, without blur; grey
    comes after the jitter here and before it there."""
    task = MoCo(encoder, temperature=0.07)
    task.first = task.second = replace(task.first, jitter=1.0, hue=0.4, blur=0.0)
    task.projector = nn.Sequential(nn.Linear(encoder.dim, 128))
    task.target = Target(encoder, task.projector)
    return task


class Hard(SimCLR):
    """Hard negatives count more."""

    def loss(self, batch: Batch, step: Step) -> Losses:
        first, second = self.compared(self.views(batch, step)).chunk(2)
        return {"nt_xent": hard_nt_xent(first, second, self.temperature, beta=0.5)}


def hard(encoder: Any) -> Hard:
    return Hard(encoder)


def simclr(**changes: Any) -> Any:
    """SimCLR whose views differ in these settings."""

    def build(encoder: Any) -> SimCLR:
        task = SimCLR(encoder)
        task.first = task.second = replace(task.first, **changes)
        return task

    return build


FAMILIES: dict[str, dict[str, Arm]] = {
    "end to end": {"simclr": Arm("simclr"), "nnclr": Arm("nnclr"), "cpc": Arm("cpc", encoder=GROUPED)},
    "memory bank": {"instdisc": Arm("instdisc"), "pirl": Arm("pirl")},
    "momentum encoder": {
        "moco": Arm("moco"), "moco v1": Arm(moco_v1), "moco-v3": Arm("moco-v3", encoder=SMALL_VIT),
    },
    "clustering": {"deepcluster-v2": Arm("deepcluster-v2"), "swav": Arm("swav")},
    "no negatives": {
        "byol": Arm("byol"), "simsiam": Arm("simsiam"), "barlow-twins": Arm("barlow-twins"),
        "vicreg": Arm("vicreg"),
    },
    "cross-modal": {"clip, classes as words": Arm(told)},
    "one picture": {
        "rotation": Arm("rotation"), "jigsaw": Arm("jigsaw"), "colorization": Arm("colorization"),
        "relative-location": Arm("relative-location"), "exemplar": Arm("exemplar"), "inpainting": Arm("inpainting"),
    },
    "which negatives": {
        "simclr, batch 32": Arm("simclr", batch_size=32), "simclr, batch 256": Arm("simclr", batch_size=256),
        "simclr, hard negatives": Arm(hard),
        "moco, queue 256": Arm("moco", {"queue": 256}), "moco, queue 16384": Arm("moco", {"queue": 16384}),
    },
    "which views": {
        "simclr, no colours changed": Arm(simclr(**COLOUR)),
        "simclr, no jitter": Arm(simclr(jitter=0.0)),
        "simclr, no grey": Arm(simclr(grey=0.0)),
        "simclr, no crop": Arm(simclr(scale=None)),
        "simclr, no crop, no jitter": Arm(simclr(scale=None, jitter=0.0)),
        "simclr, no crop, no grey": Arm(simclr(scale=None, grey=0.0)),
        "simclr, jitter doubled": Arm(simclr(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)),
    },
    "collapse": {"simsiam, gradient not stopped": Arm("simsiam", {"stop_gradient": False})},
    "baselines": {"random": Arm("simclr", steps=0), "supervised": Arm(supervised)},
}  # fmt: skip

JOINT = [
    name
    for family in ("end to end", "memory bank", "momentum encoder", "clustering", "no negatives")
    for name, arm in FAMILIES[family].items()
    if arm.encoder is None  # the network of the puzzles; others are in the table alone
]
PUZZLES = ["jigsaw", "colorization"]
"""What both are said to be below rotation and above nothing."""


def above(metric: str, arms: list[str], others: list[str]) -> Any:
    def of(values: Values) -> float | None:
        return difference(values, metric, arms, others)

    return of


def all_above(metric: str, arms: list[str], others: list[str]) -> Any:
    """By how much the worst of these arms is above the best of the others."""

    def of(values: Values) -> float | None:
        ours, theirs = (column(values, metric, names) for names in (arms, others))
        return min(ours) - max(theirs) if ours and theirs else None

    return of


FINDINGS = tuple(
    Finding(f"{metric}: {says}", of(metric, arms, others))
    for metric in ("linear", "knn")
    for says, of, arms, others in (
        ("mean of contrastive families - rotation", above, JOINT, ["rotation"]),
        ("the worst of contrastive families - rotation", all_above, JOINT, ["rotation"]),
        ("rotation - the better of jigsaw and colours", all_above, ["rotation"], PUZZLES),
        ("the worse of jigsaw and colours - random", all_above, PUZZLES, ["random"]),
        ("supervised - the best of contrastive families", all_above, ["supervised"], JOINT),
    )
)

COMPARISONS = (
    Comparison("linear", "moco", "moco v1"),
    Comparison("linear", "simclr, batch 256", "simclr, batch 32"),
    Comparison("linear", "moco", "moco, queue 256"),
    Comparison("linear", "simclr, hard negatives", "simclr"),
    Comparison("linear", "simclr", "simclr, no colours changed"),
    Comparison("linear", "simclr", "simclr, no crop"),
    Comparison("collapse std", "simsiam, gradient not stopped", "simsiam", "lower"),
)

SURVEY = Survey(
    Claim(
        statement="Telling views of one picture from those of others, in whatever family, teaches more than puzzles "
        "on a single picture; heads, negatives and colours matter; without negatives something else must prevent "
        "collapse.",
        arms={name: arm for members in FAMILIES.values() for name, arm in members.items()},
        comparisons=COMPARISONS,
        metrics=("linear", "knn", "retrieval", "lowshot", "pasted", "rankme", "collapse", transfer),
        encoder=SMALL_RESNET,
        steps=1500,
        seeds=2,
    ),
    families={family: tuple(members) for family, members in FAMILIES.items()},
    findings=FINDINGS,
)
