"""Predicting what you already know helps (Lee et al., 2021): the statements enumerated, the labels saved counted."""

from functools import partial

from pretask.studies.claim import QUICK, Comparison, Theory

LABELS = 50  # near the 40 dimensions of X1


def counted(seed: int) -> dict[str, float]:
    """Checks of the exact statements that do not hold, and the same on other random worlds."""
    import torch

    from pretask.studies.theory import topics, what_you_know
    from pretask.studies.theory.what_you_know import random_world

    checks = [*what_you_know.exact_independence(), *what_you_know.gaussians(), *topics.checks()]
    checks += [
        *what_you_know.approximate_independence(),
        *what_you_know.gaussian_bound(),
        what_you_know.latent(),
    ]
    failed = sum(not check.holds for check in checks)
    for world in (random_world(10_000 * (seed + 1) + number, 0.1) for number in range(200)):
        failed += world.approximation(world.psi) > world.dependence / world.beta**2 + what_you_know.EXACT
    functions, _ = random_world(seed, twos=20).ace(2, torch.Generator().manual_seed(seed))
    return {"checks that fail": float(failed + int(functions.isnan().any()))}


def learned(seed: int, arm: str, r: float = 0.0) -> dict[str, float]:
    """ER of a head that learned from 50 labels, averaged over four worlds."""
    from pretask.studies.theory.curves import one_curve

    pretext = 2_000 if QUICK.get() else 20_000
    runs = [one_curve(4 * seed + part, (LABELS,), pretext, shared=3, r=r) for part in range(4)]
    return {"excess risk": sum(run[f"{arm}, {LABELS}"] for run in runs) / len(runs)}


def digits(seed: int, arm: str) -> dict[str, float]:
    """Accuracy on the left halves of handwritten digits with 100 labels."""
    from pretask.studies.theory import real

    data = real.pictures(real.EMBEDDED)
    assert data is not None
    part, (psi, judged) = real.split(data, "right"), real.psi_of(real.EMBEDDED, "right")
    rows = real.few(data, 100, 1000 + seed)
    if arm == "psi":
        return {"accuracy": real.head(psi, judged, data, rows)}
    return {"accuracy": real.head(part.x1, part.test, data, rows, "rbf" if arm == "kernel" else "linear")}


CLAIM = Theory(
    statement="Where X1 and X2 are nearly independent given the label, a linear head on the prediction of X2 "
    "needs as many labels as there are classes, not as many as X1 has dimensions.",
    arms={
        "rank k": partial(learned, arm="rank k"),
        "all of psi": partial(learned, arm="all of psi"),
        "supervised": partial(learned, arm="supervised"),
        "random projection": partial(learned, arm="random projection"),
        "oracle": partial(learned, arm="oracle"),
        "rank k, a shared latent": partial(learned, arm="rank k", r=2.0),
        "all of psi, a shared latent": partial(learned, arm="all of psi", r=2.0),
        "digits, linear on psi": partial(digits, arm="psi"),
        "digits, linear on pixels": partial(digits, arm="pixels"),
        "digits, kernel on pixels": partial(digits, arm="kernel"),
        "enumeration": counted,
    },
    comparisons=(
        Comparison("excess risk", "rank k", "supervised", claimed="lower"),
        Comparison("excess risk", "rank k", "all of psi", claimed="lower"),
        Comparison("excess risk", "all of psi", "supervised", claimed="lower"),
        Comparison("excess risk", "rank k", "random projection", claimed="lower"),
        Comparison("excess risk", "rank k", "oracle", claimed="lower", margin=0.03),
        Comparison("excess risk", "rank k, a shared latent", "all of psi, a shared latent"),
        Comparison("accuracy", "digits, linear on psi", "digits, linear on pixels"),
        Comparison("accuracy", "digits, linear on psi", "digits, kernel on pixels"),
        Comparison("checks that fail", "enumeration", claimed="lower", margin=0.5),
    ),
)
