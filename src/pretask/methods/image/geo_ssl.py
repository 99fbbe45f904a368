"""Geo-SSL: the same place at another time is the partner, and where it lies is asked as well (Ayush et al., ICCV
2021: MoCo v2 with temporal positives and geo-location classification).

The queue may hold other pictures of the query's place: they stay there, as in the official code. A partner is of the
query's own split and product. Two departures: of two times the middle squares are resampled bicubically, there
bilinearly; and pictures of at most 64 pixels are not blurred, as SimCLR does not blur CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data.batch import require, to_float
from pretask.encoders.image import ImageEncoder
from pretask.errors import UsageError
from pretask.methods.image.moco import MoCo
from pretask.objectives.contrastive import info_nce, multi_label_cpc
from pretask.objectives.distributed import gather
from pretask.pretexts import draw
from pretask.pretexts.views import View, apply_view, centre_view, draw_view
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, Sheet, Step

NOWHERE = 1e6  # where a cluster lies that there was no place for


class GeoSSL(MoCo):
    """MoCo v2 between two times of a place, and the cluster of its coordinates as a class.

    Args:
        encoder: any image encoder.
        temporal: the key is another picture of the place, drawn uniformly; its own where there is no other. Else the
            key is a second view of the same picture, as in MoCo.
        geo: what the cluster is read from: the `projection` before it is normalised (as the code has it), the pooled
            `features` (as the paper's figure), or `none`, and it is not asked.
        clusters: of coordinates, by k-means.
        coordinates: clusters of `degrees` as they are, which distorts at poles and date line (the paper's), or of
            points on a `sphere`.
        geo_weight: of that question beside the contrast.
        queue: keys kept; none takes 65536, 4096 for pictures of at most 64 pixels.
        momentum: of the key network; none takes 0.999, 0.99 for small pictures.
        temperature: divides the similarities.
        alpha: weight of positives in the multi-label loss over the whole batch (ml_cpc); none takes InfoNCE.
        projection_dim: width of what is contrasted.
        crop_scale: area of the random crops, as a share of the picture's; none takes the paper's, from 0.08 where the
            partner is of another time and from 0.2 where not.
    """

    title = "Geo-SSL"
    centres: Tensor
    recipe = Recipe(
        "sgd", lr=0.03, batch_size=256, epochs=200, weight_decay=1e-4, decay_vectors=True, warmup=0.0
    )

    def __init__(
        self,
        encoder: ImageEncoder,
        temporal: bool = True,
        geo: Literal["projection", "features", "none"] = "projection",
        clusters: int = 100,
        coordinates: Literal["degrees", "sphere"] = "degrees",
        geo_weight: float = 1.0,
        queue: int | None = None,
        momentum: float | None = None,
        temperature: float = 0.02,
        alpha: float | None = None,
        projection_dim: int = 128,
        crop_scale: tuple[float, float] | None = None,
    ):
        scale = crop_scale or ((0.08, 1.0) if temporal else (0.2, 1.0))
        super().__init__(encoder, queue, momentum, temperature, None, projection_dim, scale)
        self.temporal, self.geo, self.coordinates, self.alpha = temporal, geo, coordinates, alpha
        if geo != "none":
            width = projection_dim if geo == "projection" else encoder.dim
            self.head = nn.Linear(width, clusters)
            self.register_buffer(
                "centres", torch.full((clusters, len(self.point(torch.zeros(1, 2))[0])), NOWHERE)
            )
            self.weights = {"info_nce": 1.0, "geo": geo_weight}

    def point(self, where: Float[Tensor, "items 2"]) -> Float[Tensor, "items axes"]:
        """Coordinates as k-means sees them."""
        return where.float() if self.coordinates == "degrees" else on_sphere(where)

    def prepare(self, batches: Iterable[Batch], num_samples: int) -> None:
        """Cluster the places of the data. Of fewer places than clusters some clusters stay empty."""
        if self.geo == "none":
            return
        found = [self.point(require(batch, "where", 2)) for batch in batches]
        if found:
            self.centres.copy_(
                geo_centres(gather(torch.cat(found).to(self.centres.device)), len(self.centres))
            )

    def cluster(self, batch: Batch) -> Int[Tensor, "batch"]:
        """The nearest cluster of each picture's coordinates.

        Raises:
            UsageError: nobody has said where places are.
        """
        if bool((self.centres == NOWHERE).all()):  # as every cluster is at first
            raise UsageError("call prepare(batches, num_samples) first: geo-ssl must know where places are")
        return torch.cdist(self.point(require(batch, "where", 2)), self.centres).argmin(1)

    def partners(self, batch: Batch, step: Step) -> tuple[Tensor, Int[Tensor, "batch 2"] | None]:
        """A picture of each place at another time, where there is one, else the picture itself; and their sizes."""
        image, size = require(batch, "image", 4), batch.get("size")
        other, count = require(batch, "revisit", 5), require(batch, "revisits", 1)
        unit = draw.uniform((len(image),), step.generator).to(image.device)
        which, row = (
            (unit * count).long().clamp(max=other.shape[1] - 1),
            torch.arange(len(image), device=image.device),
        )
        alone = count == 0
        if size is not None:
            size = torch.where(alone[:, None], size, require(batch, "revisit_size", 3)[row, which])
        return torch.where(alone.view(-1, 1, 1, 1), image, other[row, which]), size

    def views(self, batch: Batch, step: Step) -> Float[Tensor, "2*batch chans h w"]:
        """Of two times crops are drawn from the middle squares, as in the official code; of one from the whole."""
        if not self.temporal:
            return super().views(batch, step)
        pairs = [(require(batch, "image", 4), batch.get("size")), self.partners(batch, step)]
        middle = torch.cat([centre_view(to_float(image), size, image.shape[-1]) for image, size in pairs])
        square = torch.full((len(middle) // 2, 2), 2 * self.encoder.image_size)
        drawn = [draw_view(self.first, len(square), step.generator, square) for _ in pairs]
        return apply_view(self.first, middle, View.joined(drawn))

    def loss(self, batch: Batch, step: Step) -> Losses:
        first, second = self.views(batch, step).chunk(2)
        with torch.no_grad():
            key = self.target(second)
        if self.training and torch.is_grad_enabled():  # looking on must not change what is learned
            self.keys.append(key)
        seen = self.encoder(first).pooled
        query = self.projector(seen)
        if self.alpha is None:
            losses = {"info_nce": info_nce(query, key, self.queue.rows, self.temperature)}
        else:
            losses = {"info_nce": multi_label_cpc(query, key, self.queue.rows, self.temperature, self.alpha)}
        if self.geo != "none":
            logits, cluster = self.located(seen, query), self.cluster(batch)
            step.metrics["geo_accuracy"] = (logits.argmax(1) == cluster).float().mean()
            losses["geo"] = F.cross_entropy(logits, cluster)
        return losses

    def located(
        self, seen: Float[Tensor, "batch features"], query: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch clusters"]:
        """Logits of the cluster."""
        return self.head((query if self.geo == "projection" else seen).relu())

    def preview(self, batch: Batch, step: Step) -> Sheet:
        sheet = super().preview(batch, step)
        when = "its place at another time" if self.temporal else "its partner"
        rows = [[first, Panel(when, truth.content, "truth"), answer] for first, truth, answer in sheet.rows]
        note = "Which picture shows the same place?"
        if self.geo != "none":
            seen = self.encoder(torch.stack([cast(Tensor, row[0].content) for row in rows])).pooled
            said, cluster = self.located(seen, self.projector(seen)).argmax(1), self.cluster(batch)
            note += " Where does it lie?"
            for row, (lat, lon), true, guess in zip(
                rows, batch["where"].tolist(), cluster, said, strict=True
            ):
                row.append(Panel("where", f"{lat:.1f}° {lon:.1f}°: cluster {int(true)}", "truth", "text"))
                row.append(Panel("answer: where", f"cluster {int(guess)}", "answer", "text"))
        return Sheet(sheet.title, note, rows)

    def chance(self, batch_size: int) -> dict[str, float]:
        """Of the contrast nothing is said: at so low a temperature any key differs from a queue of noise."""
        return {} if self.geo == "none" else {"geo": log(len(self.centres))}


def on_sphere(where: Float[Tensor, "items 2"]) -> Float[Tensor, "items 3"]:
    """Latitude and longitude in degrees as points of the unit sphere."""
    lat, lon = where.double().deg2rad().unbind(1)
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], dim=1).float()


def geo_centres(points: Float[Tensor, "items axes"], clusters: int) -> Float[Tensor, "clusters axes"]:
    """k-means' centres, whatever the order of the points; those behind the number of different points are nowhere."""
    from sklearn.cluster import KMeans

    given = points.cpu().double().numpy()
    order = given[np.lexsort(given.T)]
    found = points.new_full((clusters, points.shape[1]), NOWHERE)
    count = min(clusters, len(torch.unique(points, dim=0)))
    centres = KMeans(count, n_init=4, random_state=0).fit(order).cluster_centers_
    found[:count] = torch.from_numpy(centres).to(points)
    return found
