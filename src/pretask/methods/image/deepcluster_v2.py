"""DeepCluster-v2: to which cluster of all pictures does a crop belong? (Caron et al., NeurIPS 2020, after
DeepCluster, ECCV 2018)

The details are those of the code released with SwAV (`main_deepclusterv2.py`).
"""

from collections.abc import Iterable
from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pretask.data.batch import require
from pretask.encoders.image import ImageEncoder
from pretask.errors import UsageError
from pretask.methods.image.multi_crop import MultiCrop
from pretask.objectives.clusters import spherical_kmeans
from pretask.objectives.distributed import gather
from pretask.pretexts import draw
from pretask.pretexts.views import SMALL_IMAGE
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, Sheet, Step

FEW = 10  # pictures a cluster at least, where their number is left open


class DeepClusterV2(MultiCrop):
    """Clusters are found anew before each epoch, among what the last one said of two large crops of every picture,
    and are then the classes of all crops. The rows of the classifiers are the clusters' centres: no gradient changes
    them. Several classifiers are used at once, each with clusters of its own.

    The memory is first filled before training, in one pass with the network in evaluation mode.

    Args:
        encoder: any image encoder.
        prototypes: clusters of each classifier; none takes 3000, 300 for pictures of at most 64 pixels, and never
            more than a tenth of the pictures.
        classifiers: that are used at once; they take turns with the memories of the first and of the second crops.
        kmeans_steps: of each search for clusters.
        num_local: small crops of each picture; none takes 6, 2 for small pictures.
        local_size: their side in pixels; none takes 3/7 of the picture's (96 of 224).
        temperature: divides the similarities.
        hidden_dim: width of the projector's hidden layer; none takes 2048, 512 for small pictures.
        projection_dim: width of what is compared with centres.
        global_scale: area of a large crop, as a share of the picture's.
        local_scale: area of a small crop.
    """

    title = "DeepCluster-v2"
    recipe = Recipe(
        "lars", lr=0.3, batch_size=4096, epochs=800, weight_decay=1e-6, decay_vectors=True, warmup=10 / 800,
        warmup_from=0.3 / 4.8, warmup_arrives=True, final_lr=1e-3,
    )  # fmt: skip
    memory: Float[Tensor, "2 pictures dim"]
    centres: Float[Tensor, "classifiers clusters dim"]
    cluster: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        prototypes: int | None = None,
        classifiers: int = 3,
        kmeans_steps: int = 10,
        num_local: int | None = None,
        local_size: int | None = None,
        temperature: float = 0.1,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        global_scale: tuple[float, float] = (0.14, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.14),
    ):
        super().__init__(
            encoder, num_local, local_size, hidden_dim, projection_dim, global_scale, local_scale
        )
        self.count, self.classifiers, self.kmeans_steps = prototypes, classifiers, kmeans_steps
        self.temperature, self.projection_dim = temperature, projection_dim
        self.seen: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        """Fill the memory and find the first clusters.

        Raises:
            UsageError: there are too few pictures for so many clusters, or nobody knows how many.
        """
        usual = 300 if self.encoder.image_size <= SMALL_IMAGE else 3000
        count = self.count or min(usual, max(2, (num_samples or 0) // FEW))
        if not num_samples or num_samples < count:
            raise UsageError(
                f"deepcluster-v2 divides all pictures: {count} clusters of {num_samples} are too many"
            )
        device = next(self.parameters()).device
        self.register_buffer("memory", torch.zeros(2, num_samples, self.projection_dim, device=device))
        self.register_buffer(
            "cluster", torch.zeros(self.classifiers, num_samples, dtype=torch.long, device=device)
        )
        self.register_buffer(
            "centres", torch.zeros(self.classifiers, count, self.projection_dim, device=device)
        )
        step, training = Step.at(device=device), self.training
        self.eval()
        for batch in batches:
            here: Batch = {key: batch[key].to(device) for key in ("image", "size", "index") if key in batch}
            self.remember(
                here["index"], torch.stack([self.compared(v) for v in self.views(here, step).chunk(2)])
            )
        self.train(training)
        self.divide(step)

    def remember(self, index: Tensor, vectors: Float[Tensor, "2 batch dim"]) -> None:
        """Write what is said of these pictures' two large crops, in all processes."""
        index, vectors = gather(index), gather(vectors.transpose(0, 1).contiguous()).transpose(0, 1)
        self.memory[:, index] = vectors.to(self.memory.dtype)

    @torch.no_grad()
    def divide(self, step: Step) -> None:
        """Find clusters for each classifier, from random pictures on; in all processes the same."""
        for number in range(self.classifiers):
            x = self.memory[number % 2]
            order = draw.common((len(x),), step.generator).argsort().to(x.device)
            first = x[order[: self.centres.shape[1]]]
            self.centres[number], self.cluster[number] = spherical_kmeans(x, first, self.kmeans_steps)
        for found in (self.centres, self.cluster):  # rounding must not part the processes
            found.copy_(gather(found)[: len(found)])

    def loss(self, batch: Batch, step: Step) -> Losses:
        index = require(batch, "index", 1)
        if not hasattr(self, "memory"):
            raise UsageError(
                "call prepare(batches, num_samples) first: deepcluster-v2 remembers every picture"
            )
        vectors = self.crops(batch, step)
        scores = torch.cat(vectors) @ self.centres.flatten(0, 1).T.to(vectors[0].dtype) / self.temperature
        truth = self.cluster[:, index].repeat(1, len(vectors))  # (classifiers, crops * batch)
        logits = scores.unflatten(1, (self.classifiers, -1)).transpose(0, 1)
        if self.training and torch.is_grad_enabled():  # looking on must not change what is learned
            self.seen.append((index, torch.stack([v.detach() for v in vectors[:2]])))
        step.metrics["accuracy"] = (logits.argmax(2) == truth).float().mean()
        return {"cluster": F.cross_entropy(logits.flatten(0, 1), truth.flatten())}

    def after_step(self, step: Step) -> None:
        for index, vectors in self.seen:
            self.remember(index, vectors)
        self.seen.clear()
        if (step.index + 1) % step.steps_per_epoch == 0 and step.index + 1 < step.total:
            self.divide(step)

    def preview(self, batch: Batch, step: Step) -> Sheet:
        """A cluster is shown by that picture of the sheet which is nearest to its centre."""
        if not hasattr(self, "memory"):
            return super().preview(batch, step)
        index, view = require(batch, "index", 1), self.views(batch, step).chunk(2)[0]
        known, centres = self.memory[0, index], self.centres[0]
        others = known @ centres[self.cluster[0, index]].T  # (pictures, clusters of each row)
        if len(index) > 1:
            others.fill_diagonal_(-torch.inf)
        said = (self.compared(view).to(centres.dtype) @ centres.T).argmax(1)
        nearest = (known @ centres[said].T).argmax(0).tolist()
        rows = [
            [
                Panel("a crop", view[row]),
                Panel("its cluster: another picture", view[other], "truth"),
                Panel("answer: a picture of the cluster", view[nearest[row]], "answer"),
            ]
            for row, other in enumerate(others.argmax(0).tolist())
        ]
        return Sheet(self.title, "To which cluster of all pictures does the crop belong?", rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        """ln K: an untrained network says much the same of all pictures."""
        return {"cluster": log(self.centres.shape[1])} if hasattr(self, "centres") else {}
