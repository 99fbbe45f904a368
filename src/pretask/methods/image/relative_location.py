"""Relative patch location: where is this patch, seen from the middle? (Doersch et al., ICCV 2015, as set up by
Kolesnikov et al., CVPR 2019)"""

import torch

from pretask.encoders.image import ImageEncoder
from pretask.methods.image.patch_puzzle import PATCHES, PatchPuzzle
from pretask.task import Batch, Panel, Sheet, Step

MIDDLE = PATCHES // 2
NAMES = ("above left", "above", "above right", "left", "right", "below left", "below", "below right")


class RelativeLocation(PatchPuzzle):
    """Say for each of the eight outer patches where it lies around the middle one.

    Args:
        encoder: any image encoder.
        embedding_dim: width of a patch's embedding.
        hidden_dim: width of the head; none takes 4096, 512 for pictures of at most 64 pixels.
        grey: probability that a picture is shown without colours.
        dropout: share of the head's hidden values that are dropped.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        embedding_dim: int = 1000,
        hidden_dim: int | None = None,
        grey: float = 0.66,
        dropout: float = 0.5,
    ):
        pairs = torch.tensor([[place, MIDDLE] for place in range(PATCHES) if place != MIDDLE])
        super().__init__(encoder, pairs, embedding_dim, hidden_dim, grey, dropout)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        patches = self.patches(batch, step)
        said = self.answers(self.embedded(patches), self.orders, step).argmax(1).view(len(patches), -1)
        rows = []
        for number, (own, answers) in enumerate(zip(patches, said, strict=True)):
            true = number % len(NAMES)
            patch = own[self.orders[true, 0]]
            rows.append([
                Panel("the middle", own[MIDDLE]), Panel("where around it is this?", patch, "asked"),
                Panel(f"answer: {NAMES[int(answers[true])]}", patch, "answer"), Panel(NAMES[true], patch, "truth"),
            ])  # fmt: skip
        return Sheet("Relative location", "Where is the patch, seen from the middle one?", rows)
