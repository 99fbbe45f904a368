"""A cookbook of learning without labels: four families, their knobs, and diagnostics that need no labels (Balestriero
et al., 2023)."""

from typing import Any

from pretask.studies.baselines import supervised
from pretask.studies.claim import SMALL_RESNET, SMALL_VIT, Arm, Claim, Comparison
from pretask.studies.survey import Finding, Survey, Values
from pretask.studies.surveys.contrastive import GROUPED
from pretask.studies.surveys.measures import agreement, behind, difference, mean, relative, spearman, transfer
from pretask.studies.theory.spectral import checks

SWEEP = (0.0, 0.01, 0.1, 0.3, 3.0, 10.0, 100.0)  # the covariance's weight; 1 is VICReg's own

FAMILIES: dict[str, dict[str, Arm]] = {
    "metric learning": {
        "simclr": Arm("simclr"), "nnclr": Arm("nnclr"), "moco": Arm("moco"),
        "cpc": Arm("cpc", encoder=GROUPED),
    },
    "self-distillation": {"byol": Arm("byol"), "simsiam": Arm("simsiam"), "dino": Arm("dino")},
    "correlation": {
        "vicreg": Arm("vicreg"), "barlow-twins": Arm("barlow-twins"), "w-mse": Arm("w-mse"), "swav": Arm("swav"),
        "deepcluster-v2": Arm("deepcluster-v2"),
    },
    "masked pictures": {
        "mae": Arm("mae", encoder=SMALL_VIT), "simmim": Arm("simmim", encoder=SMALL_VIT),
        "beit": Arm("beit", encoder=SMALL_VIT),
    },
    "joint embedding, on a transformer": {
        "simclr, ViT": Arm("simclr", encoder=SMALL_VIT), "vicreg, ViT": Arm("vicreg", encoder=SMALL_VIT),
    },
    "origins": {"rotation": Arm("rotation"), "inpainting": Arm("inpainting")},
    "vicreg, weight of covariances": {
        f"vicreg, covariances {weight:g}": Arm("vicreg", {"covariance_weight": weight}) for weight in SWEEP
    },
    "collapse": {
        "simsiam, gradient not stopped": Arm("simsiam", {"stop_gradient": False}),
        "vicreg, no variance": Arm("vicreg", {"variance_weight": 0.0}),
        "dino, no centring": Arm("dino", {"centre_momentum": 1.0}),
    },
    "baselines": {
        "random": Arm("simclr", steps=0), "random, ViT": Arm("simclr", steps=0, encoder=SMALL_VIT),
        "supervised": Arm(supervised),
    },
}  # fmt: skip

JOINT = [
    name for family in ("metric learning", "self-distillation", "correlation") for name in FAMILIES[family]
]
ALIKE = [*FAMILIES["joint embedding, on a transformer"]]
"""What MAE is compared with: the network is the same."""
KNOB = ["vicreg", *FAMILIES["vicreg, weight of covariances"]]
HEALTHY = [*JOINT, *FAMILIES["origins"]]


def correlated(first: str, second: str, arms: list[str]) -> Any:
    def of(values: Values) -> float | None:
        return agreement(values, first, second, arms)

    return of


def guillotine(values: Values) -> float | None:
    """The encoder's features above the projector's output, by a linear probe of classes."""
    known = [name for name in JOINT if name in values and "accuracy, projector" in values[name]]
    ours, theirs = mean(values, "linear", known), mean(values, "accuracy, projector", known)
    return None if ours is None or theirs is None else ours - theirs


def forgotten(values: Values) -> float | None:
    """How much larger a share of what the encoder knows of colours the projector loses than of classes."""
    found = []
    for name in JOINT:
        own = values.get(name, {})
        if {"colour, encoder", "colour, projector", "accuracy, projector"} <= own.keys():
            colour = relative(own["colour, encoder"] - own["colour, projector"], own["colour, encoder"])
            found.append(colour - relative(own["linear"] - own["accuracy, projector"], own["linear"]))
    return sum(found) / len(found) if found else None


def curve(values: Values) -> float | None:
    """Rank correlation of how deep in the projector a layer lies and what a linear probe tells of it, the features
    being layer 0; averaged over methods."""
    found = []
    for name in JOINT:
        own = values.get(name, {})
        tower = [own[key] for n in range(len(own)) if (key := f"accuracy, layer {n}") in own]
        found.append(spearman(range(len(tower)), tower))
    known = [rho for rho in found if rho is not None]
    return sum(known) / len(known) if known else None


def ahead(metric: str, ours: list[str], theirs: list[str]) -> Any:
    def of(values: Values) -> float | None:
        return difference(values, metric, ours, theirs)

    return of


SURVEY = Survey(
    Claim(
        statement="Rank tells good settings from bad ones without labels; the encoder knows more than its "
        "projector; what keeps features apart is what collapses without it; nearest neighbours and linear "
        "probes agree, fine-tuning judges masked pictures otherwise.",
        arms={name: arm for members in FAMILIES.values() for name, arm in members.items()},
        comparisons=(
            Comparison("collapse std", "simsiam, gradient not stopped", "simsiam", "lower"),
            Comparison("collapse std", "vicreg, no variance", "vicreg", "lower"),
            Comparison("rankme rank", "dino, no centring", "dino", "lower"),
        ),
        metrics=(
            "linear", "knn", "lowshot", "finetune", "rankme", "alpha_req", "alignment", "uniformity", "collapse",
            "spectrum", "sensitivity", transfer, behind,
        ),
        encoder=SMALL_RESNET,
        inputs={"patch_size": 4},
        steps=900,
        seeds=2,
    ),
    families={family: tuple(members) for family, members in FAMILIES.items()},
    findings=(
        Finding("rank correlation of RankMe and linear over a knob of VICReg",
                correlated("rankme rank", "linear", KNOB), margin=0.5),
        Finding("rank correlation of RankMe behind the projector and linear over that knob",
                correlated("rank, projector", "linear", KNOB), margin=0.5),
        Finding("linear: encoder - projector's output", guillotine),
        Finding("rank correlation of a layer's depth in the projector and linear", curve, "lower"),
        Finding("share that the projector loses: colours - classes", forgotten),
        Finding("rank correlation of knn and linear over methods", correlated("knn", "linear", HEALTHY), margin=0.5),
        Finding("linear: joint embedding - MAE, on one transformer", ahead("linear", ALIKE, ["mae"])),
        Finding("knn: joint embedding - MAE, on one transformer", ahead("knn", ALIKE, ["mae"])),
        Finding("fine-tuned: MAE - joint embedding, on one transformer", ahead("finetune", ["mae"], ALIKE),
                margin=-0.02),
    ),
    theory=checks,
)  # fmt: skip
