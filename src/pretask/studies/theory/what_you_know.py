"""Why predicting a hidden part helps (Predicting What You Already Know Helps: Provable Self-Supervised
Learning, Lee, Lei, Saunshi, Zhuo, NeurIPS 2021), computed.

X is split in X1 and X2; the representation is psi(x1) = E[X2 | x1], the *prediction* of X2. If X1 and X2 are
independent given the label, a linear head on psi needs as many labels as there are classes. Statements S1 to S6
are re-derived (their numbering is ours) and checked where everything can be computed exactly; S4, a rate, on
samples.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch

from pretask.studies.theory import curves, topics
from pretask.studies.theory.check import Check, Sweep
from pretask.studies.theory.gaussians import GaussianWorld
from pretask.studies.theory.worlds import DiscreteWorld, LatentWorld

WORLDS = 200
BROKEN = (0.0, 0.02, 0.1, 0.3)
"""Shares of a random joint distribution by which conditional independence is broken."""
STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Of a latent that X1 and X2 share."""
PRETEXTS = (500, 2_000, 20_000, 200_000)
EXACT = 1e-16  # what is 0 in exact arithmetic stays below this, squares of float64's rounding
GENERIC = 1e-9  # and what is not 0 above this
CONSTANT = 4.0  # of the O in S4
CURVES = ("rank k", "all of psi", "supervised", "random projection", "oracle")


def study() -> list[dict[str, Any]]:
    """Every check of the statements, synthetic ones first."""
    from pretask.studies.theory import real

    checks = [
        *exact_independence(), *gaussians(), *approximate_independence(), *gaussian_bound(), latent(),
        *labels_needed(), rate(), proportional(), *pretext_samples(), *shared_latent(),
        *correlations(), *topics.checks(), *real.halves(), *real.splits(),
    ]  # fmt: skip
    return [check.row() for check in checks]


def random_world(seed: int, eps: float = 0.0, **sizes: Any) -> DiscreteWorld:
    """One of the sizes the checks go through."""
    generator = torch.Generator().manual_seed(seed)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    drawn = {"ones": between(10, 20), "twos": between(9, 20), "classes": between(2, 5)}
    return DiscreteWorld.draw(generator, eps, **(drawn | sizes))


def exact_independence() -> list[Check]:
    """S1: psi* = A' f*, so that a head W = A^+ leaves no error; not where A lacks rank."""
    worlds = [random_world(seed) for seed in range(WORLDS)]
    errors = [world.approximation(world.psi) for world in worlds]
    inverse = [world.by_inverse() for world in worlds]
    found = {"worlds": WORLDS, "largest e_apx": max(errors), "largest with W = A^+": max(inverse)}
    holds = max(*errors, *inverse) < EXACT
    checks = [Check("S1", "X1 and X2 independent given Y", "psi* answers as f* does", found, holds)]
    for case, sizes in (
        ("X2 of fewer dimensions than classes", {"classes": 4, "dim": 3}),
        ("E[X2 | Y] of lower rank", {"classes": 4, "rank": 3}),
    ):
        worlds = [random_world(seed, **sizes) for seed in range(WORLDS)]
        errors = [world.approximation(world.psi) for world in worlds]
        found = {"worlds": WORLDS, "with e_apx > 0": sum(error > GENERIC for error in errors)}
        checks.append(Check("S1", case, "some of f* is lost", found, min(errors) > GENERIC))
    return checks


def gaussians() -> list[Check]:
    """S2: S_{12|Y} = 0 if and only if X1 and X2 are independent given Y; then psi* has rank k and no error."""
    checks = []
    for shared, case in ((0, "no latent"), (2, "a latent of 2 dimensions")):
        worlds = [
            GaussianWorld.draw(torch.Generator().manual_seed(seed), k=2 + seed % 4, shared=shared, r=1.0)
            for seed in range(20)
        ]
        partial = [float(world.partial.norm()) for world in worlds]
        ranks = [int(torch.linalg.matrix_rank(world.psi, rtol=1e-9)) - world.k for world in worlds]
        errors = [world.approximation(curves.truncated(world.psi, world.s11, world.k)) for world in worlds]
        found = {
            "worlds": len(worlds), "largest |S_12|Y|": max(partial), "rank of psi* less k": max(ranks),
            "largest e_apx of k components": max(errors),
        }  # fmt: skip
        holds = set(ranks) == {shared}
        if shared:
            holds = holds and min(partial) > GENERIC and min(errors) > GENERIC
        else:
            holds = holds and max(partial) < EXACT and max(errors) < EXACT
        says = "k components of psi* are not enough" if shared else "k components of psi* answer as f* does"
        checks.append(Check("S2", case, says, found, holds))
    return checks


@cache
def broken(eps: float) -> tuple[tuple[float, float, float], ...]:
    """(e_apx, eps_CI^2, beta^2) of each random world with this share of a random joint."""
    worlds = (random_world(seed, eps) for seed in range(WORLDS))
    return tuple((world.approximation(world.psi), world.dependence, world.beta**2) for world in worlds)


def approximate_independence() -> list[Check]:
    """S3: e_apx <= eps_CI^2 / beta^2. The head of the proof is W = A^+."""
    checks = []
    for eps in BROKEN:
        worlds = broken(eps)
        bounds = [dependence / beta for _, dependence, beta in worlds]
        excess = [error - limit for (error, *_), limit in zip(worlds, bounds, strict=True)]
        found = {
            "worlds": len(worlds),
            "above the bound": sum(over > EXACT for over in excess),
            "median e_apx": median([error for error, *_ in worlds]),
            "median bound": median(bounds),
            "median eps_CI^2": median([dependence for _, dependence, _ in worlds]),
        }
        says = "e_apx <= eps_CI^2 / beta^2"
        checks.append(Check("S3", f"a share {eps:g} of a random joint", says, found, max(excess) < EXACT))
    return checks


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


@cache
def strengths(d2: int) -> tuple[dict[str, float], ...]:
    """e_apx, bounds and eps_CI of one Gaussian world with a latent of 3 dimensions and growing strength."""
    found = []
    for r in STRENGTHS:
        world = GaussianWorld.draw(torch.Generator().manual_seed(0), d2=d2, shared=3, r=r)
        found.append({
            "e_apx": world.approximation(world.psi),
            "bound": world.dependence / world.beta**2,
            "eps_CI^2": world.dependence,
            "1/beta^2": 1 / world.beta**2,
            "1/beta^2 with U": 1 / world.beta_with_latent**2,
        })  # fmt: skip
    return tuple(found)


def gaussian_bound() -> list[Check]:
    """S3 in closed form. Given [Y, U] independence is exact: with room for both psi* loses nothing."""
    checks = []
    for d2 in (4, 30):
        for r, found in zip(STRENGTHS, strengths(d2), strict=True):
            holds = found["e_apx"] <= found["bound"] + EXACT
            says = "e_apx <= eps_CI^2 / beta^2"
            if d2 >= 6:
                holds, says = holds and found["e_apx"] < EXACT, f"{says}; 0, as [Y, U] has 6 dimensions"
            checks.append(Check("S3", f"Gaussian, d2 = {d2}, latent of strength {r:g}", says, found, holds))
    return checks


def latent() -> Check:
    """S3 with Ybar = [Y, Z]: eps_CI falls to 0 when Z is known, 1/beta may rise."""
    lower, steeper, above, errors = 0, 0, 0, []
    for seed in range(WORLDS):
        both = random_world(seed, classes=6, dim=8)
        world = LatentWorld(both, classes=3)
        alone = world.alone
        error = alone.approximation(both.psi)
        errors.append(error)
        above += error > both.dependence / world.beta**2 + EXACT
        above += error > alone.dependence / alone.beta**2 + EXACT
        lower += both.dependence < alone.dependence
        steeper += world.beta < alone.beta
    found = {
        "worlds": WORLDS, "above a bound": above, "eps_CI lower given [Y, Z]": lower,
        "beta lower given [Y, Z]": steeper, "largest e_apx": max(errors),
    }  # fmt: skip
    holds = not above and lower == WORLDS and max(errors) < EXACT
    return Check("S3", "3 classes, a latent Z of 2 values", "knowing more lowers eps_CI", found, holds)


def labels_needed() -> list[Check]:
    """S4: ER of heads that learn from n2 labels; the bound's constant is 4 here."""
    found = curves.learning_curves()
    checks = []
    for count in curves.LABELS:
        measured = {name: found[f"{name}, {count}"] for name in CURVES}
        measured["bound, rank k"] = CONSTANT * curves.bound(found, 3, count)
        measured["bound, all of psi"] = CONSTANT * curves.bound(found, 30, count)
        holds = measured["rank k"] < measured["all of psi"] < measured["supervised"]
        holds = holds and measured["rank k"] <= measured["bound, rank k"]
        holds = holds and measured["all of psi"] <= measured["bound, all of psi"]
        says = "rank k < all of psi < supervised, each below its bound"
        checks.append(Check("S4", f"n2 = {count}, sigma^2 = {found['noise']:.3f}", says, measured, holds))
    return checks


def slope(x: tuple[int, ...], y: list[float]) -> float:
    """Of log y against log x."""
    logs = torch.tensor([[math.log(a), math.log(b)] for a, b in zip(x, y, strict=True)], dtype=torch.float64)
    logs = logs - logs.mean(0)
    return float((logs[:, 0] * logs[:, 1]).sum() / logs[:, 0].square().sum())


def rate() -> Check:
    """S4 with psi*: ER falls as 1 / n2."""
    found = curves.learning_curves((100, 200, 400, 800, 1600), pretext=None)
    fall = slope((100, 200, 400, 800, 1600), [found[f"rank k, {n}"] for n in (100, 200, 400, 800, 1600)])
    measured = {
        "slope of log ER": fall,
        "ER at 100": found["rank k, 100"],
        "ER at 1600": found["rank k, 1600"],
    }
    return Check("S4", "psi*, n2 from 100 to 1600", "ER falls as 1/n2", measured, abs(fall + 1) < 0.15)


def proportional() -> Check:
    """S4 with psi*: ER (n2 - k - 1) = sigma^2 k, whatever d1 and d2 are."""
    ratios = {}
    for k, d1, d2 in ((2, 40, 30), (3, 40, 30), (5, 40, 30), (3, 50, 30), (3, 40, 40)):
        found = curves.learning_curves((400,), repeats=60, pretext=None, d1=d1, d2=d2, k=k)
        ratios[f"k={k}, d1={d1}, d2={d2}"] = found["rank k, 400"] / curves.expected(found["noise"], k, 400)
    holds = all(abs(ratio - 1) < 0.25 for ratio in ratios.values())
    return Check("S4", "psi*, n2 = 400", "ER over sigma^2 k / (n2 - k - 1) is 1", ratios, holds)


def pretext_samples() -> list[Check]:
    """S4: eps_pre^2 falls as 1 / n1, and with it the error that labels do not take away."""
    checks = []
    for count in PRETEXTS:
        repeats = 2 if count > 20_000 else curves.REPEATS
        found = curves.learning_curves((800,), repeats, count)
        world = GaussianWorld.draw(torch.Generator().manual_seed(0))
        residual = float((30 + (world.two @ world.two.T).trace()) - (world.psi @ world.s12).trace())
        expected = curves.expected(residual, 40, count)
        measured = {
            "eps_pre^2": found["eps_pre^2"], "expected": expected,
            "rank k, n2 = 800": found["rank k, 800"],
            "bound": CONSTANT * curves.bound(found, 3, 800),
        }  # fmt: skip
        holds = abs(measured["eps_pre^2"] / expected - 1) < 0.25
        holds = holds and measured["rank k, n2 = 800"] <= measured["bound"]
        checks.append(
            Check("S4", f"n1 = {count}", "eps_pre^2 is as expected; ER below its bound", measured, holds)
        )
    return checks


@cache
def by_strength() -> tuple[dict[str, float], ...]:
    return tuple(curves.learning_curves((100,), 8, shared=3, r=r) for r in STRENGTHS)


def shared_latent() -> list[Check]:
    """S4: what the two parts share besides Y takes the first components; psi as a whole goes on working."""
    checks = []
    for r, found in zip(STRENGTHS, by_strength(), strict=True):
        measured = {
            name: found[f"{name}, 100"] for name in ("rank k", "rank k + latent", "all of psi", "supervised")
        }
        gains = measured["all of psi"] - measured["rank k"]
        holds = measured["rank k + latent"] < measured["all of psi"] < measured["supervised"]
        holds = holds and (gains > 0 if r < 0.5 else True) and (gains < 0 if r >= 1 else True)
        says = "rank k gains" if r < 0.5 else "rank k fails, all of psi does not" if r >= 1 else "in between"
        checks.append(Check("S4", f"latent of strength {r:g}, n2 = 100", says, measured, holds))
    return checks


def correlations() -> list[Check]:
    """S5: nonlinear CCA finds f* among its first k functions, the constant one included; ACE finds CCA."""
    worlds = [random_world(seed, twos=20) for seed in range(WORLDS)]
    ks = [len(world.joint) for world in worlds]
    first = [world.approximation(world.cca(k)[0]) for world, k in zip(worlds, ks, strict=True)]
    fewer = [world.approximation(world.cca(k - 1)[0]) for world, k in zip(worlds, ks, strict=True)]
    rest = [float(world.cca(k)[1][k]) for world, k in zip(worlds, ks, strict=True)]
    one = [abs(float(world.cca(1)[1][0]) - 1) for world in worlds]
    found = {
        "worlds": WORLDS, "largest e_apx of k functions": max(first),
        "median e_apx of k - 1": median(fewer), "largest singular value behind them": max(rest),
        "first singular value less 1": max(one),
    }  # fmt: skip
    holds = max(first) < EXACT and min(fewer) > 1e-9 and max(*rest, *one) < 1e-7
    checks = [
        Check("S5", "independent given Y", "f* lies in the span of the first k functions", found, holds)
    ]
    return [*checks, *alternations()]


def alternations(count: int = 20) -> list[Check]:
    """ACE converges to the SVD; with normalising in the place of whitening every function becomes the constant."""
    sums, apart, alone, constants = [], [], [], []
    for seed in range(count):
        world = random_world(seed, 0.1, twos=20)
        k, generator = len(world.joint), torch.Generator().manual_seed(seed)
        exact, values = world.cca(k)
        functions, total = world.ace(k, generator, steps=2000)
        sums.append(abs(total - float(values[:k].sum())))
        root = world.p1.sqrt()[:, None]
        between = torch.linalg.svdvals((root * exact).T @ (root * functions))
        apart.append(float(1 - between.min()))
        functions, total = world.ace(k, generator, steps=2000, whiten=False)
        alone.append(abs(total - k))
        constants.append(float(functions.std(0).max()))
    whitened = {
        "worlds": count,
        "E<psi, eta> less the SVD's": max(sums),
        "1 - cosine of the spans": max(apart),
    }
    normalised = {"worlds": count, "E<psi, eta> less k": max(alone), "spread of a function": max(constants)}
    found = max(*sums, *apart) < 1e-6
    collapsed = max(*alone, *constants) < 1e-6
    says = "without whitening all functions become the constant"
    return [
        Check("S5", "ACE, 0.1 of a random joint", "whitened alternation finds the SVD", whitened, found),
        Check("S5", "SimSiam's normalising instead", says, normalised, collapsed),
    ]


def sweeps() -> list[Sweep]:
    """What `--plot` draws."""
    found = curves.learning_curves()
    lines = {name: [found[f"{name}, {n}"] for n in curves.LABELS] for name in CURVES}
    for name, dim in (("rank k", 3), ("all of psi", 30)):
        lines[f"bound, {name}"] = [CONSTANT * curves.bound(found, dim, n) for n in curves.LABELS]
    positive = STRENGTHS[1:]
    latent_lines = {
        name: [part[f"{name}, 100"] for part in by_strength()[1:]]
        for name in ("rank k", "rank k + latent", "all of psi", "supervised")
    }
    exact = {name: [part[name] for part in strengths(4)[1:]] for name in ("e_apx", "bound")}
    shares = BROKEN[1:]
    discrete = {
        "median e_apx": [median([error for error, *_ in broken(eps)]) for eps in shares],
        "median bound": [median([d / b for _, d, b in broken(eps)]) for eps in shares],
    }
    from pretask.studies.theory import real

    return [
        Sweep("S3: discrete worlds", "share of a random joint", "e_apx", shares, discrete, log=True),
        Sweep("S3: Gaussian worlds, d2 = 4", "strength of the latent", "e_apx", positive, exact, log=True),
        Sweep("S4: labels", "labels n2", "excess risk", curves.LABELS, lines, {"d1": 40}, log=True),
        Sweep("S4: a shared latent", "its strength", "excess risk", positive, latent_lines, log=True),
        *real.halves_sweeps(),
    ]
