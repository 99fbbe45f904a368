"""Reinforcement learning with verifiable rewards: GRPO, by trl's trainer, on a task that poses puzzles."""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pretask.data import Dataset
from pretask.data.loader import Order
from pretask.errors import PretaskError, UsageError, need
from pretask.task import Batch, Step
from pretask.training import checkpoint

if TYPE_CHECKING:
    from pretask.puzzles.puzzle import Puzzle

PAID = "paid"  # the reward's name among what trl measures
SCALE = 100.0
"""What rewards are multiplied by: trl adds 1e-4 to their spread, the paper's framework 1e-6, and
(100 r - 100 mean) / (100 spread + 1e-4) = (r - mean) / (spread + 1e-6)."""

LOGGED = {
    f"rewards/{PAID}/mean": "reward", f"rewards/{PAID}/std": "reward spread", "exact": "exact", "correct": "correct",
    "entropy": "entropy", "frac_reward_zero_std": "groups without spread", "grad_norm": "gradient norm",
    "completions/mean_length": "length", "kl": "divergence",
}  # fmt: skip
"""What trl measures, and what it is called in metrics.csv."""

LEARNER = "policy"  # the optimiser's name in a checkpoint

Note = Callable[[int, dict[str, float]], None]


class Posing(Protocol):
    """A task that can be trained by rewards.

    Attributes:
        reward: as trl takes it: completions and the columns of the data set in, a number each out.
        answer_length: words that an answer has at most.
    """

    reward: Callable[..., list[float]]

    @property
    def answer_length(self) -> int: ...

    def policy(self) -> Any:
        """A transformers model over the task's own modules."""

    def processor(self) -> Any:
        """What turns conversations into the policy's input."""

    def pose(self, batch: Batch, generator: torch.Generator) -> list[Puzzle]: ...


@dataclass(frozen=True)
class GRPO:
    """How a policy is trained by rewards (Shao et al., 2024), with the settings of Visual Jigsaw.

    Each answer is judged against those to the same question: its advantage is (reward - mean) / (spread +
    1e-6) of its group. One update a batch, the loss a mean over all words of the batch, no entropy bonus.

    Args:
        steps: updates.
        prompts: questions a step.
        rollouts: answers to each of them.
        lr: constant. The paper's 1e-6 is for a model of 7 billion parameters that was trained before.
        temperature: that answers are sampled with.
        clip: how far the ratio of probabilities may go from 1.
        kl: weight of the divergence from the policy at the start; the paper switches it on (and gives no
            number) only for models trained to reason before.
    """

    steps: int = 500
    prompts: int = 16
    rollouts: int = 16
    lr: float = 3e-4
    temperature: float = 1.0
    clip: float = 0.2
    kl: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.prompts < 1 or self.rollouts < 2:
            raise UsageError("GRPO needs a step, a question and two answers to it at least")

    def describe(self) -> dict[str, Any]:
        return asdict(self)


def grpo(
    task: Posing,
    dataset: Dataset,
    plan: GRPO,
    *,
    seed: int = 0,
    reward: Callable[..., list[float]] | None = None,
    note: Note | None = None,
    every: int = 10,
    folder: Path | None = None,
    resume: bool = False,
) -> list[dict[str, float]]:
    """Train a task's policy, and with it its encoder, by rewards. In place; in one process.

    The order of a puzzle is drawn anew each time a picture is met; all answers of a group are to the same. What is
    drawn in a step depends on the seed and the step alone.

    Args:
        task: poses the puzzles; what it is now is what `plan.kl` measures the divergence from.
        dataset: the pictures.
        plan: how.
        seed: of pictures, puzzles and answers.
        reward: instead of the task's own.
        note: takes the steps done and what was measured since the last time.
        every: steps between two such times.
        folder: a run folder; a checkpoint is written there each such time.
        resume: go on from the checkpoint in `folder`, if there is one.

    Returns:
        All that was measured: a row every so many steps.

    Raises:
        UsageError: the data are a stream.
        PretaskError: trl is not installed; the checkpoint is of a run with other settings.
    """
    check(dataset)
    trl = need("trl", "rl")
    module: Any = task
    start = copy.deepcopy(module) if plan.kl else None
    session = Session(
        module, checkpoint.Place(0, 0, identity(task, plan, seed), len(dataset)), seed, folder, note
    )
    if resume:
        session.take_up()
    done = session.place.step
    if done == plan.steps:
        return []
    from pretask.training.follow import Follow, refer

    home, training = next(module.parameters()).device, module.training
    module.train()
    with isolated(), tempfile.TemporaryDirectory() as scratch:
        told = settings(plan, task.answer_length, seed, min(every, plan.steps), scratch)
        trainer = trl.GRPOTrainer(
            model=task.policy(),
            reward_funcs=reward or task.reward,
            args=trl.GRPOConfig(**told | {"max_steps": plan.steps - done}),
            train_dataset=questions(task, dataset, plan, seed, done),
            processing_class=task.processor(),
            callbacks=[Follow(session)],
        )
        trainer.reward_func_names = [PAID]
        silence(trainer)
        if start is not None:
            refer(trainer, start, plan.kl)
        trainer.train()
    module.to(home).train(training).zero_grad(set_to_none=True)
    return session.rows


def silence(trainer: Any) -> None:
    """No lines on the screen: rows go to `note`."""
    from transformers import PrinterCallback, ProgressCallback

    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)


@dataclass
class Session:
    """A training by rewards, and where it stands.

    Args:
        module: the task.
        place: what its checkpoint says besides tensors.
        seed: of pictures, puzzles and answers.
        folder: where checkpoints are written.
        note: takes the steps done and what was measured since the last time.
        memory: the optimiser's tensors that the training goes on from.
        rows: all that was measured.
    """

    module: Any
    place: checkpoint.Place
    seed: int
    folder: Path | None
    note: Note | None
    memory: dict[str, Tensor] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)

    def take_up(self) -> None:
        """Go on from the folder's checkpoint, if there is one.

        Raises:
            PretaskError: it is of a run with other settings or data.
        """
        kept = checkpoint.read(self.folder) if self.folder is not None else None
        if kept is None:
            return
        place, tensors = kept
        for name, then, now in (
            ("settings", place.settings, self.place.settings),
            ("number of samples", place.num_samples, self.place.num_samples),
        ):
            if then != now:
                raise PretaskError(
                    f"the checkpoint in {self.folder} is of a run with other {name}: {then}, not {now}"
                )
        checkpoint.load_task(self.module, place, tensors)
        self.place, self.memory = place, tensors

    def measured(self, step: int, row: dict[str, float], optimiser: Any) -> None:
        self.place.step = step
        self.rows.append({"step": step, **row})
        if self.note is not None:
            self.note(step, row)
        if self.folder is not None:
            checkpoint.save(self.folder, self.module, {LEARNER: optimiser}, self.place, write=True)


def identity(task: Posing, plan: GRPO, seed: int) -> dict[str, Any]:
    """What must be the same for a run to go on as if it had not stopped."""
    return {"task": type(task).__name__, "grpo": plan.describe(), "seed": seed}


def check(dataset: Dataset) -> None:
    """
    Raises:
        UsageError: the data are a stream.
    """
    if dataset.stream:
        raise UsageError(f"{dataset.name} is a stream: rewards are given for data that can be met again")


def settings(plan: GRPO, length: int, seed: int, every: int, scratch: str) -> dict[str, Any]:
    """A plan in trl's words; the divergence is `refer`'s."""
    return {
        "output_dir": scratch, "save_strategy": "no", "report_to": [], "disable_tqdm": True, "seed": seed,
        "log_multimodal": False, "logging_steps": every, "max_steps": plan.steps,
        "per_device_train_batch_size": plan.prompts * plan.rollouts, "num_generations": plan.rollouts,
        "max_completion_length": length, "temperature": plan.temperature, "shuffle_dataset": False,
        "learning_rate": plan.lr, "lr_scheduler_type": "constant", "max_grad_norm": 1.0,
        "beta": 0.0, "epsilon": plan.clip, "num_iterations": 1, "scale_rewards": "group",
        "reward_weights": [SCALE],
        "loss_type": "dapo", "entropy_coef": 0.0, "bf16": False, "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(), "dataloader_pin_memory": torch.cuda.is_available(),
    }  # fmt: skip


def questions(task: Posing, dataset: Dataset, plan: GRPO, seed: int, done: int = 0) -> Any:
    """The questions of a run's steps after those done, in order, as a `datasets.Dataset` that poses each when it is
    asked for.

    Question number k is a function of (seed, k), so that all answers of a group are to the same puzzle.
    """
    numbers = {"item": list(range(done * plan.prompts, plan.steps * plan.prompts))}
    return need("datasets", "rl").Dataset.from_dict(numbers).with_transform(Pose(task, dataset, plan, seed))


class Pose:
    """From numbers of questions to rows of a data set; see `questions`."""

    def __init__(self, task: Posing, dataset: Dataset, plan: GRPO, seed: int):
        self.task, self.dataset, self.prompts, self.seed = task, dataset, plan.prompts, seed
        self.order = Order(len(dataset), plan.prompts, seed)

    def __reduce__(self) -> tuple[Any, ...]:
        """`datasets` pickles a transform only to name it; the pictures need not be read for that."""
        return str, (f"{self.dataset.name} {self.seed}",)

    def __call__(self, asked: dict[str, list[int]]) -> dict[str, list[Any]]:
        items = asked["item"]
        posed = {item: self.row(item) for item in dict.fromkeys(items)}
        return {column: [posed[item][column] for item in items] for column in posed[items[0]]}

    def row(self, item: int) -> dict[str, Any]:
        number, place = divmod(item, self.prompts)
        batch = self.dataset.batch(self.order[number][place : place + 1])
        (puzzle,) = self.task.pose(batch, Step.at(item, seed=self.seed).generator)
        return {
            "prompt": puzzle.prompt, "images": puzzle.pictures, "answer": puzzle.answer,
            "wrapper": puzzle.wrapper,
        }  # fmt: skip


@contextmanager
def isolated() -> Iterator[None]:
    """trl seeds and uses the global random states; afterwards they are as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
