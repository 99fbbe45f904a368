"""`pretask.reinforce`: from a run that can answer puzzles to one that was rewarded for right answers."""

from __future__ import annotations

from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pretask.encoders import save_encoder
from pretask.errors import UsageError
from pretask.pretrain import Job, judge, open_training_data, rows_of, sheet_writer, without_labels
from pretask.reports.html import write_run_report
from pretask.run import Run
from pretask.training import checkpoint
from pretask.training.log import Log
from pretask.training.rl import GRPO, check, grpo, identity

if TYPE_CHECKING:
    from pretask.pretrain import DataSource


def reinforce(
    run: str | Path,
    data: DataSource | None = None,
    out: str | Path | None = None,
    *,
    steps: int = 500,
    prompts: int = 16,
    rollouts: int = 16,
    lr: float = 3e-4,
    temperature: float = 1.0,
    clip: float = 0.2,
    kl: float = 0.0,
    rewards: dict[str, Any] | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    evaluate: bool = True,
) -> Run:
    """Go on from a run by GRPO: the policy answers puzzles and is rewarded by their verifier.

    Args:
        run: the run folder of a method that poses puzzles (`pretask train visual-jigsaw`).
        data: anything `open_data` takes; default what the run learned from.
        out: the new run folder; default the run's name with `-grpo` behind it.
        steps: updates.
        prompts: questions a step.
        rollouts: answers to each of them.
        lr: constant learning rate.
        temperature: that answers are sampled with.
        clip: how far the ratio of probabilities may go from 1.
        kl: weight of the divergence from the policy at the start.
        rewards: settings of the method's reward function, as `{"partial": 0.0}`.
        seed: of pictures, puzzles and answers.
        resume: go on from the last checkpoint in `out`; all else must be as it was.
        overwrite: delete the run in `out` first.
        evaluate: measure the encoder, an untrained one and the raw data at the end.

    Raises:
        UsageError: the run's method poses no puzzles, or something asked for does not fit.
        PretaskError: the run to be resumed had other settings or data.
    """
    plan = GRPO(steps, prompts, rollouts, lr, temperature, clip, kl)
    task: Any = Run(run).load_task()
    kept = Run(run).config
    if not hasattr(task, "pose"):
        raise UsageError(f"'{run}' is a run of {kept['task']}, which poses no puzzles to be rewarded for")
    reward = paid(task, rewards)
    source = kept["data"]["source"] if data is None else data
    dataset = open_training_data(rows_of(kept["task"]), source, kept["data"]["reading"])
    check(dataset)
    train_set = without_labels(dataset.pretraining_part)
    config = {
        **kept, "init": str(run), "seed": seed, "chance": {}, "rewards": rewards or {},
        "data": {**kept["data"], "source": str(source), "samples": len(train_set)},
        "plan": {"batch_size": prompts, "steps": steps, "lr": lr, "recipe": plan.describe()},
    }  # fmt: skip
    job = Job(kept["task"], task, dataset, train_set, plan, config)  # type: ignore[arg-type]
    found = Run.create(out or f"{Path(run)}-grpo", config, resume, overwrite)
    check_config(found, config)
    learn(job, plan, found.folder, reward, resume)
    keep(job, plan, found.folder)
    if evaluate:
        judge(job, found)
        write_run_report(found.folder)
    return found


def learn(job: Job, plan: GRPO, folder: Path, reward: Any, resume: bool) -> None:
    """GRPO, with its rows in metrics.csv and its checkpoints in the run folder."""
    kept = checkpoint.read(folder) if resume else None
    log, epoch = Log(folder, kept[0].step if kept else 0), max(len(job.train_set) / plan.prompts, 1)
    task: Any = job.task
    grpo(
        task, job.train_set, plan, seed=job.config["seed"], reward=reward,
        every=max(1, min(10, plan.steps // 50)),
        note=lambda step, row: log.row({"step": step, "epoch": step / epoch, **row}), folder=folder, resume=resume,
    )  # fmt: skip
    log.close()


def check_config(run: Run, config: dict[str, Any]) -> None:
    """
    Raises:
        UsageError: a run was started with other settings.
    """
    now = yaml.safe_load(yaml.safe_dump(config))
    other = [name for name in now if run.config.get(name) != now[name]]
    if other:
        raise UsageError(
            f"'{run.folder}' was started with another '{other[0]}': {run.config.get(other[0])}, not {now[other[0]]}"
        )


def keep(job: Job, plan: GRPO, folder: Path) -> None:
    """What a run folder holds besides its measurements: the checkpoint, a contact sheet, the encoder."""
    task: Any = job.task
    place = checkpoint.Place(plan.steps, 0, identity(task, plan, job.config["seed"]), len(job.train_set))
    checkpoint.save(folder, job.task, {}, place, write=True)
    sheet_writer(job, folder)(job.task, plan.steps)
    save_encoder(job.task.learned, folder / "encoder.safetensors")  # type: ignore[arg-type]


def paid(task: Any, rewards: dict[str, Any] | None) -> Any:
    """The task's reward function with other settings.

    Raises:
        UsageError: it has no such setting.
    """
    known = [
        name
        for name, one in signature(task.reward).parameters.items()
        if one.kind is one.KEYWORD_ONLY and name != "log_metric"  # which trl gives
    ]
    wrong = [name for name in rewards or {} if name not in known]
    if wrong:
        raise UsageError(f"the reward has no setting '{wrong[0]}'; it has: {', '.join(known)}")
    return partial(task.reward, **rewards) if rewards else task.reward
