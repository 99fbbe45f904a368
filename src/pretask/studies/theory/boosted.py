"""Can labels refine a pretext? (Can Pretext-Based Self-Supervised Learning Be Boosted by Downstream Data? A
Theoretical Analysis, Teng and Huang, 2021, arXiv 2103.03568), computed.

Labelled samples teach a refinement f of the target X2 such that X1 and f(X2) are independent given the label;
then psi learns f(X2), and a head on psi needs few labels. With few such samples it is no better, or worse. The
theorems are known to us in outline; A and B are re-derived versions that can be checked.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from pretask.objectives.independence import conditional_covariance, refine_linear
from pretask.studies.theory import refinement
from pretask.studies.theory.check import Check, Sweep
from pretask.studies.theory.gaussians import ClassWorld
from pretask.studies.theory.refinement import REFINING, curve
from pretask.studies.theory.worlds import DOUBLE, normal

BROKEN, NEAR = (1.5, 22), (0.3, 8)
"""(b, keep): a world far from conditional independence, and one near it, with the directions kept."""
GRID = (0.3, 0.5, 1.0, 1.5)
CLASSES, ONES, TWOS = 4, 40, 30
TOTAL, SPLITS = 128, (8, 16, 32, 64, 96, 112)
SEEN = (32, 128, 512, 2048, 8192)
"""n0 where a class is missing."""
NOTHING = 1e-10  # a singular value below this is 0


def study() -> list[dict[str, Any]]:
    """Every check, synthetic ones first."""
    from pretask.studies.theory import real

    checks = [
        *missing_class(), cancelling(), constant(), *null_space(), *violation(), *by_net(),
        *worth(*BROKEN), *worth(*NEAR), *gains(), *fixed_total(), *real.refined(),
    ]  # fmt: skip
    return [check.row() for check in checks]


def class_dependent(seed: int, opposite: bool, b: float = 1.0, rank: int = 8) -> ClassWorld:
    """Loadings that differ between classes within one space; the last class's fill one half of all
    directions, or the `opposite` half. The other classes are the same in both worlds."""
    generator = torch.Generator().manual_seed(seed)
    half = TWOS // 2
    one = 0.5 * b * normal(ONES, half, generator=generator)
    shared = 0.5 * b * normal(TWOS, rank, generator=generator)
    seen = [shared @ normal(rank, half, generator=generator) / half**0.5 for _ in range(CLASSES - 1)]
    turned = torch.linalg.qr(normal(TWOS, TWOS, generator=generator)).Q
    last = b * (turned[:, half:] if opposite else turned[:, :half])
    means = [0.5 * normal(CLASSES, d, generator=generator) for d in (ONES, TWOS)]
    return ClassWorld(means[0], means[1], one, torch.stack([*seen, last]))


def least_violation(world: ClassWorld, keep: int, b: float = 1.0) -> float:
    """What any orthonormal f must violate for the missing class in one of the two worlds.

    |L1 G' A'|^2 summed over both is at least s^2 b^2 keep with s the smallest singular value of L1, since the two
    G fill all directions: one of them is at least half of it.
    """
    return float(torch.linalg.svdvals(world.one)[-1]) * b * (keep / 2) ** 0.5


def missing_class(keep: int = 8) -> list[Check]:
    """Proposition A: what a class without samples is like, no number of samples of the others tells."""
    checks, seen = [], torch.arange(CLASSES - 1)
    worlds = [class_dependent(0, opposite) for opposite in (False, True)]
    bound = least_violation(worlds[0], keep)
    for n0 in SEEN:
        samples = [world.sample(n0, torch.Generator().manual_seed(n0), seen) for world in worlds]
        alike = all(torch.equal(a, b) for a, b in zip(*samples, strict=True))
        found = refine_linear(*samples[0], keep)
        on_seen = float(worlds[0].violations(found)[:-1].max())
        on_missing = max(float(world.violations(found)[-1]) for world in worlds)
        measured = {
            "largest on seen classes": on_seen, "on the missing one, worse world": on_missing, "no f below": bound,
        }  # fmt: skip
        says = "the violation stays above its bound in one of two worlds with the same samples"
        checks.append(
            Check("A", f"n0 = {n0}, a class missing", says, measured, alike and on_missing >= bound)
        )
    return checks


def cancelling() -> Check:
    """Pooled over classes a covariance can vanish that no class is without."""
    generator = torch.Generator().manual_seed(0)
    world = ClassWorld.draw(generator)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=DOUBLE)
    world = ClassWorld(world.means_one, world.means_two, world.one, world.two * signs[:, None, None])
    whole = torch.eye(TWOS, dtype=DOUBLE)
    measured = {"pooled": world.violation(whole), "least of a class": float(world.violations(whole).min())}
    holds = measured["pooled"] < NOTHING and measured["least of a class"] > 1
    return Check(
        "A", "loadings of opposite signs", "the pooled covariance hides what classes have", measured, holds
    )


def constant() -> Check:
    """A constant f violates nothing and says nothing; the rank of Cov(f(X2), Y) tells."""
    world = ClassWorld.draw(torch.Generator().manual_seed(0), BROKEN[0])
    seen = world.sample(8192, torch.Generator().manual_seed(1))
    told = {"constant": torch.zeros(8192, 22, dtype=DOUBLE), "refined": seen.x2 @ refine_linear(*seen, 22).T}
    ranks = {name: informative_rank(x, seen.y) for name, x in told.items()}
    violation = float(conditional_covariance(seen.x1, told["constant"], seen.y).norm())
    measured = {
        "violation of a constant": violation,
        **{f"rank, {name}": rank for name, rank in ranks.items()},
    }
    holds = violation == 0 and ranks["constant"] == 0 and ranks["refined"] == CLASSES - 1
    return Check("B", "f without a scale", "independence alone is no criterion", measured, holds)


def informative(told: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cov(f(X2), Y), Y one-hot; its rank is classes - 1 at most."""
    truth = F.one_hot(y, CLASSES).to(told.dtype)
    return (told - told.mean(0)).T @ (truth - truth.mean(0)) / len(y)


def informative_rank(told: torch.Tensor, y: torch.Tensor) -> int:
    values = torch.linalg.svdvals(informative(told, y))
    return int((values > max(NOTHING, 0.02 * float(values[0]))).sum())


def null_space() -> list[Check]:
    """Proposition B: of n0 samples at least twos - n0 + classes directions look exactly independent."""
    world, checks = ClassWorld.draw(torch.Generator().manual_seed(0), BROKEN[0]), []
    generator = torch.Generator().manual_seed(1)
    for n0 in (8, 16, 24, 32, 34, 64):
        seen = world.sample(n0, generator)
        while len(seen.y.unique()) < CLASSES:
            seen = world.sample(n0, generator)
        zeros = int((torch.linalg.svdvals(conditional_covariance(*seen)) < NOTHING).sum())
        measured = {
            "singular values of 0": zeros, "at least": max(0, TWOS - n0 + CLASSES), "in truth": TWOS - 8,
        }  # fmt: skip
        holds = zeros >= measured["at least"] and TWOS - zeros <= min(ONES, n0 - CLASSES)
        says = "directions of X2 that look independent of X1"
        checks.append(Check("B", f"n0 = {n0}, d2 + k = {TWOS + CLASSES}", says, measured, holds))
    return checks


def violation() -> list[Check]:
    """Proposition B: what the samples show of the violation, and what it is; as shares of Cov(X1, X2 | Y)."""
    b, keep = BROKEN
    checks = []
    for n0, found in curve(b, keep).items():
        measured = {
            "as the samples show": found["violation, as seen"],
            "in the population": found["violation"],
        }
        shown, true = measured.values()
        if n0 - CLASSES <= TWOS - keep:
            says, holds = "none is seen, but it is there", shown < NOTHING and true > 0.3
        elif n0 < 512:
            says, holds = "less is seen than there is", shown < true
        else:
            says, holds = "little is left", true < 0.1
        checks.append(Check("B", f"b = {b:g}, n0 = {n0}", says, measured, holds))
    return checks


def by_net(keep: int = 8) -> list[Check]:
    """Proposition B for a refinement of larger capacity, a net: it deceives itself for longer."""
    b, checks = BROKEN[0], []
    bench = refinement.Bench.of(0, b)
    fresh = bench.world.sample(10_000, torch.Generator().manual_seed(2))
    for n0, weight in ((64, 0.1), (64, 1.0), (64, 10.0), (16, 1.0), (256, 1.0)):
        seen = refinement.first(bench.refining, n0)
        f = refinement.refine_mlp(seen, keep, weight, seed=0)
        told = f(fresh.x2)
        measured = {
            "as the samples show": float(conditional_covariance(seen.x1, f(seen.x2), seen.y).norm()),
            "in the population": float(conditional_covariance(fresh.x1, told, fresh.y).norm()),
            "Cov(f, Y), shown": float(informative(f(seen.x2), seen.y).norm()),
            "Cov(f, Y)": float(informative(told, fresh.y).norm()),
        }
        holds = measured["as the samples show"] < measured["in the population"] / 2
        says = "the net hides more than half of it"
        checks.append(Check("B", f"MLP, n0 = {n0}, lambda = {weight:g}", says, measured, holds))
    return checks


ARMS = ("raw", "refined", "refined, samples reused", "oracle", "supervised")


def worth(b: float, keep: int) -> list[Check]:
    """Accuracies by n0: far from independence a refinement pays, near it, it hurts until n0 is large."""
    checks = []
    for n0, found in curve(b, keep).items():
        gain, short = found["refined"] - found["raw"], found["oracle"] - found["refined"]
        if n0 == min(REFINING):
            far = (b, keep) == BROKEN
            says = "no gain yet" if far else "refining hurts"
            holds = gain < 0.02 if far else gain < -0.02
        elif n0 == max(REFINING):
            says, holds = "a gain, close to the oracle", gain > 0.02 and short < 0.02
        else:
            says, holds = "not above the oracle", short > -0.02
        measured = {name: found[name] for name in ARMS}
        checks.append(Check("gain", f"b = {b:g}, keep {keep}, n0 = {n0}", says, measured, holds))
    return checks


def crossing(found: dict[int, dict[str, float]]) -> int | None:
    """The least n0 from which on refining is better than not."""
    better = [
        n0 for n0 in found if all(part["refined"] > part["raw"] for n, part in found.items() if n >= n0)
    ]
    return min(better, default=None)


def gains() -> list[Check]:
    """Refined less raw over (b, n0): the farther from independence, the fewer labels it takes to pay."""
    checks = []
    for b in GRID:
        found = curve(b, NEAR[1])
        measured: dict[str, Any] = {f"n0 = {n0}": part["refined"] - part["raw"] for n0, part in found.items()}
        measured["pays from"] = crossing(found)
        says = f"it pays from some n0 on; d2 + k = {TWOS + CLASSES}"
        checks.append(
            Check("gain", f"b = {b:g}, keep {NEAR[1]}", says, measured, measured["pays from"] is not None)
        )
    return checks


def split(b: float, keep: int) -> dict[int, dict[str, float]]:
    return curve(b, keep, TOTAL, SPLITS)


def fixed_total() -> list[Check]:
    """Of 128 labels in all, how many for the refinement? None where X1 and X2 are almost independent."""
    checks = []
    for (b, keep), says in ((BROKEN, "some pay"), (NEAR, "all for the head is best")):
        found = split(b, keep)
        raw = all_for_head(b)
        best = max(found, key=lambda n0: found[n0]["refined"])
        measured = {f"n0 = {n0}": part["refined"] for n0, part in found.items()}
        measured |= {"no refinement": raw, "best n0": best if found[best]["refined"] > raw else 0}
        holds = (measured["best n0"] > 0) == ((b, keep) == BROKEN)
        checks.append(Check("gain", f"b = {b:g}, n0 + n2 = {TOTAL}", says, measured, holds))
    return checks


def all_for_head(b: float) -> float:
    """Accuracy without refinement where the head gets all the labels."""
    whole = torch.eye(TWOS, dtype=DOUBLE)
    benches = (refinement.Bench.of(seed, b) for seed in range(refinement.SEEDS))
    found = [bench.worth(whole, refinement.first(bench.head, TOTAL)) for bench in benches]
    return sum(found) / len(found)


def sweeps() -> list[Sweep]:
    """What `--plot` draws."""
    from pretask.studies.theory import real

    marks = {"d2 + k": float(TWOS + CLASSES)}
    far, near = curve(*BROKEN), curve(*NEAR)
    gain = {
        f"b = {b:g}": [part["refined"] - part["raw"] for part in curve(b, NEAR[1]).values()] for b in GRID
    }
    seen = {
        "as the samples show": [part["violation, as seen"] for part in far.values()],
        "in the population": [part["violation"] for part in far.values()],
    }
    missing = {
        name: [check.measured[name] for check in missing_class()] for name in missing_class()[0].measured
    }
    arms = [name for name in ARMS if "reused" not in name]
    shares = {
        f"b = {b:g}": [part["refined"] for part in split(b, keep).values()] for b, keep in (BROKEN, NEAR)
    }
    shares |= {f"b = {b:g}, no refinement": [all_for_head(b)] * len(SPLITS) for b, _ in (BROKEN, NEAR)}
    return [
        Sweep(f"b = {BROKEN[0]:g}: far from independence", "labels n0", "accuracy", REFINING,
              {name: [part[name] for part in far.values()] for name in arms}, marks),
        Sweep(f"b = {NEAR[0]:g}: near it", "labels n0", "accuracy", REFINING,
              {name: [part[name] for part in near.values()] for name in arms}, marks),
        Sweep("What refining gains", "labels n0", "accuracy, refined - raw", REFINING, gain, marks),
        Sweep("Violation", "labels n0", "share of Cov(X1, X2 | Y)", REFINING, seen, marks),
        Sweep(f"n0 + n2 = {TOTAL}", "labels n0", "accuracy", SPLITS, shares),
        Sweep("A class missing", "labels n0", "violation", SEEN, missing),
        *real.refined_sweeps(),
    ]  # fmt: skip
