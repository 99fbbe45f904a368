"""Puppets: skeletons that walk, run, jump, wave, box and squat, made up from a few angles that swing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pretask.data.kinematics import about, forward

ACTIONS = ("walking", "running", "jumping", "waving", "boxing", "squatting")
PARENTS = [-1, 0, 1, 2, 2, 4, 5, 2, 7, 8, 0, 10, 11, 0, 13, 14]
PELVIS, CHEST, HEAD = 0, 2, 3
LEFT_ARM, LEFT_ELBOW, RIGHT_ARM, RIGHT_ELBOW = 4, 5, 7, 8
LEFT_HIP, LEFT_KNEE, RIGHT_HIP, RIGHT_KNEE = 10, 11, 13, 14
# metres from the parent: x to the puppet's left, y upwards, z to the front
OFFSETS = np.array([
    [0, 0.95, 0], [0, 0.2, 0], [0, 0.25, 0], [0, 0.3, 0],
    [0.2, 0, 0], [0, -0.28, 0], [0, -0.26, 0], [-0.2, 0, 0], [0, -0.28, 0], [0, -0.26, 0],
    [0.1, -0.05, 0], [0, -0.42, 0], [0, -0.42, 0], [-0.1, -0.05, 0], [0, -0.42, 0], [0, -0.42, 0],
])  # fmt: skip
LONGEST, SHORTEST = 120, 72


class Puppets(NamedTuple):
    """Sequences; frames behind a sequence's end are zero.

    Args:
        joints: in metres.
        frames: of each that are there.
        action: its place in `ACTIONS`.
    """

    joints: Float[np.ndarray, "items frames joints 3"]
    frames: Int[np.ndarray, "items"]
    action: Int[np.ndarray, "items"]


def puppets(count: int = 600, seed: int = 0) -> Puppets:
    """Puppets of different height that do one thing, each at its pace and from another moment on, facing
    another way, with a style of its own, a few millimetres of noise, 30 frames a second."""
    rng = np.random.default_rng(seed)
    action, frames = rng.integers(len(ACTIONS), size=count), rng.integers(SHORTEST, LONGEST + 1, size=count)
    pace = np.array([0.9, 1.4, 0.8, 1.3, 1.2, 0.6])[action] * rng.uniform(0.8, 1.25, count)  # cycles a second
    time = np.arange(LONGEST) / 30
    phase = 2 * np.pi * (rng.random((count, 1)) + pace[:, None] * time)
    style = rng.uniform(0.7, 1.3, (count, len(PARENTS), 1))
    angle = np.zeros((2, count, len(PARENTS), LONGEST))  # bends forwards or backwards, and sideways
    lift = np.zeros((count, LONGEST))
    for number, act in enumerate(ACTIONS):
        mine = action == number
        angle[:, mine], lift[mine] = swing(act, phase[mine])
    angle = (angle * style).swapaxes(2, 3)  # (2, N, T, J)
    angle += rng.normal(0, 0.06, (2, count, 1, len(PARENTS)))  # nobody stands quite straight
    turns = about(2, angle[1]) @ about(0, angle[0])
    heading = about(1, rng.uniform(-np.pi, np.pi, (count, 1)))
    turns[:, :, PELVIS] = heading @ turns[:, :, PELVIS]
    offsets = np.broadcast_to(OFFSETS, (count, LONGEST, *OFFSETS.shape)) * rng.uniform(
        0.85, 1.15, (count, 1, 1, 1)
    )
    speed = np.array([1.2, 2.8, 0, 0, 0, 0])[action] * rng.uniform(0.8, 1.2, count)
    ahead = heading[:, :, :, 2] * (speed[:, None] * time)[..., None]
    offsets[:, :, PELVIS] += ahead
    offsets[:, :, PELVIS, 1] += lift
    joints = forward(PARENTS, offsets, turns)
    joints += rng.normal(0, 0.004, joints.shape)
    joints[np.arange(LONGEST) >= frames[:, None]] = 0
    return Puppets(joints.astype(np.float32), frames, action)


def swing(
    action: str, phase: Float[np.ndarray, "items frames"]
) -> tuple[Float[np.ndarray, "2 items joints frames"], Float[np.ndarray, "items frames"]]:
    """The angles that make an action, and how far it lifts the pelvis. A negative first angle brings a limb
    to the front; a positive second one brings what hangs down to the puppet's left."""
    angle = np.zeros((2, len(phase), len(PARENTS), phase.shape[1]))
    bend, side = angle
    lift, wave = np.zeros_like(phase), np.sin(phase)
    if action in ("walking", "running"):
        size = 0.45 if action == "walking" else 0.8
        bend[:, LEFT_HIP], bend[:, RIGHT_HIP] = size * wave, -size * wave
        bend[:, LEFT_KNEE] = size * (1 + np.cos(phase))
        bend[:, RIGHT_KNEE] = size * (1 - np.cos(phase))
        bend[:, LEFT_ARM], bend[:, RIGHT_ARM] = -0.8 * size * wave, 0.8 * size * wave
        bend[:, LEFT_ELBOW] = bend[:, RIGHT_ELBOW] = -0.3 if action == "walking" else -1.4
        lift = 0.06 * size * np.cos(2 * phase)
    elif action in ("jumping", "squatting"):
        down = (1 - wave) / 2 * (0.8 if action == "jumping" else 1.3)
        bend[:, LEFT_HIP] = bend[:, RIGHT_HIP] = -down
        bend[:, LEFT_KNEE] = bend[:, RIGHT_KNEE] = 2 * down
        bend[:, LEFT_ARM] = bend[:, RIGHT_ARM] = (
            -1.5 * (1 + wave) if action == "jumping" else -1.4 * down / 1.3
        )
        lift = -0.84 * (1 - np.cos(down)) + (0.35 * wave.clip(0) ** 2 if action == "jumping" else 0)
    elif action == "waving":
        side[:, LEFT_ARM] = 2.6
        side[:, LEFT_ELBOW] = 0.6 * wave
    else:
        bend[:, LEFT_ARM], bend[:, RIGHT_ARM] = -0.8 - 0.6 * wave, -0.8 + 0.6 * wave
        bend[:, LEFT_ELBOW], bend[:, RIGHT_ELBOW] = -1.1 + 0.9 * wave, -1.1 - 0.9 * wave
        side[:, CHEST] = 0.1 * wave
    return angle, lift
