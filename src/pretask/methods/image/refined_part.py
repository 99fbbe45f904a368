"""Predict what labels left of a hidden part (Can Pretext-Based Self-Supervised Learning Be Boosted by Downstream
Data? A Theoretical Analysis, Teng and Huang, 2021).

Some labelled samples choose f with Cov(X1, f(X2) | Y) as small as they show; then f(X2) is regressed on X1. With
too few of them it is worse than none: `pretask study boosted-by-downstream`.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pretask.data.batch import require
from pretask.encoders.image import ImageEncoder
from pretask.errors import UsageError
from pretask.methods.image.predict_part import PredictPart
from pretask.objectives.distributed import gather
from pretask.objectives.independence import refine_linear
from pretask.pretexts.parts import only
from pretask.task import Batch

COUNTED = 20_000  # pictures that principal components are taken of


class RefinedPart(PredictPart):
    """Regress a refinement of the hidden part on the rest.

    f is linear on whitened principal components of X2: the `keep` orthonormal directions of them that covary
    least with X1 within classes. It is chosen once, before training, by `labelled` samples; no other label is
    read. The samples for a head must be others, or the effect is hidden.

    Args:
        encoder: any image encoder; hidden pixels are shown to it as its mean colour.
        hidden: as in `predict-part`.
        cells: cells a side, of the whole picture, whose means make up X1 and X2.
        components: principal components of X2, fewer where there are fewer samples.
        keep: m, directions that are kept; answers beyond the number of components are 0.
        labelled: n0, labelled samples that choose them, drawn at random.
    """

    centre: Float[Tensor, "values"]
    matrix: Float[Tensor, "keep values"]

    def __init__(
        self,
        encoder: ImageEncoder,
        hidden: Literal["left", "right", "top", "bottom", "centre", "ring", "columns"] = "right",
        cells: int = 16,
        components: int = 50,
        keep: int = 25,
        labelled: int = 500,
    ):
        if not 0 < keep <= components:
            raise UsageError(f"of {components} components between 1 and all can be kept, not keep={keep}")
        self.components, self.keep, self.labelled = components, keep, labelled
        super().__init__(encoder, hidden, cells)
        self.seed = int(torch.randint(2**31, ()))  # of which labels are read
        values = encoder.in_chans * int(self.mask.sum())
        self.register_buffer("centre", torch.zeros(values))
        self.register_buffer("matrix", torch.zeros(keep, values))

    def num_answers(self, values: int) -> int:
        return self.keep

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        """Take the principal components of X2, and choose the directions that are kept.

        Raises:
            UsageError: the data have no labels.
        """
        index, cells, labels, seen = [], [], [], 0
        for batch in batches:
            if seen >= COUNTED:
                break
            if "label" not in batch:
                raise UsageError("refined-part needs some labels: put the files into one folder a class")
            device = self.mask.device
            image = self.seen(
                {key: value.to(device) for key, value in batch.items() if key in ("image", "size")}
            )
            cells.append(gather(self.means(image)))
            labels.append(gather(require(batch, "label", 1).to(device)))
            index.append(gather(require(batch, "index", 1).to(device)))
            seen += len(index[-1])
        order = torch.cat(index).argsort()
        self.refine(torch.cat(cells)[order].double().cpu(), torch.cat(labels)[order].cpu())

    def refine(self, cells: Float[Tensor, "items chans cells cells"], labels: Tensor) -> None:
        """Set f by pictures and their labels."""
        mask = self.mask.cpu()
        x1, x2 = only(cells, ~mask), only(cells, mask)
        centre = x2.mean(0)
        _, size, axes = torch.linalg.svd(x2 - centre, full_matrices=False)
        kept = int((size > 1e-6 * size[0]).sum().clamp(max=self.components))
        whiten = axes[:kept] / size[:kept, None] * len(x2) ** 0.5
        known = (labels >= 0).nonzero().flatten()
        generator = torch.Generator().manual_seed(self.seed)
        rows = known[torch.randperm(len(known), generator=generator)[: self.labelled]]
        if not len(rows):
            raise UsageError("refined-part needs some labels, and none of these samples has a known one")
        z = (x2[rows] - centre) @ whiten.T
        chosen = refine_linear(x1[rows], z, labels[rows], min(self.keep, kept))
        self.centre.copy_(centre)
        self.matrix.zero_()[: len(chosen)].copy_(chosen @ whiten)

    def target(self, image: Float[Tensor, "batch chans side side"]) -> Float[Tensor, "batch keep"]:
        """f(X2)."""
        return (super().target(image) - self.centre) @ self.matrix.T

    def part_of(self, answer: Float[Tensor, "batch keep"]) -> Float[Tensor, "batch values"]:
        """The shortest X2 with this f(X2)."""
        return answer @ torch.linalg.pinv(self.matrix).T.to(answer) + self.centre

    def chance(self, batch_size: int) -> dict[str, float]:
        """Whitened answers have variance 1; those beyond the components are 0."""
        return {"regression": float(self.matrix.any(1).float().mean())}
