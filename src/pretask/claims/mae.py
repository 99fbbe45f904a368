"""MAE: hiding most of a picture teaches features, and what is rebuilt beats guessing (He et al., 2022)."""

from torch import Tensor

from pretask.methods.image.mae import MAE
from pretask.pretexts.masks import take
from pretask.studies.bench import Bench
from pretask.studies.claim import Arm, Claim, Comparison, Trained
from pretask.task import Step


def excess(trained: Trained, bench: Bench) -> dict[str, Tensor]:
    """Squared error on the hidden patches of each picture, less that of answering each with its mean.

    Patches are standardised, so their mean is 0 and the guess's error is their mean square.
    """
    task = trained.task
    if not isinstance(task, MAE):
        return {}
    image, order = task.hide(bench.test.batch(range(len(bench.test))), Step.at())
    hidden = task.target(take(task.patches(image), order.hidden))
    error = (task.rebuild(image, order) - hidden).square() - hidden.square()
    return {"excess error": error.mean((1, 2))}


CLAIM = Claim(
    statement="Rebuilding the three quarters of a picture that are hidden teaches features, no worse than "
    "where a quarter is hidden; and the hidden part is rebuilt better than by its mean.",
    arms={
        "mae": Arm("mae"),
        "quarter hidden": Arm("mae", {"mask_ratio": 0.25}),
        "random": Arm("mae", steps=0),
        "pixels": Arm(None, encoder="pixels"),
    },
    comparisons=(
        Comparison("linear", "mae", "random"),
        Comparison("linear", "mae", "quarter hidden", margin=-0.02),
        Comparison("excess error", "mae", claimed="lower"),
    ),
    metrics=("knn", "linear", excess),
    steps=600,
    batch_size=64,
    lr=1e-3,
)
