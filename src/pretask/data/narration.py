"""What somebody says who sees digits move: a sentence for each event, in other words each time, some of them lost."""

from __future__ import annotations

import numpy as np

from pretask.data.moving import COLOURS, MOTIONS, Scenes, sprites

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SAYINGS: dict[str, tuple[str, ...]] = {
    "left": ("moves to the left", "goes left", "slides to the left side"),
    "right": ("moves to the right", "goes right", "slides to the right side"),
    "up": ("moves upwards", "goes up", "climbs to the top"),
    "down": ("moves downwards", "goes down", "falls to the bottom"),
    "circling left": ("circles to the left", "runs round anticlockwise", "makes a loop leftwards"),
    "circling right": ("circles to the right", "runs round clockwise", "makes a loop rightwards"),
    "turning left": ("turns anticlockwise on the spot", "spins leftwards", "tips over to the left"),
    "turning right": ("turns clockwise on the spot", "spins rightwards", "tips over to the right"),
    "growing": ("grows", "gets bigger", "comes nearer and nearer"),
    "shrinking": ("shrinks", "gets smaller", "goes far away"),
}
OPENINGS = ("", "now", "so", "okay", "then", "you see", "well", "and here")
NOUNS = ("", "number", "digit", "figure")
LOST = 0.2  # of the words, as speech recognition loses them


def narrate(scenes: Scenes, seed: int) -> list[tuple[str, ...]]:
    """A sentence for each event of each scene; some may be empty."""
    rng = np.random.default_rng(seed)
    colours, digits = list(COLOURS), sprites()[1]

    def pick(choices: tuple[str, ...]) -> str:
        return choices[int(rng.integers(len(choices)))]

    told = []
    for digit, motion, colour in zip(scenes.digit, scenes.motion, scenes.colour, strict=True):
        sentences = []
        for d, m, c in zip(digits[digit].tolist(), motion.tolist(), colour.tolist(), strict=True):
            said = f"{pick(OPENINGS)} the {colours[c]} {pick(NOUNS)} {NUMBERS[d]} {pick(SAYINGS[MOTIONS[m]])}"
            words = said.split()
            kept = rng.random(len(words)) >= LOST
            sentences.append(" ".join(word for word, there in zip(words, kept, strict=True) if there))
        told.append(tuple(sentences))
    return told
