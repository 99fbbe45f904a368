"""Pretexts crossed with backbones and widths, judged at every block (Kolesnikov, Zhai, Beyer, CVPR 2019).

Small: three or five stages of one block, pictures of 48 pixels, as many steps for everybody. Widths k are the
paper's: 4 is a standard network's first stage.
"""

from collections.abc import Iterable
from itertools import combinations, permutations, product
from typing import Any

import torch
from torch import Tensor

from pretask.evaluation.features import extract, frozen, to_device
from pretask.evaluation.layers import layers
from pretask.evaluation.linear import linear
from pretask.evaluation.mlp import mlp
from pretask.evaluation.patches import NinePatches
from pretask.evaluation.score import known_labels
from pretask.methods.image.patch_puzzle import PatchPuzzle
from pretask.studies.baselines import supervised
from pretask.studies.bench import Bench
from pretask.studies.claim import QUICK, Arm, Claim, Comparison, Trained
from pretask.studies.survey import Finding, Survey, Values
from pretask.studies.surveys.measures import spearman
from pretask.task import Step

TASKS = ("rotation", "exemplar", "jigsaw", "relative-location")
WIDTHS = (1, 2, 4)
LIMIT = 2000  # values of a block that a probe reads

NETS = {
    "resnet v1": "resnetv2_50:layers=[1,1,1],channels=[64,128,256],width_factor={k},stem_chs=16,preact=false",
    "resnet v2": "resnetv2_50:layers=[1,1,1],channels=[64,128,256],width_factor={k},stem_chs=16",
    "resnet v2 (-)": "resnetv2_50_bare:layers=[1,1,1],channels=[64,128,256],width_factor={k},stem_chs=16",
    "revnet": "revnet50:layers=[1,1,1],width={k}",
    "vgg": "vgg19_bn_wide:layers=[1,1,2,2,2],width={twice},head_side=1",
    "vit": "vit_tiny_patch16_224:depth=4,embed_dim={dim},num_heads={k}",
}
"""By name what builds a network of width k; a VGG's 8 is as wide as the others' 4."""

SKIPS = ("resnet v1", "resnet v2", "resnet v2 (-)", "revnet")


def named(task: str, net: str, k: int) -> str:
    return f"{task}, {net}, k={k}"


def arm(task: str, net: str, k: int) -> Arm:
    encoder = NETS[net].format(k=k, twice=2 * k, dim=48 * k)
    if task == "supervised":
        return Arm(supervised, encoder=encoder)
    if task == "random":
        return Arm("rotation", steps=0, encoder=encoder)
    return Arm(task, encoder=encoder)


FAMILIES = {
    task: {named(task, net, k): arm(task, net, k) for net, k in product(NETS, WIDTHS)}
    for task in (*TASKS, "supervised", "random")
}


def pretext(trained: Trained, bench: Bench) -> dict[str, Tensor | float]:
    """How well the pretext itself is answered on test pictures, where it says so."""
    task, found = trained.task, []
    if task is None:
        return {}
    with frozen(task) as place:
        for number, rows in enumerate(torch.arange(min(len(bench.test), 512)).split(32)):
            step = Step.at(number, device=place)
            task.loss(to_device(bench.test.batch(rows), place), step)
            found += [float(step.metrics["accuracy"])] * len(rows) if "accuracy" in step.metrics else []
    return {"pretext": sum(found) / len(found)} if found else {}


def probes(trained: Trained, bench: Bench) -> dict[str, Tensor | float]:
    """Linear probes at every block; of the last features also by gradient descent, short and long, with a hidden
    layer, and of a quarter of the features (as many as a quarter as wide a network has). What learned from patches is
    judged by patches."""
    encoder: Any = trained.encoder
    if isinstance(trained.task, PatchPuzzle):
        encoder = NinePatches(encoder)
    scores = layers(encoder, bench.labelled, bench.test, limit=64 if QUICK.get() else LIMIT)
    found: dict[str, Tensor | float] = {
        score.metric.replace("accuracy@", "block "): score.items
        for score in scores
        if score.items is not None
    }
    found["linear"] = found.pop("block last")
    inner = [score.value for score in scores]
    found["last - best"] = inner[-1] - max(inner)
    train, test = (known_labels(extract(encoder, part)) for part in (bench.labelled, bench.test))
    for name, settings in (
        ("mlp", {}), ("linear, 70 epochs", {"hidden": 0}), ("linear, 5 epochs", {"hidden": 0, "epochs": 5}),
    ):  # fmt: skip
        brief = {"epochs": 1} if QUICK.get() else {}
        found[name] = mlp(train, test, **settings | brief)[0].items  # type: ignore[arg-type, assignment]
    dim = train[0].shape[1]
    kept = torch.randperm(dim, generator=torch.Generator().manual_seed(0))[: dim // WIDTHS[-1]]
    (score,) = linear((train[0][:, kept], train[1]), (test[0][:, kept], test[1]))
    assert score.items is not None
    return found | {"linear, narrow": score.items}


def column(values: Values, metric: str, names: list[str]) -> list[float] | None:
    """A metric of all these arms; None where one is missing."""
    if any(metric not in values.get(name, {}) for name in names):
        return None
    return [values[name][metric] for name in names]


def average(numbers: list[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) / len(known) if known else None


def across(values: Values, pairs: Iterable[tuple[str, str]]) -> float | None:
    """Rank correlation of two tasks' orders of backbones, at two different widths; averaged over pairs of tasks and
    of widths. No network is in both orders: of one task with itself it says how reliable its order is, and chance
    makes those of two tasks neither less nor more alike than that."""
    found = []
    for (one, other), (k, wide) in product(pairs, permutations(WIDTHS, 2)):
        x = column(values, "linear", [named(one, net, k) for net in NETS])
        y = column(values, "linear", [named(other, net, wide) for net in NETS])
        found.append(None if x is None or y is None else spearman(x, y))
    return average(found)


def ranking(values: Values) -> float | None:
    """How much more alike one pretext's orders of backbones are than those of two."""
    own, between = across(values, [(task, task) for task in TASKS]), across(values, combinations(TASKS, 2))
    return None if own is None or between is None else own - between


def against_labels(values: Values) -> float | None:
    """How much more alike orders by pretexts, and orders by labels, are than one of each."""
    pretexts, labels = across(values, [(task, task) for task in TASKS]), across(values, [("supervised",) * 2])
    between = across(values, [(task, "supervised") for task in TASKS])
    if pretexts is None or labels is None or between is None:
        return None
    return (pretexts + labels) / 2 - between


def predicted(values: Values) -> float | None:
    """How much better the pretext's accuracy ranks representations within a backbone than between backbones."""

    def correlation(names: list[str]) -> float | None:
        x, y = column(values, "pretext", names), column(values, "linear", names)
        return None if x is None or y is None else spearman(x, y)

    within = average([correlation([named(t, net, k) for k in WIDTHS]) for t in TASKS for net in NETS])
    between = average([correlation([named(t, net, k) for net in NETS]) for t in TASKS for k in WIDTHS])
    return None if within is None or between is None else within - between


def kept_up(values: Values) -> float | None:
    """How much less networks with skip connections lose towards their last layer than a VGG."""

    def loss(nets: tuple[str, ...]) -> float | None:
        names = [named(task, net, k) for task in TASKS for net in nets for k in WIDTHS]
        return average([values.get(name, {}).get("last - best") for name in names])

    skips, vgg = loss(SKIPS), loss(("vgg",))
    return None if skips is None or vgg is None else skips - vgg


def wider(
    first: tuple[str, int], second: tuple[str, int], tasks: tuple[str, ...], relative: bool = False
) -> Any:
    """Mean over pretexts and backbones of one (metric, width) less another, or in relation to the other."""

    def of(values: Values) -> float | None:
        gains: list[float | None] = []
        for task, net in product(tasks, NETS):
            more, less = (values.get(named(task, net, k), {}).get(metric) for metric, k in (first, second))
            gains.append(None if more is None or less is None else (more - less) / (less if relative else 1))
        return average(gains)

    return of


def more_than_labels(values: Values) -> float | None:
    """The relative gain by width of pretexts less that of supervised training."""
    ends = (("linear", WIDTHS[-1]), ("linear", WIDTHS[0]))
    ours, theirs = (wider(*ends, tasks, relative=True)(values) for tasks in (TASKS, ("supervised",)))
    return None if ours is None or theirs is None else ours - theirs


def alike(first: str, second: str) -> Any:
    """Rank correlation of two metrics over all arms that learned by a pretext."""

    def of(values: Values) -> float | None:
        names = [
            name
            for task in TASKS
            for name in FAMILIES[task]
            if {first, second} <= values.get(name, {}).keys()
        ]
        return spearman([values[name][first] for name in names], [values[name][second] for name in names])

    return of


WIDE, THIN = WIDTHS[-1], WIDTHS[0]

SURVEY = Survey(
    Claim(
        statement="Which backbone is best depends on the pretext; a better answered pretext means better features "
        "only within a backbone; with skip connections the last layer is as good as any; width helps.",
        arms={name: own for members in FAMILIES.values() for name, own in members.items()},
        comparisons=tuple(
            Comparison("linear", named(task, "resnet v2", WIDE), named(task, "resnet v2", THIN)) for task in TASKS
        ),
        metrics=(probes, pretext),
        encoder=NETS["resnet v1"].format(k=1, twice=2, dim=48),
        reading={"image_size": 48},
        steps=1250,
        batch_size=64,
        seeds=2,
    ),
    families={task: tuple(members) for task, members in FAMILIES.items()},
    findings=(
        Finding("(i) rank correlation of orders of backbones at two widths: of one pretext - of two", ranking),
        Finding("(i) the same: of pretexts or labels alone - of a pretext with labels", against_labels),
        Finding("(ii) rank correlation of pretext and linear: within backbones - between them", predicted),
        Finding("(iii) linear, last block - best block: with skip connections - VGG", kept_up),
        Finding("(iv) linear: wide network, a quarter of its features - narrow network",
                wider(("linear, narrow", WIDE), ("linear", THIN), TASKS)),
        Finding("(iv) linear: wide network - a quarter of its features",
                wider(("linear", WIDE), ("linear, narrow", WIDE), TASKS)),
        Finding("(iv) relative gain by width: pretexts - labels", more_than_labels),
        Finding("(v) linear: 70 epochs - 5 epochs",
                wider(("linear, 70 epochs", WIDE), ("linear, 5 epochs", WIDE), TASKS)),
        Finding("(v) rank correlation of probes of 5 and 70 epochs", alike("linear, 5 epochs", "linear, 70 epochs"),
                "lower", 0.99),
        Finding("(vi) rank correlation of linear and two-layer probes", alike("linear", "mlp"), margin=0.8),
    ),
    alike="steps",
)  # fmt: skip
