"""MOODv2: who learned to rebuild what is hidden knows what it does not know (Li et al., 2024)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pretask.data import Dataset, open_data
from pretask.data.dataset import spread
from pretask.evaluation.detection import placements
from pretask.evaluation.features import extract
from pretask.evaluation.finetune import fine_tuned
from pretask.evaluation.linear import fit_chosen
from pretask.evaluation.ood import head_of
from pretask.evaluation.ood_scores import PAPER, Head, Known, score_all
from pretask.evaluation.protocols import read_alike
from pretask.studies.bench import Bench
from pretask.studies.claim import SMALL_VIT, Arm, Claim, Comparison, Trained

EPOCHS, LABELLED = 5, 1000
FAR = "photos"


def judged(
    encoder: nn.Module, head: Head | None, known: tuple[Dataset, Dataset], outside: Mapping[str, Dataset]
) -> dict[str, Tensor | float]:
    """For each set outside the mean over nine scores of every known sample's placement (their mean is the
    AUROC), and over all sets how far the nine scores' AUROCs lie apart."""
    (x, y), (test, _) = (extract(encoder, part) for part in known)
    assert y is not None
    head = head or head_of(fit_chosen((x, y)).model)
    parts = {name: extract(encoder, part)[0] for name, part in outside.items()}
    scores = score_all(Known(x, y, head), {"known": test, **parts}, PAPER)
    found = {
        name: torch.stack([placements(scores[one]["known"], scores[one][name])[0] for one in PAPER])
        for name in outside
    }
    each = torch.stack([items.mean(1) for items in found.values()]).mean(0)  # the AUROC of each score
    return {name: items.mean(0) for name, items in found.items()} | {"range": float(each.max() - each.min())}


def told_apart(trained: Trained, bench: Bench) -> dict[str, Tensor | float]:
    """Classes that nobody saw (near) and photographs (far): with a linear head on frozen features, and after
    fine-tuning on labels, by the head that was tuned."""
    assert bench.outside is not None
    far = open_data(FAR, limit=len(bench.test), **read_alike(bench.test))
    outside = {"near": bench.outside.subset(spread(len(bench.outside), len(bench.test))), "far": far}
    known = (bench.labelled, bench.test)
    tuned = fine_tuned(trained.encoder, bench.labelled, epochs=EPOCHS)
    head = Head(tuned.head.weight, tuned.head.bias)
    frozen = judged(trained.encoder, None, known, outside)
    further = judged(tuned.encoder, head, known, outside)
    return {f"frozen {name}": value for name, value in frozen.items()} | {
        f"tuned {name}": value for name, value in further.items()
    }


CLAIM = Claim(
    statement="Masked image modelling makes features by which what is unknown is told apart, more reliably "
    "from score to score, than contrast or labels alone do.",
    arms={
        "moodv2": Arm("moodv2"),
        "simclr": Arm("simclr", lr="auto"),
        "random": Arm("moodv2", steps=0),  # fine-tuned it is supervised from scratch
    },
    comparisons=(
        Comparison("tuned near", "moodv2", "random"),
        Comparison("tuned range", "moodv2", "random", "lower"),
        Comparison("tuned near", "moodv2", "simclr"),
        Comparison("frozen near", "moodv2", "random"),
        Comparison("frozen far", "moodv2", "random"),
    ),
    metrics=(told_apart,),
    encoder=SMALL_VIT + ",global_pool=avg,fc_norm=false",
    inputs={"patch_size": 4},
    labelled=LABELLED,
    test=800,
    held_out=2,
    steps=200,
    batch_size=32,
    lr=1e-3,
)
