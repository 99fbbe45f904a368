"""EVA: features of a network that knows something are a better thing to predict than pixels (Fang et al., 2023).

CLIP's weights cannot be had everywhere: here the teacher is a network that learned by contrast on the same
pictures, trained by the claim itself.
"""

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from pretask.methods.image.eva import EVA
from pretask.studies.claim import QUICK, SMALL_VIT, Arm, Claim, Comparison

TEACHER_STEPS = 300


@lru_cache(maxsize=4)
def taught(name: str, image_size: int, patch_size: int, steps: int) -> str:
    """A teacher in a file: a network of the student's kind, after contrast on embedded pictures, or as it began."""
    from pretask.data import open_data
    from pretask.encoders import build_encoder
    from pretask.encoders.weights import save_encoder
    from pretask.methods.image.simclr import SimCLR
    from pretask.task import Step

    encoder: Any = build_encoder(name, image_size=image_size, patch_size=patch_size, seed=100)
    if steps:
        data, task = open_data("photos", image_size=2 * image_size), SimCLR(encoder)
        optimiser = torch.optim.AdamW(task.parameters(), lr=1e-3)
        for index in range(steps):
            rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(index))[:64]
            loss = task.total(task.loss(data.batch(rows), Step.at(index, steps)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    path = Path(tempfile.mkdtemp(prefix="pretask-eva-")) / "teacher.safetensors"
    save_encoder(encoder, path)
    return str(path)


def predicting(trained: bool) -> Any:
    def make(encoder: Any) -> EVA:
        steps = (1 if QUICK.get() else TEACHER_STEPS) if trained else 0
        with torch.enable_grad():
            return EVA(encoder, taught(SMALL_VIT, encoder.image_size, encoder.patch_size, steps))

    return make


CLAIM = Claim(
    statement="Predicting a knowing network's features of covered patches teaches better features than predicting "
    "their pixels, and than predicting an untrained network's features.",
    arms={
        "features": Arm(predicting(True)),
        "untrained features": Arm(predicting(False)),
        "pixels": Arm("eva"),
        "random": Arm("eva", steps=0),
    },
    comparisons=(
        Comparison("linear", "features", "random"),
        Comparison("linear", "features", "pixels"),
        Comparison("linear", "features", "untrained features"),
    ),
    steps=300,
    batch_size=64,
    lr=1e-3,
)
