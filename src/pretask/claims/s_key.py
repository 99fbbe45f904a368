"""S-KEY: transposition teaches key signatures, and a little chroma the mode (Kong et al., 2025).

Made-up music: progressions in 24 keys, no two pieces by one instrument. Classes are calibrated on other pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pretask.studies.claim import Arm, Claim, Comparison

if TYPE_CHECKING:
    from pretask.task import PretextTask

SIZE = "channels=[2,3,20,20,10,3],kernels=[7,7,7,7,5,5]"


def shuffled(encoder: nn.Module) -> PretextTask:
    """S-KEY whose pseudo-labels belong to other pieces."""
    from pretask.methods.audio.s_key import SKey

    class Shuffled(SKey):
        def pseudo_label(self, signature: Tensor, chroma: Tensor) -> Tensor:
            found = super().pseudo_label(signature, chroma)
            return found[torch.arange(len(found)).roll(len(found) // 2)]

    return Shuffled(encoder)  # type: ignore[arg-type]


CLAIM = Claim(
    statement="Learning by how much music was transposed finds key signatures without labels; pseudo-labels of "
    "the mode read from chroma tell major from minor too, as long as the two modes are kept in balance.",
    arms={
        "s-key": Arm("s-key"),
        "stone (signatures)": Arm("s-key", encoder=f"chromanet:{SIZE},modes=1"),
        "without balance": Arm("s-key", {"balance_weight": 0.0}),
        "without batch norm": Arm("s-key", encoder=f"chromanet:{SIZE},batch_norm=false"),
        "shuffled pseudo-labels": Arm(shuffled),
        "template matching": Arm(None, encoder="raw"),
        "random": Arm("s-key", steps=0),
    },
    comparisons=(
        Comparison("key weighted", "s-key", "random"),
        Comparison("key signature", "stone (signatures)", "random"),
        Comparison("key weighted", "s-key", "template matching"),
        Comparison("key weighted", "s-key", "shuffled pseudo-labels"),
        Comparison("key mode", "s-key", "shuffled pseudo-labels"),
        Comparison("key weighted", "s-key", "without batch norm"),
        Comparison("key weighted", "s-key", "without balance"),
    ),
    metrics=("key",),
    data="cadences",
    fallback="cadences",
    modality="audio",
    reading={"rate": 16000, "seconds": 4.2},
    encoder=f"chromanet:{SIZE}",
    steps=250,
    batch_size=16,
)
