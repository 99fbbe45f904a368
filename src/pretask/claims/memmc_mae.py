"""MemMC-MAE: who learned to rebuild normal pictures rebuilds others worse (Tian et al., 2022)."""

import torch
from torch import Tensor

from pretask.data.batch import to_float
from pretask.evaluation.detection import placements
from pretask.methods.image.memmc_mae import MemMCMAE
from pretask.pretexts.views import centre_view
from pretask.studies.bench import Bench
from pretask.studies.claim import SMALL_VIT, Arm, Claim, Comparison, Trained

MASKS = 4


def found(trained: Trained, bench: Bench) -> dict[str, Tensor]:
    """Each normal test picture's placement below the abnormal ones by score; their mean is the AUROC."""
    task = trained.task
    if not isinstance(task, MemMCMAE):
        return {}
    assert bench.outside is not None
    scores = []
    for part in (bench.test, bench.outside):
        batch = part.batch(range(min(len(part), 500)))
        image = centre_view(to_float(batch["image"]), batch.get("size"), task.encoder.image_size)
        scores.append(-task.score(image, torch.Generator().manual_seed(0), MASKS).double())
    return {"auroc": placements(*scores)[0]}


CLAIM = Claim(
    statement="A masked autoencoder of normal pictures tells abnormal ones by what it cannot rebuild, and no worse "
    "with a memory and all levels of its encoder than without.",
    arms={
        "memmc-mae": Arm("memmc-mae"),
        "no memory": Arm("memmc-mae", {"memory": 0}),
        "last level": Arm("memmc-mae", {"levels": "last"}),
        "random": Arm("memmc-mae", steps=0),
    },
    comparisons=(
        Comparison("auroc", "memmc-mae", "random"),
        Comparison("auroc", "memmc-mae", margin=0.5),
        Comparison("auroc", "memmc-mae", "no memory", margin=-0.02),
        Comparison("auroc", "memmc-mae", "last level", margin=-0.02),
    ),
    metrics=(found,),
    data="digits",
    fallback="digits",
    reading={"image_size": 32},
    encoder=SMALL_VIT,
    held_out=5,
    steps=300,
    batch_size=32,
    lr=1e-3,
)
