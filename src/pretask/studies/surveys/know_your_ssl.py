"""A taxonomy of learning from pictures: discriminative against generative, a representative of every branch (Ozbulak
et al., TMLR 2023)."""

from dataclasses import replace
from typing import Any

from pretask.methods.image.byol import BYOL
from pretask.methods.image.mae import MAE
from pretask.methods.image.simclr import SimCLR
from pretask.methods.image.two_views import TwoViews
from pretask.studies.baselines import supervised, told
from pretask.studies.claim import SMALL_RESNET, SMALL_VIT, Arm, Claim, Comparison
from pretask.studies.survey import Finding, Survey, Values
from pretask.studies.surveys.contrastive import GROUPED
from pretask.studies.surveys.measures import difference, mean, relative, transfer


def weak(method: type[TwoViews]) -> Any:
    """Crops and flips, nothing else."""

    def build(encoder: Any) -> TwoViews:
        task = method(encoder)  # type: ignore[call-arg]
        plain: dict[str, Any] = {"jitter": 0.0, "grey": 0.0, "blur": 0.0, "solarise": 0.0}
        task.first, task.second = replace(task.first, **plain), replace(task.second, **plain)
        return task

    return build


def whole(encoder: Any) -> MAE:
    """MAE without any augmentation."""
    task = MAE(encoder)
    task.view = replace(task.view, scale=None, flip=0.0)
    return task


def vit(slug: str, **options: Any) -> Arm:
    return Arm(slug, options, encoder=SMALL_VIT)


FAMILIES: dict[str, dict[str, Arm]] = {
    "handcrafted": {
        "rotation": Arm("rotation"), "inpainting": Arm("inpainting"), "colorization": Arm("colorization"),
        "jigsaw": Arm("jigsaw"), "relative-location": Arm("relative-location"), "exemplar": Arm("exemplar"),
        "rotation, ViT": vit("rotation"),
    },
    "clustering": {"swav": Arm("swav"), "deepcluster-v2": Arm("deepcluster-v2")},
    "contrastive": {
        "simclr": Arm("simclr"), "moco": Arm("moco"), "nnclr": Arm("nnclr"), "instdisc": Arm("instdisc"),
        "cpc": Arm("cpc", encoder=GROUPED), "pirl": Arm("pirl"), "simclr, ViT": vit("simclr"),
        "moco-v3, ViT": vit("moco-v3"),
    },
    "distillation": {
        "byol": Arm("byol"), "simsiam": Arm("simsiam"), "dino": Arm("dino"), "dino, ViT": vit("dino"),
        "ibot, ViT": vit("ibot"),
    },
    "information": {"vicreg": Arm("vicreg"), "barlow-twins": Arm("barlow-twins"), "vicreg, ViT": vit("vicreg")},
    "generative, pixels": {"mae, ViT": vit("mae"), "simmim, ViT": vit("simmim")},
    "generative, tokens": {"beit, ViT": vit("beit")},
    "language": {"clip, classes as words": Arm(told)},
    "weak augmentation": {
        "simclr, weak": Arm(weak(SimCLR)), "byol, weak": Arm(weak(BYOL)),
        "mae, none, ViT": Arm(whole, encoder=SMALL_VIT),
    },
    "baselines": {
        "random": Arm("simclr", steps=0), "random, ViT": Arm("simclr", steps=0, encoder=SMALL_VIT),
        "supervised": Arm(supervised),
        "supervised, ViT": Arm(supervised, encoder=SMALL_VIT),
    },
}  # fmt: skip

BRANCHES = ("clustering", "contrastive", "distillation", "information")
DISCRIMINATIVE = [name for branch in BRANCHES for name in FAMILIES[branch]]
ALIKE = [name for name in DISCRIMINATIVE if name.endswith("ViT")]
GENERATIVE = [name for family in FAMILIES if family.startswith("generative") for name in FAMILIES[family]]


def lead(metric: str) -> Any:
    """By how much discriminative methods are ahead of generative ones, on the same transformer."""

    def of(values: Values) -> float | None:
        return difference(values, metric, ALIKE, GENERATIVE)

    return of


def closing(values: Values) -> float | None:
    """By how much that lead is smaller after fine-tuning than for a linear probe."""
    frozen, tuned = lead("linear")(values), lead("finetune")(values)
    return None if frozen is None or tuned is None else frozen - tuned


def least(values: Values) -> float | None:
    """The worst method's linear probe above the same network untrained."""
    found = []
    for name in (*DISCRIMINATIVE, *GENERATIVE, "rotation"):
        base = "random, ViT" if name.endswith("ViT") else "random"
        if name in values and base in values:
            found.append(values[name]["linear"] - values[base]["linear"])
    return min(found) if found else None


def between(values: Values) -> float | None:
    """How far rotation lies inside what random and discriminative networks span: negative outside."""
    convolutional = [name for name in DISCRIMINATIVE if not name.endswith("ViT")]
    top, own, low = (mean(values, "linear", arms) for arms in (convolutional, ["rotation"], ["random"]))
    return None if top is None or own is None or low is None else min(top - own, own - low)


def dependence(values: Values) -> float | None:
    """How much more of its accuracy a discriminative method loses without strong augmentation than MAE does."""
    drops = {}
    for name, without in (("simclr", "simclr, weak"), ("byol", "byol, weak"), ("mae, ViT", "mae, none, ViT")):
        if name in values and without in values:
            own = values[name]["linear"]
            drops[name] = relative(own - values[without]["linear"], own)
    theirs = [drop for name, drop in drops.items() if name != "mae, ViT"]
    return sum(theirs) / len(theirs) - drops["mae, ViT"] if theirs and "mae, ViT" in drops else None


SURVEY = Survey(
    Claim(
        statement="Discriminative methods lead where features stay as they are, generative ones catch up when they "
        "are tuned; and only discriminative ones live by strong augmentation.",
        arms={name: arm for members in FAMILIES.values() for name, arm in members.items()},
        comparisons=(
            Comparison("linear", "rotation", "random"),
            Comparison("finetune", "mae, ViT", "random, ViT"),
        ),
        metrics=("linear", "knn", "finetune", "lowshot", "robustness", "pasted", transfer),
        encoder=SMALL_RESNET,
        inputs={"patch_size": 4},
        steps=1000,
        seeds=2,
    ),
    families={family: tuple(members) for family, members in FAMILIES.items()},
    findings=(
        Finding("linear: discriminative - generative, on one transformer", lead("linear")),
        Finding("knn: discriminative - generative, on one transformer", lead("knn")),
        Finding("that lead, linear - fine-tuned", closing),
        Finding("linear: the worst method - the same network untrained", least),
        Finding("linear: rotation inside what random and discriminative networks span", between),
        Finding("share of accuracy lost without strong augmentation: discriminative - MAE", dependence),
    ),
)
