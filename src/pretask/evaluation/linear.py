"""Linear probe: multinomial logistic regression on frozen features, for many penalties at once.

The features are rotated onto their principal axes first. There a diagonal knows the curvature of the loss
(Böhning's bound: at most half the variance, plus the penalty), and L-BFGS scaled by it needs tens of
iterations where plain L-BFGS needs hundreds; penalties that are fitted together share the two matrix products of an
iteration.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.evaluation.score import Known, Score, accuracy_score
from pretask.evaluation.splits import stratified

PENALTIES = (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
MEMORY = 256 * 2**20  # bytes of logits held at once
HISTORY = 10


class Scale(NamedTuple):
    """Standardisation of features: batch normalisation without learned parameters."""

    mean: Float[Tensor, "dim"]
    std: Float[Tensor, "dim"]

    @classmethod
    def of(cls, x: Float[Tensor, "items dim"], eps: float = 1e-6) -> Scale:
        return cls(x.mean(0), (x.var(0, correction=0) + eps).sqrt())

    def __call__(self, x: Float[Tensor, "items dim"]) -> Float[Tensor, "items dim"]:
        return (x - self.mean) / self.std


class Axes(NamedTuple):
    """Principal axes of features; coordinates with a constant 1 behind them (for the intercept)."""

    axes: Float[Tensor, "dim rank"]
    variance: Float[Tensor, "rank"]

    @classmethod
    def of(cls, x: Float[Tensor, "items dim"]) -> Axes:
        """Of the second moments of `x`; directions without any are dropped."""
        wide = x.shape[1] > x.shape[0]
        moments = (x @ x.T if wide else x.T @ x) / len(x)
        variance, axes = torch.linalg.eigh(moments)
        kept = variance > 1e-6 * variance[-1].clamp(min=1e-12)
        variance, axes = variance[kept], axes[:, kept]
        if wide:  # from the eigenvectors of the items to those of the features
            axes = x.T @ axes / (variance * len(x)).sqrt()
        return cls(axes, variance)

    def __call__(self, x: Float[Tensor, "items dim"]) -> Float[Tensor, "items rank+1"]:
        return torch.cat([x @ self.axes, x.new_ones(len(x), 1)], dim=1)


def objective(
    weight: Float[Tensor, "fits classes rank+1"],
    x: Float[Tensor, "items rank+1"],
    y: Int[Tensor, "items"],
    penalty: Float[Tensor, "fits 1 rank+1"],
    memory: int,
) -> tuple[Float[Tensor, "fits"], Float[Tensor, "fits classes rank+1"]]:
    """Mean cross-entropy + penalty/2 |w|^2 of each fit, and its gradient."""
    fits, classes, _ = weight.shape
    flat = weight.flatten(0, 1)
    loss, gradient = weight.new_zeros(fits), torch.zeros_like(flat)
    for rows, truth in zip(*(t.split(max(1, memory // (8 * len(flat)))) for t in (x, y)), strict=True):
        log_p = (flat @ rows.T).view(fits, classes, -1).log_softmax(1)  # items last: five times faster
        at_truth = truth.expand(fits, 1, -1)
        loss -= log_p.gather(1, at_truth).sum((1, 2))
        residual = log_p.exp_()
        residual.scatter_add_(1, at_truth, -residual.new_ones(1).expand_as(at_truth))
        gradient.addmm_(residual.flatten(0, 1), rows)
    gradient = gradient.view_as(weight) / len(x) + penalty * weight
    return loss / len(x) + (penalty * weight**2).sum((1, 2)) / 2, gradient


def dot(a: Float[Tensor, "fits classes rank"], b: Float[Tensor, "fits classes rank"]) -> Tensor:
    return (a * b).sum((1, 2), keepdim=True)


class Pair(NamedTuple):
    """A step that was taken, how it changed the gradient, and 1 / their product (0: forget the step)."""

    step: Float[Tensor, "fits classes rank+1"]
    change: Float[Tensor, "fits classes rank+1"]
    rho: Float[Tensor, "fits 1 1"]

    @classmethod
    def of(cls, step: Tensor, change: Tensor) -> Pair:
        product = dot(step, change)
        sound = product > 1e-10 * (dot(step, step) * dot(change, change)).sqrt()
        return cls(step, change, torch.where(sound, 1 / product, 0))

    def only(self, fits: Tensor) -> Pair:
        return Pair(*(part[fits] for part in self))


def descent(
    gradient: Float[Tensor, "fits classes rank+1"], history: list[Pair], scale: Float[Tensor, "fits 1 rank+1"]
) -> Float[Tensor, "fits classes rank+1"]:
    """L-BFGS' two loops (Nocedal & Wright, algorithm 7.4), every fit by itself, from H0 = gamma * scale."""
    q, weights = gradient.clone(), []
    for step, change, rho in reversed(history):
        weights.append(rho * dot(step, q))
        q -= weights[-1] * change
    q *= scale
    if history:
        _, change, rho = history[-1]
        q *= torch.where(rho > 0, 1 / (rho * dot(change, scale * change)), 1)
    for (step, change, rho), weight in zip(history, reversed(weights), strict=True):
        q += (weight - rho * dot(change, q)) * step
    return -q


def minimise(
    x: Float[Tensor, "items rank+1"],
    y: Int[Tensor, "items"],
    penalty: Float[Tensor, "fits 1 rank+1"],
    scale: Float[Tensor, "fits 1 rank+1"],
    weight: Float[Tensor, "fits classes rank+1"],
    max_iter: int,
    tol: float,
    memory: int,
) -> Float[Tensor, "fits classes rank+1"]:
    """Preconditioned L-BFGS with backtracking; a fit that has converged leaves the batch."""
    result, active = weight.clone(), torch.arange(len(weight), device=weight.device)
    history: list[Pair] = []
    loss, gradient = objective(weight, x, y, penalty, memory)
    for _ in range(max_iter):
        direction = descent(gradient, history, scale)
        slope = dot(gradient, direction).flatten()
        going = -slope > tol * loss  # -slope estimates twice what is left to gain
        if not going.all():
            result[active] = weight
            if not going.any():
                return result
            active, loss, slope = active[going], loss[going], slope[going]
            weight, gradient, direction = weight[going], gradient[going], direction[going]
            penalty, scale = penalty[going], scale[going]
            history = [pair.only(going) for pair in history]
        length = torch.ones_like(loss)
        for _ in range(20):
            step = length[:, None, None] * direction
            new_loss, new_gradient = objective(weight + step, x, y, penalty, memory)
            short = new_loss <= loss + 1e-4 * length * slope + 1e-7 * loss  # Armijo, up to float32's rounding
            if short.all():
                break
            length = torch.where(short, length, length / 2)
        history = [*history[-(HISTORY - 1) :], Pair.of(step, new_gradient - gradient)]
        weight, loss, gradient = weight + step, new_loss, new_gradient
    result[active] = weight
    return result


class Classifier(NamedTuple):
    """Linear classifiers on raw features, one for each penalty."""

    scale: Scale
    weight: Float[Tensor, "fits dim classes"]
    bias: Float[Tensor, "fits classes"]

    def __call__(self, x: Float[Tensor, "items dim"]) -> Float[Tensor, "fits items classes"]:
        return self.scale(x) @ self.weight + self.bias[:, None]


class Problem(NamedTuple):
    """What fits of any penalty share: features on their principal axes, and the labels."""

    scale: Scale
    axes: Axes
    x: Float[Tensor, "items rank+1"]
    y: Int[Tensor, "items"]
    classes: int

    @classmethod
    def of(
        cls, x: Float[Tensor, "items dim"], y: Tensor, classes: int, scale: Scale | None = None
    ) -> Problem:
        scale = scale or Scale.of(x)
        standard = scale(x)
        axes = Axes.of(standard)
        return cls(scale, axes, axes(standard), y, classes)

    def solve(
        self,
        penalties: Sequence[float],
        start: Float[Tensor, "#fits classes rank+1"] | None = None,
        *,
        max_iter: int,
        tol: float = 1e-5,
        memory: int = MEMORY,
    ) -> Float[Tensor, "fits classes rank+1"]:
        """The weights of one fit for each penalty."""
        strength = self.x.new_tensor(penalties)[:, None, None]
        curvature = torch.cat([self.axes.variance, self.axes.variance.new_ones(1)]) / 2
        penalty = strength.expand(-1, 1, len(curvature)).clone()
        penalty[..., -1] = 0
        if start is None:
            start = self.x.new_zeros(1, self.classes, len(curvature))
        start = start.expand(len(penalties), -1, -1)
        return minimise(self.x, self.y, penalty, 1 / (curvature + penalty), start, max_iter, tol, memory)

    def classifier(self, weight: Float[Tensor, "fits classes rank+1"]) -> Classifier:
        rows = torch.einsum("dr,fcr->fdc", self.axes.axes, weight[..., :-1])
        return Classifier(self.scale, rows, weight[..., -1])

    def weights(self, model: Classifier) -> Float[Tensor, "fits classes rank+1"]:
        """A classifier that was standardised otherwise, as weights of this problem."""
        ratio = self.scale.std / model.scale.std
        shift = (self.scale.mean - model.scale.mean) / model.scale.std
        rows = torch.einsum("dr,fdc->fcr", self.axes.axes, ratio[:, None] * model.weight)
        bias = model.bias + torch.einsum("d,fdc->fc", shift, model.weight)
        return torch.cat([rows, bias[..., None]], dim=2)


def fit_logistic(
    x: Float[Tensor, "items dim"],
    y: Int[Tensor, "items"],
    penalties: tuple[float, ...] = (1e-3,),
    *,
    classes: int | None = None,
    scale: Scale | None = None,
    max_iter: int = 200,
    tol: float = 1e-5,
    memory: int = MEMORY,
) -> Classifier:
    """Multinomial logistic regression on standardised features, one fit for each penalty.

    Minimises mean cross-entropy + penalty/2 |w|^2; the intercept is free. (scikit-learn's C is
    1 / (penalty * items).)

    Args:
        x: features.
        y: labels 0 .. classes-1.
        penalties: strengths of the L2 penalty.
        classes: number of classes; default the largest label + 1.
        scale: standardisation; default that of `x`.
        max_iter: iterations at most.
        tol: a fit is done when what is left to gain is below this share of its loss.
        memory: bytes of logits held at once.
    """
    problem = Problem.of(x, y, classes or int(y.max()) + 1, scale)
    return problem.classifier(problem.solve(penalties, max_iter=max_iter, tol=tol, memory=memory))


class Chosen(NamedTuple):
    """A classifier whose penalty was chosen on held-out training items, and how well those that were tried did."""

    model: Classifier
    penalty: float
    validation: dict[str, float]


def fit_chosen(
    train: Known,
    *,
    penalties: tuple[float, ...] = PENALTIES,
    validation: float = 0.2,
    max_iter: int = 200,
    memory: int = MEMORY,
    seed: int = 0,
) -> Chosen:
    """Logistic regression on all items with the penalty that does best on a share of them.

    Penalties are tried from strong to weak, two at a time, each two from where the last ended, until two do worse
    than the best before them, or one makes no mistake: the weakest take most iterations and are hardly ever the best.

    Args:
        train: features and labels.
        penalties: L2 strengths to choose from.
        validation: share of the items that chooses.
        max_iter: iterations at most for each fit.
        memory: bytes of logits held at once.
        seed: of the split.
    """
    x, y = train
    classes = int(y.max()) + 1
    kept, held = stratified(y.cpu(), validation, seed)
    if len(held) == 0:  # one item a class: nothing to choose with
        kept = held = torch.arange(len(y))
    part = Problem.of(x[kept], y[kept], classes)
    tried: dict[float, float] = {}
    weight: Tensor | None = None
    for pair in pairs(sorted(penalties, reverse=True)):
        weight = part.solve(pair, None if weight is None else weight[-1:], max_iter=max_iter, memory=memory)
        trials = part.classifier(weight)
        right = (trials(x[held]).argmax(2) == y[held]).double().mean(1).tolist()
        before, tried = tried, {**tried, **dict(zip(pair, right, strict=True))}
        if before and max(right) < max(before.values()):
            break
        if not before or max(right) > max(before.values()):  # else a stronger penalty does equally well
            first = right.index(max(right))
            best, found = pair[first], Classifier(trials.scale, *(p[first : first + 1] for p in trials[1:]))
        if max(right) == 1:
            break
    whole = Problem.of(x, y, classes)
    model = whole.classifier(whole.solve((best,), whole.weights(found), max_iter=max_iter, memory=memory))
    return Chosen(model, best, {f"{penalty:g}": accuracy for penalty, accuracy in tried.items()})


def pairs(penalties: Sequence[float]) -> Iterator[tuple[float, ...]]:
    return (tuple(penalties[start : start + 2]) for start in range(0, len(penalties), 2))


def linear(
    train: Known,
    test: Known,
    *,
    penalties: tuple[float, ...] = PENALTIES,
    validation: float = 0.2,
    max_iter: int = 200,
    memory: int = MEMORY,
    seed: int = 0,
) -> list[Score]:
    """Linear probe: logistic regression whose penalty is chosen on held-out *training* items.

    Args:
        train: features and labels to learn from.
        test: features and labels that are judged, once, at the end.
        penalties: L2 strengths to choose from.
        validation: share of the training items that chooses.
        max_iter: iterations at most for each fit.
        memory: bytes of logits held at once.
        seed: of the split and the bootstrap.
    """
    chosen = fit_chosen(
        train, penalties=penalties, validation=validation, max_iter=max_iter, memory=memory, seed=seed
    )
    x_test, y_test = test
    logits = chosen.model(x_test)[0]
    detail = {"penalty": chosen.penalty, "validation": chosen.validation}
    if logits.shape[1] > 5:
        detail["top5"] = float((logits.topk(5).indices == y_test[:, None]).any(1).double().mean())
    return [accuracy_score("linear", "accuracy", logits.argmax(1), y_test, seed, **detail)]
