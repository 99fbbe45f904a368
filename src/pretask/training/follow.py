"""What trl's trainer lacks for policies of ours: checkpoints that are no pickles, and a reference policy."""

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback
from trl.trainer.grpo_trainer import add_fused_lm_head

from pretask.training import checkpoint
from pretask.training.rl import LEARNER, LOGGED, Session

ANSWERS = 1  # sets the seeds of answers apart from those of puzzles


class Follow(TrainerCallback):
    """Gives the optimiser its memory back, each step its own seed, and the session what is measured."""

    def __init__(self, session: Session):
        self.session, self.done = session, session.place.step

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **more: Any) -> None:
        name_parameters(optimizer, self.session.module)
        checkpoint.load_optimiser(optimizer, LEARNER, self.session.memory)

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        mixed = np.random.SeedSequence([self.session.seed, self.done + state.global_step, ANSWERS])
        torch.manual_seed(int(mixed.generate_state(1, np.uint64)[0] >> 1))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Any = None, optimizer: Any = None, **more: Any
    ) -> None:
        if "reward" in (logs or {}):
            row = {ours: float(logs[theirs]) for theirs, ours in LOGGED.items() if theirs in logs}
            self.session.measured(self.done + state.global_step, row, optimizer)


def name_parameters(optimiser: Any, module: nn.Module) -> None:
    """Tell an optimiser that transformers made what its parameters are called."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for group in optimiser.param_groups:
        group["names"] = [names[id(parameter)] for parameter in group["params"]]


def refer(trainer: Any, start: Any, kl: float) -> None:
    """Let a trainer measure the divergence from how a task was; trl knows only policies with a name on the hub.

    It is in training mode as the policy is: batch normalisation by other statistics would be a divergence too.
    """
    policy = start.train().requires_grad_(False).policy()
    add_fused_lm_head(policy, temperature=trainer.temperature, cast_lm_head_to_fp32=False)
    trainer.beta, trainer.ref_model = kl, trainer.accelerator.prepare_model(policy, evaluation_mode=True)
