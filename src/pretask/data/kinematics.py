"""From angles at joints to joints in space, and BVH files, which hold such angles."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

MOST_JOINTS = 10_000


def about(axis: int, angle: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape 3 3"]:
    """Turns about x, y or z (0, 1, 2) in radians, counter-clockwise seen against the axis, for column
    vectors."""
    one, other = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((*np.shape(angle), 3, 3))
    matrix[..., axis, axis] = 1
    matrix[..., one, one] = matrix[..., other, other] = np.cos(angle)
    matrix[..., other, one] = np.sin(angle)
    matrix[..., one, other] = -matrix[..., other, one]
    return matrix


def forward(
    parents: list[int],
    offsets: Float[np.ndarray, "*shape joints 3"],
    turns: Float[np.ndarray, "*shape joints 3 3"],
) -> Float[np.ndarray, "*shape joints 3"]:
    """Where the joints are: each stands at its offset in the frame of its parent, and turns its own.

    Args:
        parents: of each joint, an earlier one; -1 has none.
        offsets: from the parent; of the first where it is.
        turns: of each joint's frame within its parent's.
    """
    places, frames = np.empty_like(offsets, dtype=np.float64), np.empty_like(turns, dtype=np.float64)
    for joint, parent in enumerate(parents):
        if parent < 0:
            places[..., joint, :], frames[..., joint, :, :] = offsets[..., joint, :], turns[..., joint, :, :]
            continue
        frame = frames[..., parent, :, :]
        moved = (frame @ offsets[..., joint, :, None])[..., 0]
        places[..., joint, :] = places[..., parent, :] + moved
        frames[..., joint, :, :] = frame @ turns[..., joint, :, :]
    return places


class Joint(NamedTuple):
    """A joint of a BVH file; the end of a limb has no channels."""

    parent: int
    offset: list[float]
    channels: list[str]


def read_bvh(file: Path) -> Float[np.ndarray, "frames joints 3"]:
    """Joints in space, ends of limbs among them, in the order of the file.

    Turns follow each other as the channels do. What a root is moved by is added to its offset; of other
    joints it stands in the offset's place.

    Raises:
        ValueError: it is no BVH file, or one that is cut short.
    """
    hierarchy, found, rest = file.read_text(encoding="utf-8-sig").partition("MOTION")
    if not found or "HIERARCHY" not in hierarchy:
        raise ValueError("no BVH file: HIERARCHY or MOTION is missing")
    joints = read_hierarchy(hierarchy.split())
    words = rest.replace(":", " ").split()
    try:
        frames, start = int(words[words.index("Frames") + 1]), words.index("Time") + 2
    except (IndexError, ValueError) as error:
        raise ValueError("no BVH file: 'Frames' or 'Frame Time' is missing") from error
    width = sum(len(joint.channels) for joint in joints)
    values = np.array(words[start:], dtype=np.float64)
    if not frames or len(values) != frames * width:
        raise ValueError(
            f"{frames} frames of {width} channels are announced, {len(values)} numbers are there"
        )
    values = values.reshape(frames, width)
    offsets = np.tile(np.array([joint.offset for joint in joints]), (frames, 1, 1))
    turns = np.tile(np.eye(3), (frames, len(joints), 1, 1))
    column = 0
    for number, joint in enumerate(joints):
        for channel in joint.channels:
            axis, value = "XYZ".index(channel[0]), values[:, column]
            if channel.endswith("rotation"):
                turns[:, number] = turns[:, number] @ about(axis, np.radians(value))
            else:
                offsets[:, number, axis] = value + (joint.offset[axis] if joint.parent < 0 else 0)
            column += 1
    return forward([joint.parent for joint in joints], offsets, turns)


def read_hierarchy(words: list[str]) -> list[Joint]:
    """
    Raises:
        ValueError: the words make no tree of joints.
    """
    joints: list[Joint] = []
    above: list[int] = []
    try:
        for place, word in enumerate(words):
            if word == "{":
                joints.append(Joint(above[-1] if above else -1, [], []))
                above.append(len(joints) - 1)
            elif word == "}":
                above.pop()
            elif word == "OFFSET":
                joints[above[-1]].offset.extend(float(value) for value in words[place + 1 : place + 4])
            elif word == "CHANNELS":
                count = int(words[place + 1])
                joints[above[-1]].channels.extend(words[place + 2 : place + 2 + count])
    except IndexError as error:
        raise ValueError("the brackets of the hierarchy do not match") from error
    known = {axis + kind for axis in "XYZ" for kind in ("rotation", "position")}
    wrong = [c for joint in joints for c in joint.channels if c not in known]
    if above or wrong or not joints or len(joints) > MOST_JOINTS or any(len(j.offset) != 3 for j in joints):
        raise ValueError("the hierarchy is no tree of joints with an OFFSET and CHANNELS each")
    return joints
