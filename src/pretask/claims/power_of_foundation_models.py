"""The power of foundation models: counted where everything can be, learned where not (Yuan, 2023)."""

from functools import partial
from random import Random
from typing import Literal

from pretask.studies.claim import Comparison, Theory


def counted(seed: int) -> dict[str, float]:
    """Checks that do not hold: of the study, and of theorems 1 and 2 on random categories."""
    from pretask.studies.theory import categories, foundation

    failed = sum(not row["holds"] for row in foundation.study())
    rng = Random(seed)
    cases = [(categories.random_poset(size, rng), 1 if size > 4 else 2) for size in (2, 3, 4, 5)]
    cases += [(categories.random_monoid(order, rng), 2) for order in (2, 3, 4)]
    for cat, most in cases:
        failed += not foundation.prompting("random", cat, most).holds
        failed += not foundation.fine_tuning("random", cat, most).holds
        failed += not foundation.extension("random", cat, most).holds
    return {"checks that fail": float(failed)}


def learned(seed: int, by: Literal["prompt", "head", "merged head"], seen: float = 1.0) -> dict[str, float]:
    from pretask.studies.theory.posets import solved

    return solved(by, seed, seen)


CLAIM = Theory(
    statement="With an ideal model a prompt solves exactly the representable tasks and fine-tuning solves "
    "all of them; a model that lacks relations, or takes two objects for one, solves less.",
    arms={
        "fine-tuning": partial(learned, by="head"),
        "prompting": partial(learned, by="prompt"),
        "prompting, half the relations seen": partial(learned, by="prompt", seen=0.5),
        "fine-tuning, two objects merged": partial(learned, by="merged head"),
        "fine-tuning, untrained": partial(learned, by="head", seen=0.0),
        "counting": counted,
    },
    comparisons=(
        Comparison("solved", "fine-tuning", "prompting"),
        Comparison("solved", "fine-tuning", margin=0.95),
        Comparison("solved of the representable", "prompting", margin=0.95),
        Comparison("solved of the others", "prompting", claimed="lower", margin=0.05),
        Comparison(
            "solved of the representable", "prompting, half the relations seen", "prompting", claimed="lower"
        ),
        Comparison("solved", "fine-tuning, two objects merged", "fine-tuning", claimed="lower"),
        Comparison("checks that fail", "counting", claimed="lower", margin=0.5),
    ),
)
