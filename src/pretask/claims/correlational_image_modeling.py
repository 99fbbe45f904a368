"""CIM: finding where a crop was teaches, and a crop that was turned and recoloured teaches more."""

from typing import Any

import torch
from torch import Tensor

from pretask.methods.image.correlational_image_modeling import CIM, overlap
from pretask.pretexts.turned import covered
from pretask.studies.bench import Bench
from pretask.studies.claim import Arm, Claim, Comparison, Trained
from pretask.task import Step


class OneNetwork(CIM):
    """Without slow copy: the context is read by the network itself, and teaches it."""

    def tokens(self, encoder: Any, image: Tensor) -> Tensor:
        with torch.enable_grad() if self.training else torch.no_grad():
            return super().tokens(self.encoder, image)


def found(trained: Trained, bench: Bench) -> dict[str, Tensor]:
    """Of each picture the overlap of its exemplars' maps with the truth, as the arm asks for them, and the share
    of pixels that are right beyond that of calling everything background."""
    task = trained.task
    if not isinstance(task, CIM):
        return {}
    context, exemplars, crops = task.puzzle(bench.test.batch(range(len(bench.test))), Step.at())
    truth = covered(crops, task.context_size)
    parts = zip(context.split(50), exemplars.split(50 * task.count), strict=True)
    said = torch.cat(
        [task.decoder(task.tokens(task.teacher, a), task.tokens(task.encoder, b)).argmax(1) for a, b in parts]
    ).bool()
    beyond = (said == truth).double().mean((1, 2)) - (~truth).double().mean((1, 2))
    values = {"overlap": overlap(said, truth).double(), "beyond background": beyond}
    return {name: value.view(-1, task.count).mean(1) for name, value in values.items()}


CLAIM = Claim(
    statement="Finding where in a picture a turned and recoloured crop was taken from teaches features, more than "
    "finding a crop that was not changed does, although that is easier.",
    arms={
        "cim": Arm("correlational-image-modeling"),
        "unchanged crops": Arm("correlational-image-modeling", {"degrees": 0, "recolour": False}),
        "one network": Arm(OneNetwork),  # type: ignore[arg-type]
        "mae": Arm("mae"),
        "random": Arm("correlational-image-modeling", steps=0),
    },
    comparisons=(
        Comparison("linear", "cim", "random"),
        Comparison("beyond background", "cim"),
        Comparison("overlap", "unchanged crops", "cim"),
        Comparison("linear", "cim", "unchanged crops"),
    ),
    metrics=("linear", found),
    steps=300,
    batch_size=32,
    lr=1e-3,
)
