"""Prompting and fine-tuning learned and not assumed: a network that knows an order by its relations alone.

Objects are the elements of a random order and Hom(X, Y) is one arrow where X <= Y, else none. A model
f(X), f(Y) -> Hom(X, Y) is trained; a task is a down-set T (a presheaf with values 0 and 1). It is
representable if it has a greatest element, and then that is the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

OBJECTS, TASKS, WIDTH = 30, 50, 32
STEPS, LR = 600, 0.02


def random_order(size: int, generator: torch.Generator, density: float = 0.1) -> Bool[Tensor, "size size"]:
    """Whether x <= y, for all x and y: the closure of random arrows upwards."""
    arrows = torch.rand(size, size, generator=generator).triu(1) > 1 - density
    below = arrows | torch.eye(size, dtype=torch.bool)
    for middle in range(size):
        below |= below[:, middle, None] & below[middle]
    return below


def down_sets(below: Bool[Tensor, "size size"], count: int, generator: torch.Generator) -> Tensor:
    """Random tasks (count, size): everything below one to four random objects."""
    size = len(below)
    order = torch.rand(count, size, generator=generator).argsort(1)
    tops = order < torch.randint(1, 5, (count, 1), generator=generator)  # that many objects of each row
    return (tops.float() @ below.T.float()) > 0


class Relations(nn.Module):
    """f: a vector for every object, and k: a bilinear form that says whether there is an arrow.

    Args:
        size: objects.
        width: of a vector.
        generator: of the first weights.
    """

    def __init__(self, size: int, width: int, generator: torch.Generator):
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(size, width, generator=generator))
        self.form = nn.Parameter(torch.randn(width, width, generator=generator) / width)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self) -> Float[Tensor, "size size"]:
        """The score of an arrow from the row's object to the column's."""
        return self.vectors @ self.form @ self.vectors.T + self.bias


def descend(
    parameters: Iterable[nn.Parameter], logits: Callable[[], Tensor], answer: Tensor, weight: Tensor
) -> None:
    """Logistic regression on the answers with Adam."""
    optimiser = torch.optim.Adam(parameters, lr=LR)
    for _ in range(STEPS):
        loss = F.binary_cross_entropy_with_logits(logits(), answer.float(), weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def relations(
    below: Bool[Tensor, "size size"], seen: float, generator: torch.Generator, width: int = WIDTH
) -> Relations:
    """A model trained on a share of all pairs of objects."""
    model = Relations(len(below), width, generator)
    shown = torch.rand(below.shape, generator=generator) < seen
    descend(model.parameters(), model, below, shown.float())
    return model


@torch.no_grad()
def best_prompts(model: Relations, tasks: Bool[Tensor, "tasks size"]) -> Bool[Tensor, "tasks size"]:
    """For each task the answers k(f(X), f(P)) of the object P with which most of them are right."""
    answers = model().T > 0  # (P, X)
    right = (answers[None] == tasks[:, None]).sum(2)
    return answers[right.argmax(1)]


def heads(vectors: Float[Tensor, "size width"], tasks: Bool[Tensor, "tasks size"]) -> Tensor:
    """For each task the answers of a logistic head trained on frozen vectors."""
    head = nn.Linear(vectors.shape[1], len(tasks))
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    descend(head.parameters(), lambda: head(vectors), tasks.T, torch.ones(len(vectors), 1))
    return head(vectors).T > 0


def merge(vectors: Float[Tensor, "size width"], tasks: Bool[Tensor, "tasks size"]) -> Tensor:
    """The vectors with two objects taken for one: those that most tasks tell apart."""
    answers = tasks.T.float()
    x, y = divmod(int(torch.cdist(answers, answers, p=1).argmax()), len(vectors))
    merged = vectors.clone()
    merged[x] = merged[y] = (merged[x] + merged[y]) / 2
    return merged


def solved(by: Literal["prompt", "head", "merged head"], seed: int, seen: float = 1.0) -> dict[str, float]:
    """Train a model of a random order and let it answer random tasks.

    Args:
        by: how it answers; with a `merged head` it takes two objects for one.
        seed: of order, tasks and weights.
        seen: the share of pairs of objects that it was trained on.

    Returns:
        the share of tasks answered rightly on every object: of all, of the representable ones and of the
        others; and the share of right answers.
    """
    generator = torch.Generator().manual_seed(seed)
    below = random_order(OBJECTS, generator)
    tasks = down_sets(below, TASKS, generator)
    representable = (tasks[:, None] == below.T[None]).all(2).any(1)
    model = relations(below, seen, generator)
    if by == "prompt":
        answers = best_prompts(model, tasks)
    else:
        vectors = model.vectors.detach()
        answers = heads(vectors if by == "head" else merge(vectors, tasks), tasks)
    right = (answers == tasks).all(1).double()
    return {
        "solved": float(right.mean()),
        "solved of the representable": float(right[representable].mean()),
        "solved of the others": float(right[~representable].mean()),
        "right answers": float((answers == tasks).double().mean()),
    }
