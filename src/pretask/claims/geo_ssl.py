"""Geo-SSL: what a place looks like at another time teaches what no augmentation imitates (Ayush et al., 2021)."""

from typing import Any

from pretask.methods.image.geo_ssl import GeoSSL
from pretask.studies.claim import Arm, Claim, Comparison
from pretask.task import Batch

SMALL: dict[str, Any] = {"queue": 2048, "temperature": 0.1, "clusters": 24}
APART = 7919


class Anywhere(GeoSSL):
    """Every place lies in a cluster that has nothing to do with it."""

    def cluster(self, batch: Batch) -> Any:
        return batch["place"] * APART % len(self.centres)


def anywhere(encoder: Any) -> GeoSSL:
    return Anywhere(encoder, temporal=False, **SMALL)


def alone(encoder: Any) -> GeoSSL:
    """Where a place lies, and no contrast."""
    task = GeoSSL(encoder, temporal=False, **SMALL)
    task.weights["info_nce"] = 0.0
    return task


CLAIM = Claim(
    statement="Contrast between two times of a place teaches features of what does not change, by which its use is "
    "told better than by contrast between two views of one picture; asking where the place lies helps as far as that "
    "goes with the use.",
    arms={
        "geo-ssl": Arm("geo-ssl", SMALL),
        "times": Arm("geo-ssl", {**SMALL, "geo": "none"}),
        "where": Arm("geo-ssl", {**SMALL, "temporal": False}),
        "moco": Arm("geo-ssl", {**SMALL, "temporal": False, "geo": "none"}),
        "anywhere": Arm(anywhere),
        "where alone": Arm(alone),
        "labels": Arm("lorot", {"rotation_weight": 0.0}),
        "random": Arm("geo-ssl", steps=0),
    },
    comparisons=(
        Comparison("places", "times", "moco"),
        Comparison("places", "where", "moco"),
        Comparison("places", "anywhere", "where", "lower"),
        Comparison("places", "where alone", "where", "lower"),
        Comparison("places by place", "geo-ssl", "moco"),
        Comparison("places invariance", "times", "moco"),
        Comparison("places", "geo-ssl", "random"),
    ),
    metrics=("knn", "places"),
    data="seasons",
    fallback="seasons",
    modality="place",
    encoder="resnet10t:stem_width=8,channels=[16,32,64,128]",
    steps=250,
    batch_size=64,
    train=4_000,
    labelled=4_000,
    test=1_000,
)
