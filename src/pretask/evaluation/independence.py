"""Does a pretext fit a labelled task? How far what it hides is from independent of what it shows, given the label.

Predicting What You Already Know Helps (Lee et al., NeurIPS 2021): the representation psi(x1) = E[X2 | x1] answers
the task by a linear head up to eps_CI^2 / beta^2, where eps_CI^2 = E|E[X2 | X1] - E[E[X2 | Y] | X1]|^2 and beta is
the smallest singular value of E[X2 | Y]. Both are estimated here by kernel ridge regression.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.errors import UsageError
from pretask.evaluation.score import bootstrap_interval
from pretask.evaluation.splits import stratified
from pretask.objectives.independence import class_means, within_class
from pretask.task import PretextTask, Question, Step

if TYPE_CHECKING:
    from pretask.data import Dataset

Kernel = Literal["rbf", "linear"]
Model = Callable[[Float[Tensor, "items ones"]], Float[Tensor, "items twos"]]
PENALTIES = tuple(10.0**power for power in range(-8, 3))  # of the mean of the kernel's diagonal
BATCH, SAMPLES, ITEMS, SIDE = 64, 2048, 1024, 24
"""Samples asked at once and in all; questions of each half that a regression sees; pixels a side."""
SHUFFLES = 20
LITTLE = 0.01  # of X2's variance: less is nothing
CLEAR = 1.5  # beta must be so many times what shuffled labels give


class Pairs(NamedTuple):
    """What was shown, what was hidden and the label, an item a row.

    Args:
        x1: what the network sees.
        x2: what it is asked for.
        y: labels 0 .. classes-1.
        source: the sample each item is made from.
    """

    x1: Float[Tensor, "items ones"]
    x2: Float[Tensor, "items twos"]
    y: Int[Tensor, "items"]
    source: Int[Tensor, "items"]

    def at(self, rows: Tensor) -> Pairs:
        return Pairs(*(part[rows] for part in self))


class Independence(NamedTuple):
    """How far X1 and X2 are from independent given the label, in units of X2's variance.

    Args:
        pretext: what was asked.
        explained: how much of X2 is told by X1: E|psi(X1) - E X2|^2.
        dependence: eps_CI^2, how much of X2 is told by X1 and not by the label.
        low: lower end of its 95 % bootstrap interval over samples.
        high: upper end.
        beta: smallest singular value of E[[X2, 1] | Y], or of E[X2 | Y] without an intercept, not centred.
        beta_chance: what it is with labels shuffled.
        bound: eps_CI^2 / beta^2, on the squared error of the best linear head on psi against P(Y | X1), in
            units of the labels' variance: above 1 it says nothing.
        lost: this error as measured, by what a head on psi loses against a regression on X1.
        n: samples.
        verdict: what that means, in words.
    """

    pretext: str
    explained: float
    dependence: float
    low: float
    high: float
    beta: float
    beta_chance: float
    bound: float
    lost: float
    n: int
    verdict: str


class KernelRidge(NamedTuple):
    """Kernel ridge regression with intercept, ready for any answers.

    Args:
        kernel: `rbf` (as wide as the median distance of two items) or `linear`.
        x: what it looks at.
        width: of the rbf kernel.
        values: eigenvalues of the kernel's matrix.
        vectors: its eigenvectors.
    """

    kernel: Kernel
    x: Float[Tensor, "items ones"]
    width: float
    values: Float[Tensor, "items"]
    vectors: Float[Tensor, "items items"]

    @classmethod
    def of(cls, x: Float[Tensor, "items ones"], kernel: Kernel = "rbf") -> KernelRidge:
        apart = F.pdist(x) if kernel == "rbf" else x.new_empty(0)
        apart = apart[apart > 0]
        width = float(apart.median()) if len(apart) else 1.0
        model = cls(kernel, x, width, torch.empty(0), torch.empty(0))
        values, vectors = torch.linalg.eigh(model.between(x))
        return model._replace(values=values.clamp(min=0), vectors=vectors)

    def between(self, x: Float[Tensor, "items ones"]) -> Float[Tensor, "items fitted"]:
        if self.kernel == "linear":
            centre = self.x.mean(0)
            return (x - centre) @ (self.x - centre).T
        return (-torch.cdist(x, self.x).square() / (2 * self.width**2)).exp()

    def fit(self, y: Float[Tensor, "items twos"]) -> Model:
        """The regression of these answers; its penalty has the least leave-one-out error (in closed form)."""
        mean, count = y.mean(0), len(y)
        turned, sums, errors = self.vectors.T @ (y - mean), self.vectors.sum(0), []
        size = max(float(self.values.mean()), 1e-300)
        for penalty in PENALTIES:
            kept = self.values / (self.values + penalty * size)
            leverage = (
                self.vectors.square() @ kept + (1 - self.vectors @ (kept * sums)) / count
            )  # the mean's, too
            residual = y - mean - self.vectors @ (kept[:, None] * turned)
            errors.append(float((residual / (1 - leverage).clamp(min=1e-9)[:, None]).square().sum()))
        best = PENALTIES[errors.index(min(errors))]
        dual = self.vectors @ (turned / (self.values + best * size)[:, None])
        return lambda x: self.between(x) @ dual + mean


def told(answer: Tensor, y: Float[Tensor, "items twos"]) -> Float[Tensor, "items"]:
    """By how much an answer is better than 0, in squared error, for each item.

    Where it comes from a model of psi = E[y | x1] that was fitted to other items, the mean is E|psi|^2 less
    E|psi - model|^2: never too large in expectation, as the mean of |model|^2 always is.
    """
    return y.square().sum(1) - (y - answer).square().sum(1)


def smallest_mean(
    x2: Float[Tensor, "items twos"], y: Int[Tensor, "items"], classes: int, intercept: bool = True
) -> float:
    """beta: the classes-th singular value of E[[X2, 1] | Y], 0 where that has fewer dimensions.

    The 1 is told exactly by anything, and heads have an intercept: where X2 is shifted does not matter much then.
    Without `intercept` it is left out, which is the paper's E[X2 | Y].
    """
    read = torch.cat([x2, x2.new_ones(len(x2), 1)], 1) if intercept else x2
    values = torch.linalg.svdvals(class_means(read, y, classes))
    return float(values[classes - 1]) if len(values) >= classes else 0.0


class Fold(NamedTuple):
    """What regressions fitted to some samples say of others.

    Args:
        explained: what X1 tells of X2, for each held-out item.
        dependence: what it tells of X2 less the mean of its class: eps_CI^2 by residual regression.
        lost: the squared error of the labels by a linear head on psi less that by a regression on X1, as a
            share of the labels' variance.
    """

    explained: Float[Tensor, "items"]
    dependence: Float[Tensor, "items"]
    lost: float

    @classmethod
    def of(cls, fitted: Pairs, held: Pairs, kernel: Kernel = "rbf") -> Fold:
        classes = int(torch.cat([fitted.y, held.y]).max()) + 1
        truth, held_truth = (F.one_hot(part.y, classes).to(part.x1.dtype) for part in (fitted, held))
        model = KernelRidge.of(fitted.x1, kernel)
        psi, mean = model.fit(fitted.x2), fitted.x2.mean(0)
        rest = model.fit(within_class(fitted.x2, fitted.y))
        head = KernelRidge.of(psi(fitted.x1), "linear").fit(truth)
        by_psi, by_x1 = head(psi(held.x1)), model.fit(truth)(held.x1)
        more = (by_psi - held_truth).square().sum() - (by_x1 - held_truth).square().sum()
        return cls(
            told(psi(held.x1) - mean, held.x2 - mean),
            told(rest(held.x1), within_class(held.x2, held.y)),
            float(more / (held_truth - truth.mean(0)).square().sum()),
        )


def judge(explained: float, dependence: float, low: float, beta: float, chance: float, bound: float) -> str:
    """What a row means, in words."""
    if explained < LITTLE:
        return "nothing to judge: the hidden part cannot be told from the rest"
    if beta <= CLEAR * chance:
        return "the hidden part says nothing clear of the label: the theory gives no promise"
    share = max(0.0, dependence) / max(explained, 1e-12)
    if low <= 0:
        return "fits: given the label nothing more is shared"
    if bound < 1:
        return f"fits: the bound is {bound:.0%} of all there is to lose"
    return f"in part: {min(share, 1.0):.0%} of what is shared is not the label, and the bound says nothing"


def independence(
    fitted: Pairs,
    held: Pairs,
    kernel: Kernel = "rbf",
    seed: int = 0,
    pretext: str = "",
    intercept: bool = True,
) -> Independence:
    """Estimate eps_CI, beta and the bound they give.

    Args:
        fitted: what regressions are fitted to.
        held: what they are judged by; then both change places. No sample may be in both.
        kernel: of the regressions on X1.
        seed: of shuffled labels and the interval.
        pretext: a name for the row.
        intercept: of the heads that beta is for (`smallest_mean`).

    Raises:
        UsageError: X2 never varies, or there is but one class.
    """
    classes = int(torch.cat([fitted.y, held.y]).max()) + 1
    whole = Pairs(*(torch.cat(parts) for parts in zip(fitted, held, strict=True)))
    spread = (whole.x2 - whole.x2.mean(0)).square().sum(1).mean()
    if spread <= 0 or classes < 2:
        raise UsageError(
            "there is nothing to judge: the hidden part never varies, or there is one class only"
        )
    fitted, held, whole = (part._replace(x2=part.x2 / spread.sqrt()) for part in (fitted, held, whole))
    folds = [Fold.of(one, other, kernel) for one, other in ((fitted, held), (held, fitted))]
    items = torch.cat([fold.dependence for fold in folds])
    per_sample = by_source(items, torch.cat([held.source, fitted.source]))
    low, high = bootstrap_interval(per_sample, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(whole.y), generator=generator) for _ in range(SHUFFLES)]
    beta = smallest_mean(whole.x2, whole.y, classes, intercept)
    shuffled = [smallest_mean(whole.x2, whole.y[order], classes, intercept) for order in orders]
    chance = sum(shuffled) / SHUFFLES
    value, explained = float(items.mean()), float(torch.cat([fold.explained for fold in folds]).mean())
    variance = 1 - float((torch.bincount(whole.y) / len(whole.y)).square().sum())  # E|Y - E Y|^2
    bound = max(0.0, value) / beta**2 / variance if beta > 0 else float("inf")
    lost = sum(fold.lost for fold in folds) / 2
    verdict = judge(explained, value, low, beta, chance, bound)
    return Independence(
        pretext, explained, value, low, high, beta, chance, bound, lost, len(per_sample), verdict
    )


def by_source(items: Float[Tensor, "items"], source: Int[Tensor, "items"]) -> Float[Tensor, "samples"]:
    """The mean of each sample's items: those of one sample are not independent."""
    _, place, count = source.unique(return_inverse=True, return_counts=True)
    return items.new_zeros(len(count)).index_add(0, place, items) / count


def small(x: Tensor) -> Float[Tensor, "items values"]:
    """A vector an item: pictures, videos and volumes at most 24 a side, tokens (padding -1) as counts."""
    if not x.is_floating_point() and x.ndim == 2:
        known, place = x.unique(return_inverse=True)
        counts = torch.zeros(len(x), len(known), dtype=torch.float64)
        return counts.scatter_add(1, place, torch.ones_like(place, dtype=counts.dtype))[:, known >= 0]
    x = x.double()
    if x.ndim in (4, 5):
        sizes = [min(size, SIDE) for size in x.shape[2:]]
        x = F.interpolate(x, sizes, mode="area")
    return x.flatten(1)


def answers(x: Tensor) -> Float[Tensor, "items values"]:
    """What is hidden as a vector: numbers as they are, classes as one-hot."""
    if x.ndim > 1:
        return small(x)
    if x.is_floating_point():
        return x.double()[:, None]
    return F.one_hot(x.unique(return_inverse=True)[1]).double()


def both(question: Question) -> tuple[Tensor, Tensor, Tensor]:
    """X1, X2 and the row of the batch each pair is made from.

    Classes become one-hot later, with those of all batches; where the question is which belong together, X2 is
    a second item of the same row.
    """
    shown, source = question.shown.cpu(), question.source.cpu()
    if question.answer is not None:
        answer = question.answer.cpu()
        return shown, answer.flatten(1) if answer.is_floating_point() and answer.ndim > 1 else answer, source
    order = source.argsort(stable=True)
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = source[order][1:] != source[order][:-1]
    place = (first.nonzero().flatten()[:, None] + torch.arange(2)).clamp(max=len(order) - 1)
    pair = order[place]
    pair = pair[(source[pair[:, 0]] == source[pair[:, 1]]) & (pair[:, 0] != pair[:, 1])]
    return shown[pair[:, 0]], shown[pair[:, 1]], source[pair[:, 0]]


@torch.no_grad()
def collect(task: PretextTask, dataset: Dataset, rows: Int[Tensor, "samples"], seed: int) -> Pairs:
    """Ask the task about these rows.

    Raises:
        UsageError: the data have no labels, or the task states no question.
    """
    if dataset.labels is None:
        raise UsageError(f"'{dataset.name}' has no labels: there is no task that the pretext could fit")
    shown, hidden, sources = [], [], []
    for number, part in enumerate(rows.split(BATCH)):
        question = task.question(dataset.batch(part), Step.at(number, seed=seed))
        if question is None:
            raise UsageError(f"{type(task).__name__} does not say what it hides (it states no question)")
        x1, x2, source = both(question)
        shown.append(x1)
        hidden.append(x2)
        sources.append(part[source])
    source = torch.cat(sources)
    labels = dataset.labels[source].unique(return_inverse=True)[1]
    return Pairs(small(torch.cat(shown)), answers(torch.cat(hidden)), labels, source)


def halves(pairs: Pairs, seed: int) -> tuple[Pairs, Pairs]:
    """The items of half the samples and those of the others, stratified by label, `ITEMS` of each at most."""
    samples, place = pairs.source.unique(return_inverse=True)
    labels = torch.zeros(len(samples), dtype=torch.long).scatter(0, place, pairs.y)
    held = torch.zeros(len(samples), dtype=torch.bool)
    held[stratified(labels, 0.5, seed)[1]] = True
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for rows in (~held[place], held[place]):
        found = rows.nonzero().flatten()
        parts.append(pairs.at(found[torch.randperm(len(found), generator=generator)[:ITEMS]]))
    return parts[0], parts[1]


def task_independence(
    task: PretextTask,
    dataset: Dataset,
    kernel: Kernel = "rbf",
    seed: int = 0,
    pretext: str = "",
    intercept: bool = True,
) -> Independence:
    """The same of a task's own question: X1 is what it shows, X2 the answer.

    Args:
        task: one that implements `question`.
        dataset: with labels; at most 2048 of its samples are used.
        kernel: of the regressions on X1.
        seed: of the split, the pretext's draws and the interval.
        pretext: a name for the row.
        intercept: of the heads that beta is for (`smallest_mean`).

    Raises:
        UsageError: no labels, no question, or too few samples.
    """
    rows = torch.arange(len(dataset))
    if dataset.labels is not None:
        rows = rows[dataset.labels >= 0]
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:SAMPLES]]
    if len(rows) < 20:
        raise UsageError(f"{len(rows)} labelled samples are too few: give at least 20")
    fitted, held = halves(collect(task, dataset, rows, seed), seed)
    return independence(fitted, held, kernel, seed, pretext, intercept)
