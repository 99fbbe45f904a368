"""A puzzle: pictures, a question about them, and the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Int
from torch import Tensor

from pretask.pretexts.permutation import invert
from pretask.puzzles.verify import Wrapper

THINK = "Think about it first, between <think> and </think>. Then give the answer "
FORM: dict[Wrapper, str] = {
    "boxed": THINK + r"in \boxed{}, for example \boxed{2,3,1}.",
    "answer": THINK + "between <answer> and </answer>, for example <answer>2,3,1</answer>.",
    "none": "Answer with the list alone, for example 2,3,1.",
}


class Puzzle(NamedTuple):
    """A question that can be verified.

    Args:
        pictures: all that is shown, in that order: (C, h, w), bytes or floats in [0, 1].
        parts: what the user says: a text, or None where the next picture stands.
        answer: from 1 on.
        wrapper: how the answer is to be written.
    """

    pictures: list[Tensor]
    parts: list[str | None]
    answer: list[int]
    wrapper: Wrapper

    @property
    def prompt(self) -> list[dict[str, Any]]:
        """The conversation as trl and transformers read it; pictures are filled in, in their order."""
        content = [
            {"type": "image", "text": None} if part is None else {"type": "text", "text": part}
            for part in self.parts
        ]
        return [{"role": "user", "content": content}]


def gold(order: Int[Tensor, "*batch pieces"]) -> Int[Tensor, "*batch pieces"]:
    """The answer to an order: where each piece is displayed, from 1 on.

    `order[j]` is the piece that is displayed at place j, so the answer is the *inverse* permutation: read in
    the order of the answer, the displayed pieces restore what was cut. The 3-cycle (1, 2, 0) shows bca of
    abc, and the answer is 3, 1, 2.
    """
    return invert(order) + 1


def ask(
    name: str,
    pieces: Sequence[Sequence[Tensor]],
    order: Int[Tensor, "pieces"],
    question: str,
    wrapper: Wrapper,
) -> Puzzle:
    """Shuffled pieces with their numbers, then the question.

    Args:
        name: what a piece is called, as in `Tile 3:`.
        pieces: the pictures of each, in the order that is asked for.
        order: the piece that is displayed at each place.
        question: what is asked of them.
        wrapper: how the answer is to be written.
    """
    pictures: list[Tensor] = []
    parts: list[str | None] = []
    for place, piece in enumerate(order.tolist()):
        parts += [f"{name} {place + 1}:", *[None] * len(pieces[piece])]
        pictures += pieces[piece]
    parts.append(f"{question} {FORM[wrapper]}")
    return Puzzle(pictures, parts, gold(order).tolist(), wrapper)
