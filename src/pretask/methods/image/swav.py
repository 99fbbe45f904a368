"""SwAV: say of one view to which prototypes the other was assigned (Caron et al., NeurIPS 2020)."""

from math import log
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pretask.encoders.image import ImageEncoder
from pretask.methods.image.multi_crop import MultiCrop
from pretask.objectives.distillation import view_loss
from pretask.objectives.distributed import rank, world_size
from pretask.objectives.memory import Queue
from pretask.objectives.sinkhorn import sinkhorn
from pretask.pretexts.views import SMALL_IMAGE
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Step


class SwAV(MultiCrop):
    """Swapped prediction of prototype assignments, which Sinkhorn-Knopp makes use all prototypes alike.

    Args:
        encoder: any image encoder.
        prototypes: K; none takes 3000, 300 for pictures of at most 64 pixels.
        num_local: small crops of each picture, that predict and are not assigned; none takes 6, 2 for small ones.
        local_size: their side in pixels; none takes 3/7 of the picture's (96 of 224).
        temperature: of the predictions.
        epsilon: how soft assignments are.
        iterations: of Sinkhorn-Knopp.
        hidden_dim: width of the projector's hidden layer; none takes 2048, 512 for small pictures.
        projection_dim: width of what is compared with prototypes.
        global_scale: area of a large crop, as a share of the picture's.
        local_scale: area of a small crop.
        freeze_prototypes: epochs in which the prototypes do not learn; a tenth of a run no longer than that.
        queue: vectors of earlier batches that are assigned together with a batch, for batches that are few beside
            the prototypes (the paper's 3840 for batches of 256); 0 does without.
        queue_from: epoch in which the queue begins to fill, at most a tenth of the run; it is used when it is full.
    """

    title = "SwAV"
    recipe = Recipe(
        "lars", lr=0.3, batch_size=4096, epochs=800, weight_decay=1e-6, decay_vectors=True, warmup=10 / 800,
        warmup_from=0.3 / 4.8, warmup_arrives=True, final_lr=1e-3,
    )  # fmt: skip

    def __init__(
        self,
        encoder: ImageEncoder,
        prototypes: int | None = None,
        num_local: int | None = None,
        local_size: int | None = None,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        global_scale: tuple[float, float] = (0.14, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.14),
        freeze_prototypes: int = 1,
        queue: int = 0,
        queue_from: int = 15,
    ):
        super().__init__(
            encoder, num_local, local_size, hidden_dim, projection_dim, global_scale, local_scale
        )
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.freeze_prototypes, self.queue_from = freeze_prototypes, queue_from
        count = prototypes or (300 if encoder.image_size <= SMALL_IMAGE else 3000)
        self.prototypes = nn.Linear(projection_dim, count, bias=False)
        self.keep_length()
        self.queues = nn.ModuleList(Queue(queue, projection_dim, seed) for seed in range(2 if queue else 0))
        self.seen: list[list[Tensor]] = []

    @torch.no_grad()
    def keep_length(self) -> None:
        """Prototypes have length 1 whenever they are used."""
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))

    def loss(self, batch: Batch, step: Step) -> Losses:
        vectors = self.crops(batch, step)
        scores = self.prototypes(torch.cat(vectors)).split(len(vectors[0]))
        codes = [self.assign(view, scores[view].detach(), step) for view in range(2)]
        if (
            self.queues
            and step.index >= self.filling_from(step)
            and self.training
            and torch.is_grad_enabled()
        ):
            self.seen.append([v.detach() for v in vectors[:2]])
        return {"swav": view_loss(torch.cat(scores), torch.cat(codes), len(vectors[0]), self.temperature)}

    def filling_from(self, step: Step) -> int:
        """The step in which queues begin to fill."""
        return min(self.queue_from * step.steps_per_epoch, step.total // 10)

    @torch.no_grad()
    def assign(
        self, view: int, scores: Float[Tensor, "batch prototypes"], step: Step
    ) -> Float[Tensor, "batch prototypes"]:
        """Codes of a view, shared out among its batch and, once it is full, its queue."""
        if self.queues:
            queue: Any = self.queues[view]
            rows: Tensor = queue.rows
            written = (step.index - self.filling_from(step)) * len(scores) * world_size()
            if written >= len(rows):  # each process brings a part of the queue, all equally long
                share = len(rows) // world_size()
                kept = rows[rank() * share : (rank() + 1) * share].to(scores.dtype)
                scores = torch.cat([scores, self.prototypes(kept)])
                return sinkhorn(scores, self.epsilon, self.iterations)[: len(scores) - len(kept)]
        return sinkhorn(scores, self.epsilon, self.iterations)

    def after_backward(self, step: Step) -> None:
        frozen = self.freeze_prototypes * step.steps_per_epoch
        if step.index < (frozen if step.total > frozen else step.total / 10):
            self.prototypes.weight.grad = None

    def after_step(self, step: Step) -> None:
        self.keep_length()
        for vectors in self.seen:
            for view, v in enumerate(vectors):
                queue: Any = self.queues[view]
                queue.enqueue(v)
        self.seen.clear()

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"swav": log(self.prototypes.out_features)}
