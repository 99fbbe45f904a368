"""Do trivial statistics already solve a pretext? A linear model on them, against the pretext's own answers.

What solves a pretext without understanding is what a network will learn first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from pretask.errors import UsageError
from pretask.evaluation.score import bootstrap_interval
from pretask.evaluation.trivial import STATISTICS
from pretask.task import PretextTask, Step

if TYPE_CHECKING:
    from pretask.data import Dataset

BATCH = 64
PICTURES = 2048
TEST_SHARE = 0.3
HINT = 0.25  # from here, as a share of the way from chance to perfect, a statistic counts as a shortcut


class Shortcut(NamedTuple):
    """How far one kind of trivial statistic gets.

    Args:
        statistic: its name, or `all` of them together.
        metric: `accuracy` for a choice, `retrieval` where parts of one picture are to be matched,
            `explained variance` where numbers are asked.
        value: the linear model's on pictures it was not fitted to.
        low: lower end of the 95 % bootstrap interval over pictures.
        high: upper end.
        chance: the value that knowing nothing gives.
        n: test pictures.
        verdict: what that means, in words.
    """

    statistic: str
    metric: str
    value: float
    low: float
    high: float
    chance: float
    n: int
    verdict: str


class Sample(NamedTuple):
    """All items' statistics and answers, which picture each comes from and in which batch it was shown.

    There are no answers where items are to be matched.
    """

    statistics: dict[str, np.ndarray]
    answer: np.ndarray
    source: np.ndarray
    batch: np.ndarray


class Found(NamedTuple):
    """A metric, its value for each test item, and its value at chance."""

    metric: str
    items: np.ndarray
    chance: float


@torch.no_grad()
def collect(task: PretextTask, dataset: Dataset, rows: torch.Tensor, seed: int) -> Sample:
    """Ask the task about these rows and reduce what it shows to statistics.

    Raises:
        UsageError: the task states no question, or nothing is known of the data's modality.
    """
    if dataset.modality not in STATISTICS:
        raise UsageError(f"no trivial statistics are known for {dataset.modality} data")
    statistics: dict[str, list[torch.Tensor]] = {name: [] for name in STATISTICS[dataset.modality]}
    answers: list[torch.Tensor] = []
    sources, batches = [], []
    for number, part in enumerate(rows.split(BATCH)):
        question = task.question(dataset.batch(part), Step.at(number, seed=seed))
        if question is None:
            raise UsageError(f"{type(task).__name__} asks nothing that trivial statistics could answer")
        shown = question.shown.float()
        for name, statistic in STATISTICS[dataset.modality].items():
            statistics[name].append(statistic(shown).cpu())
        if question.answer is not None:
            answers.append(question.answer.cpu())
        sources.append(question.source.cpu() + number * BATCH)
        batches.append(torch.full((len(shown),), number))
    return Sample(
        {name: torch.cat(parts).double().numpy() for name, parts in statistics.items()},
        torch.cat(answers).numpy() if answers else np.empty(0),
        torch.cat(sources).numpy(),
        torch.cat(batches).numpy(),
    )


def choose(x: np.ndarray, train: Sample, z: np.ndarray, test: Sample) -> Found:
    """Logistic regression; chance is the training answers' commonest."""
    from sklearn.linear_model import LogisticRegression

    classes, counts = np.unique(train.answer, return_counts=True)
    right = np.full(len(z), float(len(classes) == 1))
    if len(classes) > 1:
        right = LogisticRegression(max_iter=1000).fit(x, train.answer).predict(z) == test.answer
    return Found("accuracy", right.astype(float), float((test.answer == classes[counts.argmax()]).mean()))


def estimate(x: np.ndarray, train: Sample, z: np.ndarray, test: Sample) -> Found:
    """Ridge regression: share of the answers' variance explained."""
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(np.logspace(-2, 4, 13)).fit(x, train.answer)
    error = np.square(model.predict(z) - test.answer).sum(1)
    spread = np.square(test.answer - train.answer.mean(0)).sum(1).mean()
    return Found("explained variance", 1 - error / max(spread, 1e-12), 0.0)


def match(x: np.ndarray, train: Sample, z: np.ndarray, test: Sample) -> Found:
    """Nearest neighbour within the batch, after the spread within a picture is whitened away (as linear
    discriminant analysis does); right if it comes from the same picture."""
    source = np.unique(train.source, return_inverse=True)[1]
    means = np.stack([np.bincount(source, column) for column in x.T], 1) / np.bincount(source)[:, None]
    within = np.cov((x - means[source]).T).reshape(x.shape[1], x.shape[1])
    values, vectors = np.linalg.eigh(within + 1e-3 * np.eye(len(within)))
    z = z @ (vectors / np.sqrt(values))
    right, chance = np.zeros(len(z)), np.zeros(len(z))
    for number in np.unique(test.batch):
        here = np.flatnonzero(test.batch == number)
        gap = np.square(z[here, None] - z[None, here]).sum(2)
        np.fill_diagonal(gap, np.inf)
        same = test.source[here, None] == test.source[None, here]
        right[here] = same[np.arange(len(here)), gap.argmin(1)]
        chance[here] = (same.sum(1) - 1) / max(1, len(here) - 1)
    return Found("retrieval", right, float(chance.mean()))


def standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both by the training part's mean and spread; what never varies becomes 0."""
    mean, spread = train.mean(0), train.std(0)
    spread = np.where(spread < 1e-9, np.inf, spread)
    return (train - mean) / spread, (test - mean) / spread


def verdict(value: float, low: float, chance: float) -> str:
    """What a row means, in words."""
    reach = (value - chance) / max(1 - chance, 1e-9)
    if low <= chance:
        return "no better than chance"
    if reach < HINT:
        return f"a hint, no solution: {reach:.0%} of the way from chance to perfect"
    return f"a shortcut: {reach:.0%} of the way from chance to perfect"


def shortcuts(task: PretextTask, dataset: Dataset, seed: int = 0) -> list[Shortcut]:
    """How far trivial statistics get at a task's question, each kind alone and all together.

    Args:
        task: one that implements `question`.
        dataset: at most 2048 of its samples are used, 30 % of them to test on.
        seed: of the split and of the pretext's draws.

    Raises:
        UsageError: the task states no question, or there are too few samples.
    """
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:PICTURES]
    held = round(TEST_SHARE * len(order))
    if held < 4:
        raise UsageError(f"{len(order)} samples are too few to look for shortcuts: give at least 14")
    train = collect(task, dataset, order[held:], seed)
    test = collect(task, dataset, order[:held], seed + 1)
    if not train.answer.size:
        solve = match
    else:
        solve = estimate if np.issubdtype(train.answer.dtype, np.floating) else choose
    parts = {name: [name] for name, values in train.statistics.items() if values.shape[1]}
    rows = []
    for name, members in {**parts, "all": list(parts)}.items():
        x, z = (np.concatenate([part.statistics[m] for m in members], axis=1) for part in (train, test))
        x, z = standardise(x, z)
        found = solve(x, train, z, test)
        rows.append(row(name, found, test.source, seed))
    return rows


def row(statistic: str, found: Found, source: np.ndarray, seed: int) -> Shortcut:
    """The mean over pictures with its interval: items of one picture are not independent."""
    picture = np.unique(source, return_inverse=True)[1]
    values = np.bincount(picture, found.items) / np.bincount(picture)
    low, high = bootstrap_interval(torch.from_numpy(values), seed=seed)
    value = float(values.mean())
    return Shortcut(
        statistic, found.metric, value, low, high, found.chance, len(values),
        verdict(value, low, found.chance),
    )  # fmt: skip
