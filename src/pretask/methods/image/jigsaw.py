"""Jigsaw: in which of a hundred orders are the nine patches? (Noroozi, Favaro, ECCV 2016, as set up by Kolesnikov et
al., CVPR 2019)"""

import torch
from jaxtyping import Int
from torch import Tensor

from pretask.encoders.image import ImageEncoder
from pretask.methods.image.patch_puzzle import PATCHES, PatchPuzzle
from pretask.pretexts import draw
from pretask.pretexts.patches import SIDE
from pretask.pretexts.permutation import far_apart, from_tiles, unshuffle
from pretask.task import Batch, Panel, Sheet, Step


class Jigsaw(PatchPuzzle):
    """Say which of many permutations the patches of a picture are in.

    Args:
        encoder: any image encoder.
        permutations: to tell apart, as different as can be.
        asked_at_once: of these, in which every picture of a batch is shown in a step.
        embedding_dim: width of a patch's embedding.
        hidden_dim: width of the head; none takes 4096, 512 for pictures of at most 64 pixels.
        grey: probability that a picture is shown without colours.
        dropout: share of the head's hidden values that are dropped.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        permutations: int = 100,
        asked_at_once: int = 8,
        embedding_dim: int = 1000,
        hidden_dim: int | None = None,
        grey: float = 0.66,
        dropout: float = 0.5,
    ):
        orders = far_apart(PATCHES, permutations).clone()
        super().__init__(encoder, orders, embedding_dim, hidden_dim, grey, dropout)
        self.asked_at_once = min(asked_at_once, permutations)

    def asked(self, step: Step) -> Int[Tensor, "asked"]:
        """A few in training, the same for the batch; all when it is only looked at."""
        if not self.training:
            return super().asked(step)
        noise = draw.common((len(self.orders),), step.generator)
        return noise.argsort()[: self.asked_at_once].to(self.orders.device)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        patches = self.patches(batch, step)
        number = draw.integers(len(self.orders), (len(patches),), step.generator).to(patches.device)
        embedded, order = self.embedded(patches), self.orders[number]
        sample = torch.arange(len(patches), device=patches.device)
        shown = patches[sample[:, None], order]
        logits = self.answers(
            embedded[sample[:, None], order], torch.arange(PATCHES)[None].to(order.device), step
        )
        put_back = unshuffle(shown, self.orders[logits.argmax(1)])
        rows = [
            [Panel("what it sees", a), Panel("put back", b, "answer"), Panel("as it was", c, "truth")]
            for a, b, c in zip(
                *(from_tiles(part, SIDE, SIDE) for part in (shown, put_back, patches)), strict=True
            )
        ]
        return Sheet("Jigsaw", "In which order are the patches?", rows)
