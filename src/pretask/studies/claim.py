"""A claim: a paper's central statement as a small experiment, declared in a few lines beside its method.

`pretask/claims/<slug>.py` (dashes as underscores) holds `CLAIM = Claim(...)`; being there is being listed.
Nothing here imports torch, so that claims can be listed at once.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pretask import claims
from pretask.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pretask.studies.bench import Bench
    from pretask.task import PretextTask

    MakeTask = Callable[[nn.Module], PretextTask]
    Measure = Callable[["Trained", Bench], Mapping[str, Tensor | float]]
    Compute = Callable[[int], Mapping[str, Tensor | float]]

QUICK: ContextVar[bool] = ContextVar("QUICK", default=False)
"""Whether a claim is only shown to run: what an arm does besides its own steps it then does briefly."""

SMALL_VIT = "vit_tiny_patch16_224:depth=4,embed_dim=128,num_heads=4"
SMALL_RESNET = "resnet10t:stem_width=16,channels=[32,64,128,256]"


@dataclass(frozen=True)
class Trained:
    """What an arm leaves to be measured: its encoder, and the whole task where there is one."""

    encoder: nn.Module
    task: PretextTask | None = None


@dataclass(frozen=True)
class Arm:
    """One way to get an encoder.

    Args:
        method: a slug; or a function from an encoder to a task, for an ablation that is no option of the
            method; None judges `encoder` as it is.
        options: the method's constructor arguments that differ from its defaults.
        steps: optimiser steps; None takes the claim's, 0 leaves the network as it was initialised.
        encoder: None takes the claim's; `pixels` is the picture itself.
        batch_size: None takes the claim's.
        lr: None takes the claim's.
    """

    method: str | MakeTask | None
    options: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    encoder: str | None = None
    batch_size: int | None = None
    lr: float | Literal["auto"] | None = None


@dataclass(frozen=True)
class Comparison:
    """What is claimed of two arms: the difference of a metric lies on one side of a margin.

    Args:
        metric: a protocol's name (its accuracy), or a name that a measure gives.
        arm: the arm the claim speaks of.
        against: the arm it is compared with; None compares the metric itself with the margin.
        claimed: `higher` or `lower` than the margin.
        margin: 0 asks for any difference; -0.02 with `higher` allows to be worse by 0.02.
    """

    metric: str
    arm: str
    against: str | None = None
    claimed: Literal["higher", "lower"] = "higher"
    margin: float = 0.0

    def __str__(self) -> str:
        sign = ">" if self.claimed == "higher" else "<"
        left = f"{self.arm} - {self.against}" if self.against else self.arm
        return f"{self.metric}: {left} {sign} {self.margin:g}"


@dataclass(frozen=True)
class Claim:
    """A statement, and the experiment that could refute it.

    Args:
        statement: what the paper says, in one sentence.
        arms: by name; every arm of a seed starts from the same encoder weights and sees the same batches.
        comparisons: what must come out; the first is the headline.
        metrics: names of evaluation protocols; or functions from what was trained and the bench to named
            values of each test item (a mean is reported, and differences are paired) or plain numbers.
        data: a file or folder in the folder of data sets (`bench.find_data`) or anywhere, or an embedded set.
        fallback: an embedded set for those who do not have the data; the result says so. Empty: none.
        encoder: what every arm trains.
        modality: what the data are read as.
        reading: settings of the data's reader, such as `image_size`.
        inputs: what the encoder is told beside what the data are, such as `patch_size`.
        steps: optimiser steps of each arm.
        batch_size: samples a step.
        lr: learning rate for this batch; `auto` is the method's own, scaled as its paper says. A paper's rate is
            that of large batches and networks and of many steps, and may be too small scaled down to these.
        train: samples to pretrain on, spread evenly over the data's training split.
        labelled: samples with labels that probes learn from, spread likewise.
        test: samples that are judged.
        held_out: so many of the last classes are in none of these parts; their test samples are the bench's
            `outside`.
        seeds: repetitions with other weights, batches and pretexts.
    """

    statement: str
    arms: dict[str, Arm]
    comparisons: tuple[Comparison, ...]
    metrics: tuple[str | Measure, ...] = ("knn", "linear")
    data: str = "cifar10_subset"
    fallback: str = "digits-on-textures"
    encoder: str = SMALL_VIT
    modality: str = "image"
    reading: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    steps: int = 300
    batch_size: int = 128
    lr: float | Literal["auto"] = "auto"
    train: int = 10_000
    labelled: int = 5_000
    test: int = 2_000
    held_out: int = 0
    seeds: int = 3

    def __post_init__(self) -> None:
        check(self.comparisons, self.arms)

    @property
    def methods(self) -> list[str]:
        """The slugs that its arms train."""
        slugs = [arm.method for arm in self.arms.values() if isinstance(arm.method, str)]
        return list(dict.fromkeys(part for slug in slugs for part in slug.split("+")))


@dataclass(frozen=True)
class Theory:
    """A statement whose arms are computed and not trained; the rest is a claim's.

    Args:
        statement: what the paper says, in one sentence.
        arms: by name a function from a seed to named values or plain numbers.
        comparisons: what must come out; the first is the headline.
        seeds: repetitions with other random cases.
    """

    statement: str
    arms: dict[str, Compute]
    comparisons: tuple[Comparison, ...]
    seeds: int = 5
    methods: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check(self.comparisons, self.arms)


def check(comparisons: Iterable[Comparison], arms: Iterable[str]) -> None:
    """
    Raises:
        UsageError: something is compared that is no arm.
    """
    for comparison in comparisons:
        for name in (comparison.arm, comparison.against):
            if name is not None and name not in arms:
                raise UsageError(f"'{comparison}': there is no arm '{name}' among {', '.join(arms)}")


def module_of(slug: str) -> str:
    return f"{claims.__name__}.{slug.replace('-', '_')}"


def list_claims() -> list[str]:
    """The slugs that have a claim."""
    return sorted(info.name.replace("_", "-") for info in pkgutil.iter_modules(claims.__path__))


def find_claim(slug: str) -> Claim | Theory:
    """The claim of a slug.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    known = list_claims()
    if slug not in known:
        near = get_close_matches(slug, known, n=3, cutoff=0.4) or known
        raise UsageError(f"there is no claim '{slug}'; there is: {', '.join(near)}")
    return importlib.import_module(module_of(slug)).CLAIM
