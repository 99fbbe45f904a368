"""The bench a claim's arms stand on: the same data, initial weights, batches and measures for each."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pretask import modalities
from pretask.data import Dataset, open_data
from pretask.data.dataset import spread
from pretask.encoders import build_encoder, load_encoder
from pretask.errors import PretaskError, UsageError
from pretask.evaluation.features import data_hash
from pretask.evaluation.protocols import evaluate, test_part
from pretask.registry import build_task
from pretask.studies.claim import Arm, Claim, Theory, Trained
from pretask.studies.sources import ROOT

if TYPE_CHECKING:
    from pretask.studies.claim import Compute
    from pretask.task import PretextTask

Note = Callable[[str], None]
FOLDER = "PRETASK_DATA"
SUFFIXES = ("", ".zip", ".npz", ".parquet")


def find_data(name: str) -> str | None:
    """The path of a data set among those a person keeps: in $PRETASK_DATA, else in `shared/data` beside
    the checkout.

    A set is a file or folder of this name, or a folder with an archive of this name in it.
    """
    folder = Path(os.environ.get(FOLDER) or ROOT.parents[2] / "shared" / "data")
    places = [folder / name / (name + suffix) for suffix in SUFFIXES[1:]]
    places += [folder / (name + suffix) for suffix in SUFFIXES]
    return next((str(place) for place in places if place.exists()), None)


@lru_cache(maxsize=2)
def opened(source: str, modality: str, reading: tuple[tuple[str, Any], ...]) -> Dataset:
    """Data in memory, once for all claims of a process."""
    return open_data(source, modality=modality, **dict(reading))


def without_last(dataset: Dataset, count: int) -> tuple[Dataset, Dataset]:
    """The samples of all but the last `count` classes, and those of these."""
    assert dataset.labels is not None, "classes are held out of labelled data"
    last = dataset.labels >= len(dataset.classes or ()) - count
    return dataset.subset((~last).nonzero().flatten()), dataset.subset(last.nonzero().flatten())


@dataclass(frozen=True)
class Bench:
    """What all arms of a claim share.

    Args:
        claim: what is run.
        train: samples to pretrain on.
        labelled: samples with labels for probes to learn from.
        test: samples that are judged.
        facts: what the data are, for the result.
        outside: test samples of the classes that are held out, if any are.
    """

    claim: Claim
    train: Dataset
    labelled: Dataset
    test: Dataset
    facts: dict[str, Any]
    outside: Dataset | None = None

    @classmethod
    def of(cls, claim: Claim, note: Note) -> Bench:
        """Open the claim's data, or its embedded ones where these are missing.

        Raises:
            UsageError: they are missing and nothing may stand in for them.
        """
        name, embedded = claim.data, claim.data in modalities.BY_EMBEDDED
        source = name if embedded else find_data(name) or (name if Path(name).exists() else None)
        if source is None and not claim.fallback:
            raise UsageError(f"there are no data at '{name}', and ${FOLDER} has none of this name")
        if source is None:
            name = source = claim.fallback
            note(f"{claim.data} is not in ${FOLDER}: {name} stands in for it")
        dataset = opened(source, claim.modality, tuple(claim.reading.items()))
        known, test = test_part(dataset, seed=0)
        outside = None
        if claim.held_out:
            (known, _), (test, outside) = (without_last(part, claim.held_out) for part in (known, test))
        pool = dataset if dataset.connected else known
        train, labelled, test = (
            part.subset(spread(len(part), count))
            for part, count in ((pool, claim.train), (known, claim.labelled), (test, claim.test))
        )
        facts = {
            "name": dataset.name if Path(name).is_absolute() else name,
            "train": len(train), "labelled": len(labelled), "test": len(test),
            "classes": len(test.classes or ()) - claim.held_out,
            **{key: str(value) for key, value in claim.reading.items()},
        }  # fmt: skip
        if name != claim.data:
            facts["instead of"] = claim.data
        return cls(claim, train, labelled, test, facts, outside)

    @property
    def hash(self) -> str:
        """Names the data and the claim's sizes; arms stay as they are where only seeds are added to them."""
        sizes = {name: value for name, value in vars(self.claim).items() if isinstance(value, (int, float, str))}
        sizes = {name: value for name, value in sizes.items() if name not in ("statement", "seeds")}
        sizes |= self.claim.inputs
        named = [data_hash(replace(part, name="")) for part in (self.train, self.labelled, self.test)]
        return hashlib.sha256(json.dumps([named, sizes, torch.__version__]).encode()).hexdigest()

    def encoder(self, arm: Arm, seed: int) -> torch.nn.Module:
        """The arm's encoder; all arms that name the same one get the same weights."""
        name = arm.encoder or self.claim.encoder
        if name in ("pixels", "raw"):
            return load_encoder(name, self.train.modality, **self.train.inputs)
        inputs = {**self.train.inputs, **self.claim.inputs}
        return build_encoder(name, self.train.modality, seed=seed, **inputs)

    def task(self, arm: Arm, seed: int) -> PretextTask:
        """What an arm trains, as it begins."""
        assert arm.method is not None
        encoder = self.encoder(arm, seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if isinstance(arm.method, str):
                return build_task(arm.method, encoder, arm.options)
            return arm.method(encoder)

    def trained(self, arm: Arm, seed: int, folder: Path) -> Trained:
        """Train an arm, from the folder's last checkpoint if there is one."""
        if arm.method is None:
            return Trained(self.encoder(arm, seed))
        task = self.task(arm, seed)
        steps = self.claim.steps if arm.steps is None else arm.steps
        if steps:
            from pretask.training.loop import fit
            from pretask.training.plan import make_plan

            batch = min(arm.batch_size or self.claim.batch_size, len(self.train))
            lr = self.claim.lr if arm.lr is None else arm.lr
            plan = make_plan(task.recipe, len(self.train), batch_size=batch, max_steps=steps, lr=lr)
            fit(task, self.train, plan, folder, seed=seed, resume=True)
        task.eval()
        return Trained(task.learned, task)

    def measure(self, trained: Trained, seed: int) -> dict[str, Tensor]:
        """Each metric as a value for every test item, or as a single number."""
        names = [metric for metric in self.claim.metrics if isinstance(metric, str)]
        found: dict[str, Tensor] = {}
        for score in evaluate(trained.encoder, self.labelled, self.test, names, seed) if names else ():
            plain = score.metric in ("accuracy", score.protocol)
            found[score.protocol if plain else f"{score.protocol} {score.metric}"] = (
                torch.tensor(score.value) if score.items is None else score.items
            )
        for metric in self.claim.metrics:
            if not isinstance(metric, str):
                with torch.no_grad():
                    found |= {name: torch.as_tensor(value) for name, value in metric(trained, self).items()}
        return finished(found)


@dataclass(frozen=True)
class Desk:
    """In a bench's place where nothing is trained: a theory's arms need no data.

    Args:
        claim: what is run.
    """

    claim: Theory
    facts = {"name": "none needed"}

    @property
    def hash(self) -> str:
        return hashlib.sha256(torch.__version__.encode()).hexdigest()

    def trained(self, arm: Compute, seed: int, folder: Path) -> Compute:
        return arm

    def measure(self, arm: Compute, seed: int) -> dict[str, Tensor]:
        return finished({name: torch.as_tensor(value) for name, value in arm(seed).items()})


def finished(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Metrics as they are kept.

    Raises:
        PretaskError: one is not finite.
    """
    for name, value in found.items():
        if not value.isfinite().all():
            raise PretaskError(f"the metric '{name}' is not finite")
    return {name: value.detach().double().cpu().contiguous() for name, value in found.items()}


@dataclass(frozen=True)
class Trial:
    """One arm with one seed, measured.

    Args:
        metrics: by name a value for each test item, or a single number.
        seconds: that training and measuring took.
    """

    metrics: Mapping[str, Tensor]
    seconds: float

    def value(self, metric: str) -> float:
        return float(self.metrics[metric].mean())

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        save_file(dict(self.metrics), partial, metadata={"seconds": repr(self.seconds)})
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> Trial:
        with safe_open(path, "pt") as file:
            metrics = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return cls(metrics, float(file.metadata()["seconds"]))


def run_trial(bench: Any, arm: Any, seed: int, folder: Path) -> Trial:
    """Train and measure one arm with one seed, on a bench or at a desk."""
    start = time.perf_counter()
    metrics = bench.measure(bench.trained(arm, seed, folder), seed)
    return Trial(metrics, time.perf_counter() - start)
