"""P2 weighting: less weight on noise that nobody sees draws better pictures (Choi et al., 2022)."""

import torch
from torch import Tensor

from pretask.evaluation.denoising import band_errors, pictures
from pretask.evaluation.features import frozen
from pretask.evaluation.generation import drawable, samples
from pretask.studies.bench import Bench
from pretask.studies.claim import Arm, Claim, Comparison, Trained

COUNT, STEPS = 400, 20
RATE = 1e-3


def drawn(trained: Trained, bench: Bench) -> dict[str, Tensor | float]:
    """What is drawn against as many training pictures, judged by a classifier of them; errors by band.

    All arms start from the same noise, and all seeds too."""
    found: dict[str, Tensor | float] = {}
    for score in samples(trained.encoder, bench.train, bench.train, count=COUNT, steps=STEPS):
        found[score.metric] = score.value if score.items is None else score.items
    encoder = drawable(trained.encoder)
    with frozen(encoder):
        clean = pictures(encoder, bench.test, len(bench.test))
        errors = band_errors(encoder, clean, torch.Generator().manual_seed(0))
    return found | {f"error {name}": items for name, items in errors.items()}


def arm(**options: object) -> Arm:
    return Arm("p2-weighting", dict(options), lr=RATE)


CLAIM = Claim(
    statement="Weighing levels of noise by how much content must be guessed there draws better pictures in as "
    "many steps, and guesses better where there is content.",
    arms={
        "p2": arm(),
        "half p2": arm(gamma=0.5),
        "even": arm(gamma=0.0),
        "p2 as large as even": arm(rescale=True),
        "bound": arm(weighting="vlb"),
        "random": Arm("p2-weighting", steps=0),
    },
    comparisons=(
        Comparison("frechet", "p2", "even", "lower"),
        Comparison("frechet", "p2", "bound", "lower"),
        Comparison("error content", "p2", "even", "lower"),
        Comparison("error coarse", "p2", "even", "lower"),
        Comparison("error clean-up", "p2", "even", "higher"),
        Comparison("linear", "p2", "random"),
    ),
    metrics=("linear", drawn),
    data="digits",
    reading={"image_size": 16},
    encoder="unet:width=16,mults=[1,2,4]",
    steps=400,
    batch_size=64,
)
