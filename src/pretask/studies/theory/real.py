"""The same questions of real pictures: one part is predicted from the other, by kernel regression.

Handwritten digits come with scikit-learn; other sets are looked for among the data a person keeps.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.data import open_data
from pretask.data.batch import to_float
from pretask.data.dataset import spread
from pretask.evaluation.independence import Kernel, KernelRidge, Pairs, independence
from pretask.evaluation.independence import halves as fold
from pretask.evaluation.protocols import test_part
from pretask.objectives.independence import refine_linear
from pretask.pretexts.colour import rgb_to_lab
from pretask.pretexts.parts import PARTS, only, part_mask
from pretask.studies.bench import FOLDER, find_data
from pretask.studies.theory.check import Check, Sweep, averaged

EMBEDDED, KEPT = "digits", ("fashion_mnist_900", "cifar10_subset")
MOST = 600  # pictures to learn from; a regression's time grows with their cube
LABELS, DRAWS, FEW = (20, 50, 100, 500), 5, 100
REFINING, COMPONENTS, KEEP = (20, 100, 500), 50, 25
SIDE = 16


class Pictures(NamedTuple):
    """Pictures of 16 x 16 pixels in [0, 1] with labels: some to learn from, others to be judged."""

    train: Float[Tensor, "items chans side side"]
    y: Int[Tensor, "items"]
    test: Float[Tensor, "test chans side side"]
    z: Int[Tensor, "test"]


class Split(NamedTuple):
    """What is shown and hidden of the training pictures, and shown of the others."""

    x1: Float[Tensor, "items ones"]
    x2: Float[Tensor, "items twos"]
    test: Float[Tensor, "test ones"]


@cache
def pictures(name: str) -> Pictures | None:
    """A data set by name; None where nobody keeps it."""
    source = name if name == EMBEDDED else find_data(name)
    if source is None:
        return None
    parts: list[Tensor] = []
    for part, most in zip(test_part(open_data(source, modality="image"), 0), (MOST, 1000), strict=True):
        some = part.subset(spread(len(part), most))
        assert some.labels is not None
        image = to_float(some.batch(torch.arange(len(some)))["image"])
        parts += [F.adaptive_avg_pool2d(image, SIDE).double(), some.labels]
    return Pictures(*parts)


def split(data: Pictures, hidden: str) -> Split:
    """One part hidden; `colour` hides a and b of Lab."""
    if hidden == "colour":
        lab, judged = (rgb_to_lab(image.float()).double() / 100 for image in (data.train, data.test))
        return Split(lab[:, :1].flatten(1), lab[:, 1:].flatten(1), judged[:, :1].flatten(1))
    mask = part_mask(hidden, SIDE, SIDE)
    return Split(only(data.train, ~mask), only(data.train, mask), only(data.test, ~mask))


def few(data: Pictures, count: int, seed: int) -> Int[Tensor, "few"]:
    """Rows of so many training pictures."""
    return torch.randperm(len(data.y), generator=torch.Generator().manual_seed(seed))[:count]


def head(
    features: Float[Tensor, "items dim"],
    judged: Float[Tensor, "test dim"],
    data: Pictures,
    rows: Int[Tensor, "few"],
    kernel: Kernel = "linear",
) -> float:
    """Accuracy of a ridge classifier that learned from these rows."""
    truth = F.one_hot(data.y[rows], int(data.y.max()) + 1).double()
    answer = KernelRidge.of(features[rows], kernel).fit(truth)(judged)
    return float((answer.argmax(1) == data.z).double().mean())


@cache
def psi_of(name: str, hidden: str) -> tuple[Tensor, Tensor]:
    """What is predicted of the hidden part, of training and of test pictures; it took no labels."""
    data = pictures(name)
    assert data is not None
    part = split(data, hidden)
    psi = KernelRidge.of(part.x1).fit(part.x2)
    return psi(part.x1), psi(part.test)


@cache
def accuracies(
    name: str, hidden: str = "right", labels: tuple[int, ...] = LABELS
) -> dict[int, dict[str, float]]:
    """Of heads on psi, on pixels, and of kernel regression on pixels, by labels; averaged over draws of these."""
    data = pictures(name)
    assert data is not None
    part, (psi, judged) = split(data, hidden), psi_of(name, hidden)
    found = {}
    for count in labels:
        draws = [few(data, count, seed) for seed in range(DRAWS)]
        found[count] = averaged([
            {
                "linear on psi": head(psi, judged, data, rows),
                "linear on pixels": head(part.x1, part.test, data, rows),
                "kernel on pixels": head(part.x1, part.test, data, rows, "rbf"),
            }
            for rows in draws
        ])  # fmt: skip
    return found


def words(holds: bool) -> str:
    """Of what is expected of data and no theorem."""
    return "yes" if holds else "not on these data"


def skipped(theorem: str, name: str) -> Check:
    reason = f"{name} is not among the data a person keeps (${FOLDER})"
    return Check(theorem, name, "skipped", {"reason": reason}, "skipped")


def halves() -> list[Check]:
    """S4 on pictures: the right half is predicted from the left."""
    checks = []
    for name in (EMBEDDED, *KEPT):
        if pictures(name) is None:
            checks.append(skipped("S4", name))
            continue
        for count, found in accuracies(name).items():
            holds = found["linear on psi"] > found["linear on pixels"]
            says = "psi says more to a linear head than pixels"
            checks.append(Check("S4", f"{name}, right from left, {count} labels", says, found, words(holds)))
    return checks


@cache
def estimates(name: str) -> dict[str, dict[str, float]]:
    """eps_CI and what it promises for each part that can be hidden, beside what a head then knows."""
    data = pictures(name)
    assert data is not None
    found = {}
    for hidden in (*PARTS, *(("colour",) if data.train.shape[1] == 3 else ())):
        part = split(data, hidden)
        pairs = Pairs(part.x1, part.x2, data.y, torch.arange(len(data.y)))
        row = independence(*fold(pairs, 0))
        psi = accuracies(name, hidden, (FEW,))[FEW]["linear on psi"]
        found[hidden] = {
            "told by X1": row.explained, "eps_CI^2": row.dependence, "beta": row.beta,
            "beta by chance": row.beta_chance, "lost": row.lost, f"accuracy, {FEW} labels": psi,
        }  # fmt: skip
    return found


def rank_correlation(found: dict[str, dict[str, float]], one: str, other: str) -> float:
    """Spearman's, over the parts that can be hidden."""
    from scipy.stats import spearmanr

    return float(spearmanr([row[one] for row in found.values()], [row[other] for row in found.values()])[0])


def splits() -> list[Check]:
    """S3 on pictures: the estimate of eps_CI for different hidden parts, and whether it foretells anything."""
    checks = []
    for name in (EMBEDDED, *KEPT):
        if pictures(name) is None:
            checks.append(skipped("S3", name))
            continue
        found = estimates(name)
        for hidden, row in found.items():
            holds = -0.02 < row["eps_CI^2"] < row["told by X1"] + 0.02
            says = "0 <= eps_CI^2 <= what X1 tells, up to noise"
            checks.append(Check("S3", f"{name}, {hidden} hidden", says, row, words(holds)))
        measured = {
            what: rank_correlation(found, "eps_CI^2", column)
            for what, column in (("with accuracy", f"accuracy, {FEW} labels"), ("with what is lost", "lost"))
        }
        says = "rank correlation of eps_CI^2: below 0 with accuracy, above 0 with what is lost"
        holds = measured["with accuracy"] < 0 < measured["with what is lost"]
        checks.append(Check("S3", f"{name}, all parts", says, measured, words(holds)))
    return checks


@cache
def answers(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """X1, 50 whitened components of the hidden right half, and psi of them for training and test pictures."""
    data = pictures(name)
    assert data is not None
    part = split(data, "right")
    centred = part.x2 - part.x2.mean(0)
    x2 = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:COMPONENTS].T
    x2 = x2 / x2.std(0)
    psi = KernelRidge.of(part.x1).fit(x2)
    return part.x1, x2, psi(part.x1), psi(part.test)


@cache
def refinement_worth(name: str, n0: int, seed: int) -> dict[str, float]:
    """Accuracy with 100 labels for the head, with and without a refinement that n0 others taught.

    25 directions of the target are kept, and psi is cut to as many components as there are classes.
    """
    data = pictures(name)
    assert data is not None
    x1, x2, psi, judged = answers(name)
    rows = few(data, FEW + n0, seed)
    taught, rest = rows[:FEW], rows[FEW:]

    def worth(refinement: Tensor) -> float:
        learned, asked = psi @ refinement.T, judged @ refinement.T
        centred = learned - learned.mean(0)
        vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -(int(data.y.max()) + 1) :]
        return head(learned @ vectors, asked @ vectors, data, taught)

    refined = refine_linear(x1[rest], x2[rest], data.y[rest], KEEP)
    return {"raw": worth(torch.eye(COMPONENTS, dtype=x2.dtype)), "refined": worth(refined)}


def refinements(name: str) -> dict[int, dict[str, float]]:
    """The same by n0, averaged over draws of labels."""
    return {n0: averaged([refinement_worth(name, n0, seed) for seed in range(DRAWS)]) for n0 in REFINING}


def refined() -> list[Check]:
    """Refinements on pictures: they should pay with many labels and not with few."""
    checks = []
    for name in (EMBEDDED, *KEPT):
        if pictures(name) is None:
            checks.append(skipped("gain", name))
            continue
        for n0, found in refinements(name).items():
            gain = found["refined"] - found["raw"]
            many = n0 == max(REFINING)
            says = "refining pays" if many else "refining pays less than with more labels"
            last = refinements(name)[max(REFINING)]
            holds = gain > 0 if many else gain < last["refined"] - last["raw"]
            checks.append(Check("gain", f"{name}, n0 = {n0}", says, found, words(holds)))
    return checks


def kept() -> list[str]:
    return [name for name in (EMBEDDED, *KEPT) if pictures(name) is not None]


def halves_sweeps() -> list[Sweep]:
    return [
        Sweep(
            f"{name}: right half from left",
            "labels n2",
            "accuracy",
            LABELS,
            {arm: [found[arm] for found in accuracies(name).values()] for arm in accuracies(name)[LABELS[0]]},
        )
        for name in kept()
    ]


def refined_sweeps() -> list[Sweep]:
    curves = {
        f"{name}, {arm}": [found[arm] for found in refinements(name).values()]
        for name in kept()
        for arm in ("raw", "refined")
    }
    return [Sweep("Pictures, right half from left", "labels n0", "accuracy", REFINING, curves)]
