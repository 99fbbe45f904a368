"""A teacher that follows its student slowly."""

import copy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def teacher_of(module: M) -> M:
    """A copy that no gradient reaches."""
    return copy.deepcopy(module).requires_grad_(False)


def awake(teacher: M, student: nn.Module) -> M:
    """A copy of the teacher that can learn wherever the student can: fine-tuning it is the user's right."""
    copied = copy.deepcopy(teacher)
    for name, parameter in copied.named_parameters():
        parameter.requires_grad_(student.get_parameter(name).requires_grad)
    return copied


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum teacher + (1 - momentum) student, for each parameter of the teacher.

    The student must have a parameter of each of the teacher's names; it may have more. Buffers stay the
    teacher's own: one with batch normalisation collects its statistics from what it sees itself.
    """
    names, theirs = zip(*teacher.named_parameters(), strict=True)
    torch._foreach_lerp_(theirs, [student.get_parameter(name) for name in names], 1 - momentum)
