"""Visual Jigsaw: rewards teach a policy to put tiles in order, but only if a partly right order pays (Wu et
al., 2025)."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from pretask.evaluation.features import weights_hash
from pretask.evaluation.protocols import evaluate
from pretask.methods.image.visual_jigsaw import VisualJigsaw
from pretask.puzzles.puzzle import gold
from pretask.puzzles.verify import ordering_reward
from pretask.puzzles.visual_jigsaw import reward
from pretask.studies.bench import Bench
from pretask.studies.claim import Arm, Claim, Comparison, Trained
from pretask.task import Step
from pretask.training.loop import fit
from pretask.training.plan import make_plan
from pretask.training.rl import GRPO, grpo

PROMPTS, RATE, SAMPLES = 16, 5e-4, 4
Follow = Callable[[VisualJigsaw, Bench, int], None]


def graded(task: VisualJigsaw, bench: Bench, seed: int) -> None:
    """GRPO with the paper's reward."""
    grpo(task, bench.train, GRPO(bench.claim.steps, PROMPTS, lr=RATE), seed=seed)


def exact_only(task: VisualJigsaw, bench: Bench, seed: int) -> None:
    """GRPO that pays the right order alone."""
    paid = partial(reward, partial=0.0)
    grpo(task, bench.train, GRPO(bench.claim.steps, PROMPTS, lr=RATE), seed=seed, reward=paid)


def easy(task: VisualJigsaw, bench: Bench, seed: int) -> None:
    """GRPO on easy puzzles."""
    other = copy.copy(task)
    other.grid = task.easy_grid
    graded(other, bench, seed)


def shown(task: VisualJigsaw, bench: Bench, seed: int) -> None:
    """As many steps with as many puzzles, whose right answers are shown."""
    other = copy.copy(task)
    other.flawed, other.weights = False, {"order": 0.5, "format": 0.5}
    plan = make_plan(task.recipe, len(bench.train), batch_size=PROMPTS, max_steps=bench.claim.steps)
    with tempfile.TemporaryDirectory() as folder:
        fit(other, bench.train, plan, folder, seed=seed, progress=False)


def start(follow: Follow | None) -> Callable[[nn.Module], VisualJigsaw]:
    """The supervised start that all arms share, and what follows it: what is asked is known, easy puzzles are
    solved, of the others five numbers out of nine were wrong in the answers shown."""

    def make(encoder: nn.Module) -> VisualJigsaw:
        task = VisualJigsaw(encoder, right=4 / 9, width=64, depth=1)  # type: ignore[arg-type]
        task.follow = follow  # type: ignore[assignment]
        return task

    return make


def judged(trained: Trained, bench: Bench) -> dict[str, Tensor | float]:
    """Train on, then let the policy answer puzzles of the test pictures, and probe the encoder."""
    found: dict[str, Tensor | float] = {}
    task = trained.task
    if isinstance(task, VisualJigsaw):
        seed = int(weights_hash(trained.encoder)[:8], 16)
        follow: Follow | None = task.follow  # type: ignore[assignment]
        if follow is not None:
            with torch.enable_grad():
                follow(task, bench, seed)
        found = answered(task.eval(), bench)
    (score,) = evaluate(trained.encoder, bench.labelled, bench.test, ["linear"])
    assert score.items is not None
    return {**found, "linear": score.items}


def answered(task: VisualJigsaw, bench: Bench) -> dict[str, Tensor | float]:
    """The mean reward of sampled answers; of the likeliest answer the share of right numbers, and whether all
    are. The puzzles are the same for all arms."""
    puzzle, order = task.puzzle(bench.test.batch(range(len(bench.test))), Step.at(), task.grid)
    answers = gold(order).tolist()

    def pay(texts: list[str], part: str) -> Tensor:
        rewards = [
            ordering_reward(text, right, wrapper="none") for text, right in zip(texts, answers, strict=True)
        ]
        return torch.tensor([float(getattr(one, part)) for one in rewards])

    with torch.random.fork_rng():
        torch.manual_seed(0)
        sampled = [pay(task.solve(puzzle, sample=True), "total") for _ in range(SAMPLES)]
    likeliest = task.solve(puzzle)
    return {
        "reward": torch.stack(sampled).mean(0),
        "correct": pay(likeliest, "correct"),
        "exact": pay(likeliest, "exact"),
    }


CLAIM = Claim(
    statement="A policy that solves easy jigsaws and hardly any hard ones gets better at these when a verifier "
    "pays for its answers, if partly right ones are paid too; paid for right orders alone it does not start to "
    "learn. What its encoder knows is no worse than after supervised steps on the same puzzles.",
    arms={
        "graded": Arm(start(graded)),
        "exact only": Arm(start(exact_only)),
        "easy puzzles": Arm(start(easy)),
        "supervised": Arm(start(shown)),
        "start": Arm(start(None)),
        "random": Arm(None),
    },
    comparisons=(
        Comparison("reward", "graded", "start"),
        Comparison("reward", "graded", "exact only"),
        Comparison("correct", "graded", "exact only"),
        Comparison("reward", "exact only", "start", "lower", 0.005),
        Comparison("linear", "graded", "supervised", margin=-0.02),
        Comparison("linear", "graded", "easy puzzles"),
        Comparison("linear", "graded", "random"),
    ),
    metrics=(judged,),
    data="digits",
    fallback="digits",
    encoder="resnet10t:stem_width=16,channels=[16,32,64,64]",
    steps=120,
    batch_size=64,
    test=300,
)
