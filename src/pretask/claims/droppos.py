"""DropPos: to know where a patch belongs one must know what it shows (Wang et al., NeurIPS 2023)."""

from torch import Tensor

from pretask.methods.image.droppos import DropPos
from pretask.studies.bench import Bench
from pretask.studies.claim import Arm, Claim, Comparison, Trained
from pretask.task import Step


def placed(trained: Trained, bench: Bench) -> dict[str, Tensor]:
    """Of each picture the share of the patches without position that are put where they belong."""
    task = trained.task
    if not isinstance(task, DropPos):
        return {}
    puzzle = task.puzzle(bench.test.batch(range(len(bench.test))), Step.at())
    right = (task.answers(puzzle).argmax(-1) == puzzle.order.visible) & puzzle.lost
    return {"placed": right.sum(1) / puzzle.lost.sum(1)}


CLAIM = Claim(
    statement="Saying where patches belong that lost their positions teaches features, a few patches that keep "
    "theirs make it possible, and showing all patches makes it too easy to teach as much.",
    arms={
        "droppos": Arm("droppos"),
        "no anchors": Arm("droppos", {"position_ratio": 1.0}),
        "all patches shown": Arm("droppos", {"mask_ratio": 0.0}),
        "mae": Arm("mae"),
        "random": Arm("droppos", steps=0),
    },
    comparisons=(
        Comparison("linear", "droppos", "random"),
        Comparison("placed", "droppos", "no anchors"),
        Comparison("linear", "droppos", "all patches shown"),
    ),
    metrics=("linear", "position", placed),
    steps=600,
    batch_size=64,
    lr=1e-3,
)
