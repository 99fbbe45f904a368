"""Reading a model's answer and scoring it. Text in, numbers out: no model, no picture.

The rewards of Visual Jigsaw (Wu et al., 2025): `ordering_reward`. Other puzzles use the parts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

Wrapper = Literal["boxed", "answer", "none"]
Formula = Literal["code", "paper"]

FORMATS = {
    "boxed": re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL),
    "answer": re.compile(r"<think>.*</think>.*<answer>.*</answer>.*", re.DOTALL),
}
PENALTY = -0.5  # for saying a long line again and again
FEW = 4  # up to so many pieces the official code pays nothing for a partly right order


def check_format(response: str, wrapper: Wrapper = "boxed") -> bool:
    """Whether the whole response thinks first and then answers. It must start with the think tag."""
    return wrapper == "none" or FORMATS[wrapper].fullmatch(response) is not None


def boxed(text: str) -> str:
    r"""What stands in the last \boxed{...}, braces balanced; the word None where there is none."""
    _, found, rest = text.rpartition(r"\boxed{")
    depth = 1
    for place, letter in enumerate(rest if found else ""):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return rest[:place].strip()
    return "None"


def extract(response: str, wrapper: Wrapper = "boxed") -> str:
    """The answer without its wrapper; `none` takes the response as it is."""
    if wrapper == "boxed":
        return boxed(response)
    if wrapper == "answer":
        return response.rpartition("<answer>")[2].partition("</answer>")[0].strip()
    return response


def integers(text: str) -> list[int]:
    """Numbers separated by commas; none at all if any part is no number."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        return []


def repeats(text: str, words: int = 7, times: int = 3) -> bool:
    """Whether a line of at least so many words stands more than so many times in a row.

    Capitals and empty lines make no difference; a shorter line in between begins a new row.
    """
    before, run = None, 0
    for line in filter(None, map(str.strip, text.splitlines())):
        if len(line.split()) < words:
            before, run = None, 0
            continue
        run = run + 1 if line.lower() == before else 1
        before = line.lower()
        if run > times:
            return True
    return False


class Reward(NamedTuple):
    """What a response is paid, and what for.

    Args:
        total: the sum of the three parts.
        accuracy: for the answer.
        format: for its form.
        penalty: for saying the same again and again.
        exact: whether the answer is right.
        correct: share of the places that are right, of an answer that passes as a permutation.
    """

    total: float
    accuracy: float = 0.0
    format: float = 0.0
    penalty: float = 0.0
    exact: bool = False
    correct: float = 0.0


def ordering_reward(
    response: str,
    gold: Sequence[int],
    *,
    wrapper: Wrapper = "boxed",
    formula: Formula = "code",
    strict: bool = False,
    partial: float = 0.2,
    bonus: float = 0.2,
) -> Reward:
    r"""The reward for an order of K pieces (Wu et al., 2025, equation 1, and the official `compute_score`).

    `code`: 0 if the format is wrong. Otherwise the bonus, and 1 for the right order; for a wrong one that
    passes as a permutation `partial` times the share of right places, but only for more than four pieces;
    and -0.5 for excessive repetition. `paper`: without the repetition, and without the exception for few
    pieces, and only a true permutation passes.

    In the official code any list with K *distinct* numbers passes, whatever the numbers and however long the
    list (what stands behind the K-th is not looked at). That pays no answer more than a true permutation
    with as many right places, so it is kept as it is; `strict` asks for a permutation of 1 .. K.

    Args:
        response: all that the model wrote.
        gold: the right answer, from 1 on.
        wrapper: `boxed` and `answer` think first and say where the answer is; `none` is the bare list, for
            which there is no bonus.
        formula: `code` or `paper`.
        strict: only a permutation of 1 .. K is partly right.
        partial: gamma; 0 pays the right order alone.
        bonus: for the right format, also of a wrong answer.
    """
    if not check_format(response, wrapper):
        return Reward(0.0)
    answer, right = integers(extract(response, wrapper)), list(gold)
    form = 0.0 if wrapper == "none" else bonus
    penalty = PENALTY if formula == "code" and repeats(response) else 0.0
    if answer == right:
        return Reward(form + 1.0 + penalty, 1.0, form, penalty, True, 1.0)
    if strict or formula == "paper":
        passes = sorted(answer) == list(range(1, len(right) + 1))
    else:
        passes = len(set(answer)) == len(right)
    correct = sum(a == b for a, b in zip(answer, right, strict=False)) / len(right) if passes else 0.0
    accuracy = partial * correct if formula == "paper" or len(right) > FEW else 0.0
    return Reward(form + accuracy + penalty, accuracy, form, penalty, False, correct)
