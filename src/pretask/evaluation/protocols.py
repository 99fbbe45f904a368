"""Every protocol by name, and the measurement of an encoder by several of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import nn

from pretask import modalities
from pretask.data import Dataset, open_data
from pretask.data.dataset import spread
from pretask.data.images import Squashed
from pretask.errors import UsageError
from pretask.evaluation.anomaly import anomaly
from pretask.evaluation.crossmodal import crossmodal
from pretask.evaluation.denoising import denoising, levels
from pretask.evaluation.features import Pool, Precision, extract
from pretask.evaluation.fewshot import fewshot
from pretask.evaluation.films import audiovisual, captions
from pretask.evaluation.finetune import finetune, lowshot
from pretask.evaluation.generation import samples
from pretask.evaluation.graph import links, node_classes, node_clusters, partition
from pretask.evaluation.imbalance import imbalance
from pretask.evaluation.key import key
from pretask.evaluation.knn import knn, retrieval
from pretask.evaluation.label_free import (
    alignment_score,
    alpha_req_score,
    collapse_score,
    lidar_score,
    rankme_score,
    spectrum_score,
    uniformity_score,
)
from pretask.evaluation.layers import layers
from pretask.evaluation.linear import linear
from pretask.evaluation.mlp import mlp
from pretask.evaluation.ood import one_class, ood
from pretask.evaluation.pasted import pasted
from pretask.evaluation.places import places
from pretask.evaluation.position import position
from pretask.evaluation.projector import projector
from pretask.evaluation.robustness import robustness
from pretask.evaluation.schedule import schedule
from pretask.evaluation.score import Score, known_labels
from pretask.evaluation.segmentation import segmentation, segmentation_knn
from pretask.evaluation.sensitivity import sensitivity
from pretask.evaluation.sequence import sequence
from pretask.evaluation.splits import holdout
from pretask.evaluation.surface import surface
from pretask.evaluation.text import bitext, transfer
from pretask.evaluation.tracks import forecast
from pretask.evaluation.zero_shot import zero_shot

if TYPE_CHECKING:
    from pretask.run import Run

log = logging.getLogger("pretask")


class Protocol(NamedTuple):
    """A way to judge an encoder.

    Args:
        run: `run(train, test, seed=...) -> list[Score]`; train and test are (features, labels), or data
            sets behind the encoder: `run(encoder, train_set, test_set, seed=..., device=...)`.
        takes: `features`, `encoder`, or `outside`: features, with those of other data sets by name behind
            train and test; or `run`: the run folder in the encoder's place, for what a training leaves besides.
        labels: whether it needs labels.
        meaning: one line for people.
    """

    run: Callable[..., list[Score]]
    takes: Literal["features", "encoder", "outside", "run"]
    labels: bool
    meaning: str

    def __call__(self, *args, **kwargs) -> list[Score]:
        return self.run(*args, **kwargs)


PROTOCOLS: dict[str, Protocol] = {
    "knn": Protocol(knn, "features", True, "the nearest training samples vote; nothing is trained"),
    "linear": Protocol(linear, "features", True, "a linear classifier is trained on the frozen features"),
    "fewshot": Protocol(
        fewshot, "features", True, "a classifier is fitted to 1, 5 and 10 samples of each class"
    ),
    "mlp": Protocol(mlp, "features", True, "a network with a hidden layer is trained on the frozen features"),
    "finetune": Protocol(finetune, "encoder", True, "the whole encoder is trained further on labels"),
    "lowshot": Protocol(lowshot, "encoder", True, "the same on 1 and 10 % of the labels"),
    "robustness": Protocol(robustness, "encoder", True, "a linear classifier judged on spoilt pictures"),
    "layers": Protocol(layers, "encoder", True, "a linear classifier at every block"),
    "pasted": Protocol(pasted, "encoder", False, "where in a picture is a piece of another one? (AUROC)"),
    "retrieval": Protocol(retrieval, "features", True, "are the nearest training samples of the same class?"),
    "sequence": Protocol(
        sequence, "encoder", True, "the encoder learns classes a few at a time; how many does it forget?"
    ),
    "ood": Protocol(ood, "outside", True, "are other data told apart from these? 21 scores"),
    "one-class": Protocol(one_class, "features", True, "is one class told apart from each other one?"),
    "nodes": Protocol(node_classes, "encoder", True, "nodes of a graph: a fifth teaches the others' classes"),
    "clusters": Protocol(node_clusters, "encoder", True, "nodes of a graph: does k-means find the classes?"),
    "links": Protocol(links, "encoder", False, "nodes of a graph: which edges were taken away?"),
    "partition": Protocol(partition, "encoder", False, "nodes of a graph: in which of METIS' ten parts?"),
    "bitext": Protocol(bitext, "encoder", False, "does a sentence find its translation among all?"),
    "crossmodal": Protocol(
        crossmodal, "encoder", False, "does a text find its video (or sound) among all, and the other way round?"
    ),
    "zero-shot": Protocol(
        zero_shot, "encoder", True, "does the nearest of the classes' names name what is seen? nothing is trained"
    ),
    "transfer": Protocol(transfer, "encoder", True, "do classes learned in one language hold in another?"),
    "surface": Protocol(surface, "encoder", False, "points of a cloud: which way does the surface face?"),
    "samples": Protocol(samples, "encoder", False, "how far what a denoiser draws is from real pictures"),
    "denoising": Protocol(
        denoising, "encoder", False, "what a denoiser finds again of a picture, by level of noise"
    ),
    "levels": Protocol(levels, "encoder", True, "a linear probe of a denoiser, by level of noise"),
    "imbalance": Protocol(
        imbalance, "features", True, "are common classes known better? frequency against accuracy and collapse"
    ),
    "places": Protocol(
        places, "encoder", True, "pictures of places: classes by picture and by place; do features outlast time?"
    ),
    "forecast": Protocol(forecast, "encoder", False, "tracks: how far is the best of its futures off?"),
    "key": Protocol(key, "encoder", True, "music: its key, with part of the credit for near ones (MIREX)"),
    "segmentation": Protocol(
        segmentation, "encoder", False, "what is at each place, by a linear classifier of places (Dice)"
    ),
    "segmentation-knn": Protocol(
        segmentation_knn, "encoder", False, "what is at each place, by the places most like it (Dice)"
    ),
    "position": Protocol(position, "encoder", False, "do the features of a place tell where it is? (R2)"),
    "anomaly": Protocol(
        anomaly, "encoder", True, "is what is not normal found, and where? (AUROC, FPR95, AUPRO)"
    ),
    "audiovisual": Protocol(
        audiovisual, "encoder", False, "does a caption find its film by what is seen, heard, and both?"
    ),
    "captions": Protocol(captions, "encoder", False, "are films told in words, from what is seen, heard, and both?"),
    "rankme": Protocol(rankme_score, "features", False, "how many directions the features use"),
    "lidar": Protocol(lidar_score, "encoder", False, "how many directions tell pictures apart despite views"),
    "alpha_req": Protocol(
        alpha_req_score, "features", False, "how fast the spectrum decays; about 1 is good"
    ),
    "uniformity": Protocol(uniformity_score, "features", False, "how evenly features spread; low is even"),
    "alignment": Protocol(alignment_score, "encoder", False, "how close two views of a picture lie"),
    "collapse": Protocol(collapse_score, "features", False, "spread of the features; 0 is complete collapse"),
    "spectrum": Protocol(spectrum_score, "features", False, "stable rank; directions that hold the variance"),
    "sensitivity": Protocol(
        sensitivity, "encoder", False, "how far each augmentation moves features; 0 is blind to it"
    ),
    "projector": Protocol(projector, "run", False, "what each layer of a projector keeps of the features"),
    "schedule": Protocol(schedule, "run", False, "what loss and features did in each phase of the rate"),
}

GROUPS = {"diagnostics": ("collapse", "rankme", "spectrum", "sensitivity", "projector", "schedule")}
"""Protocols that are asked for together; what does not suit an encoder is left out."""

MOST_OUTSIDE = 10_000  # samples of each other data set

DEFAULT = ("knn", "linear", "rankme", "alpha_req", "uniformity", "collapse")


def find(name: str) -> Protocol:
    """A protocol by name.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in PROTOCOLS:
        known = [*PROTOCOLS, *GROUPS]
        near = get_close_matches(name, known, n=2, cutoff=0.4) or known
        raise UsageError(f"there is no protocol '{name}'; there is: {', '.join(near)}")
    return PROTOCOLS[name]


def test_part(train_set: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Data to learn from and data to judge by: the set's own splits, or a fifth held out."""
    for name in ("test", "val"):
        own = train_set.split(name)
        if own is not None:
            return train_set.split("train") or train_set, own
    return holdout(train_set, seed=seed)


def test_part_of(dataset: Dataset) -> Dataset:
    """The set's own test or val split, or all of it."""
    return dataset.split("test") or dataset.split("val") or dataset


def read_alike(dataset: Dataset) -> dict[str, Any]:
    """Settings of a reader that make other data fit the encoders of these."""
    if dataset.modality != "image":
        told = dataset.inputs if dataset.modality in ("text", "audio", "film", "captioned") else {}
        return {"channels" if key == "in_chans" else key: value for key, value in told.items()}
    fit = {"fit": "squash"} if isinstance(dataset.samples, Squashed) else {}
    return {"image_size": dataset.image_size, "channels": dataset.channels, **fit}


def other_sets(dataset: Dataset) -> list[Dataset]:
    """What is embedded of the same kind of data and is not this set, read alike."""
    own = dataset.name.partition(" (")[0]
    names = [name for name in modalities.find(dataset.modality).embedded if name != own]
    return [open_data(name, modality=dataset.modality, **read_alike(dataset)) for name in names]


def without_labels(
    chosen: dict[str, Protocol], data: str, note: Callable[[str], None] | None
) -> dict[str, Protocol]:
    """The protocols that need no labels; `note` is told of the others.

    Raises:
        UsageError: some need labels and were asked for: nobody is there to be told.
    """
    names = ", ".join(name for name, protocol in chosen.items() if protocol.labels)
    if names and note is None:
        raise UsageError(
            f"{names} need labels and '{data}' has none: put the files into one folder a class, or ask for "
            + ", ".join(name for name, protocol in PROTOCOLS.items() if not protocol.labels)
        )
    if names and note is not None:
        note(f"{names} left out: '{data}' has no labels")
    return {name: protocol for name, protocol in chosen.items() if not protocol.labels}


def of_run(
    protocol: Protocol,
    name: str,
    run: Run | None,
    parts: tuple[Dataset, Dataset],
    seed: int,
    device: torch.device | str | None,
    note: Callable[[str], None] | None,
) -> list[Score]:
    """Scores of what a training leaves beside its encoder; `note` is told why there are none.

    Raises:
        UsageError: there is no run, or it has not what is asked for, and nobody is there to be told.
    """
    try:
        if run is None:
            raise UsageError("this looks at a run folder, and an encoder alone was given")
        return protocol.run(run, *parts, seed=seed, device=device)
    except UsageError as error:
        if note is None:
            raise UsageError(f"{name}: {error}") from error
        note(f"{name}: {error}")
        return []


def evaluate(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset | None = None,
    protocols: Sequence[str] | None = None,
    seed: int = 0,
    *,
    outside: Sequence[Dataset] = (),
    device: torch.device | str | None = None,
    pool: Pool | None = None,
    precision: Precision = "32",
    cache: str | Path | None = None,
    run: Run | None = None,
    note: Callable[[str], None] = log.info,
) -> list[Score]:
    """Measure an encoder.

    Args:
        encoder: what is judged; it is not changed.
        train_set: what classifiers learn from and label-free scores look at.
        test_set: what is judged; default the set's own test or val split, or a fifth held out.
        protocols: names from `PROTOCOLS` and `GROUPS`; default `DEFAULT`, less those that need labels
            where there are none.
        seed: of splits, subsets and intervals.
        outside: what `ood` should reject, the test split where a set has one; default `other_sets`.
        device: where the encoder runs.
        pool: `token`, `avg` or `token+avg` instead of what the encoder gives.
        precision: `bf16` is faster on GPUs.
        cache: a folder that keeps features.
        run: what trained the encoder, for protocols that ask for more than it.
        note: is told in words what was left out, and why.

    Raises:
        UsageError: an unknown protocol, or one that needs labels the data do not have, or a run there is not.
    """
    names = DEFAULT if protocols is None else protocols
    optional = {part for name in names for part in GROUPS.get(name, ()) if part not in names}
    chosen = {part: find(part) for name in names for part in GROUPS.get(name, (name,))}
    if test_set is None:
        train_set, test_set = test_part(train_set, seed)
    unlabelled = [part.name for part in (train_set, test_set) if part.labels is None]
    if unlabelled:
        chosen = without_labels(chosen, unlabelled[0], note if protocols is None else None)
    look = partial(extract, encoder, device=device, pool=pool, precision=precision, cache=cache)
    takes = {protocol.takes for protocol in chosen.values()}
    parts = [look(part) for part in (train_set, test_set)] if takes & {"features", "outside"} else []
    others = {}
    if "outside" in takes:
        judged = [test_part_of(part) for part in outside or other_sets(train_set)]
        others = {part.name: look(part.subset(spread(len(part), MOST_OUTSIDE)))[0] for part in judged}
    scores: list[Score] = []
    for name, protocol in chosen.items():
        if protocol.takes == "run":
            told = note if name in optional else None
            found = of_run(protocol, name, run, (train_set, test_set), seed, device, told)
        elif protocol.takes == "encoder":
            found = protocol.run(encoder, train_set, test_set, seed=seed, device=device)
        else:
            given: list[Any] = [known_labels(part) for part in parts] if protocol.labels else list(parts)
            found = protocol.run(*given, *([others] if protocol.takes == "outside" else []), seed=seed)
        if not found and protocol.takes != "run":
            note(f"{name} left out: too few samples or dimensions for it")
        scores += found
    return scores
