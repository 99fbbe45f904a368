"""Films made up, with sound and captions: a digit moves, an instrument plays along, words say both.

What a clip shows and what it sounds like tell different things (colour and digit; instrument and register) and one
that is in both: the sound follows the motion.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pretask.data.dataset import Dataset
from pretask.data.moving import COLOURS, MOTIONS, draw_scenes, render, sprites
from pretask.data.music import Note, Timbre
from pretask.data.music import render as play
from pretask.data.tokens import Ragged, learn_tokenizer, load_tokenizer

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MOVES = (
    "moves left", "moves right", "moves up", "moves down", "circles left", "circles right", "turns left",
    "turns right", "grows bigger", "gets smaller",
)  # fmt: skip
INSTRUMENTS = {
    "flute": Timbre(np.array([1, 0.15, 0.05]), 0.04, 3.0),
    "organ": Timbre(np.array([1, 0.8, 0.1, 0.6, 0, 0.1, 0, 0.4]), 0.02, 5.0),
    "clarinet": Timbre(np.array([1, 0.05, 0.6, 0.05, 0.4, 0.05, 0.25]), 0.03, 3.0),
    "violin": Timbre(1 / np.arange(1, 13), 0.06, 3.0),
    "bell": Timbre(np.array([0.4, 0, 1, 0, 0.7, 0, 0, 0.5]), 0.002, 0.25),
    "harp": Timbre(1 / np.arange(1, 9) ** 1.5, 0.002, 0.12),
}
REGISTERS = {"low": 45, "middle": 60, "high": 75}
NOTES = 8
TRAIN, TEST = 2000, 400
NOISE = 0.01  # beside a peak of 1
WORDS = 500  # tokens of a tokenizer that is learned; captions have 38 words


class Sounds(NamedTuple):
    """What is heard in each film.

    Args:
        instrument: its place in `INSTRUMENTS`.
        register: its place in `REGISTERS`.
        pitch: semitones above the register.
    """

    instrument: Int[Tensor, "films"]
    register: Int[Tensor, "films"]
    pitch: Int[Tensor, "films"]


def melody(motion: str, pitch: float, seconds: float) -> list[Note]:
    """Notes that follow a motion: up and down in pitch, growth in loudness, circles as a trill, turning as a
    tremolo; sideways they repeat."""
    notes, length = [], seconds / NOTES
    for number in range(NOTES):
        along = number / (NOTES - 1)
        height, loud = pitch, 0.8
        if motion in ("up", "down"):
            height += 12 * (along - 0.5) * (1 if motion == "up" else -1)
        elif motion in ("growing", "shrinking"):
            loud = 0.05 + 0.95 * (along if motion == "growing" else 1 - along)
        elif motion.startswith("circling"):
            height += 4 * (number % 2)
        elif motion.startswith("turning"):
            loud = 0.1 if number % 2 else 0.9
        notes.append(Note(height, number * length, length, loud))
    return notes


class SoundingDigits:
    """Films with sound, each made when it is asked for; the sound is kept as 16-bit samples.

    Args:
        side: of a frame in pixels.
        frames: of a film.
        seconds: of its sound.
        rate: samples a second.
        seed: of all of them.
    """

    in_memory = True
    texts: Ragged
    pad: int

    def __init__(self, side: int, frames: int, seconds: float, rate: int, seed: int = 0):
        self.side, self.frames, self.seconds, self.rate, self.seed = side, frames, seconds, rate, seed
        self.scenes, self.parts = draw_scenes(1, seed, TRAIN, TEST)
        rng = np.random.default_rng([seed, 1])
        count = len(self.parts)
        drawn = (rng.integers(high, size=count) for high in (len(INSTRUMENTS), len(REGISTERS), 6))
        self.sounds = Sounds(*(torch.from_numpy(values) for values in drawn))
        self.kept = torch.zeros(count, round(seconds * rate), dtype=torch.int16)
        self.made = torch.zeros(count, dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.parts)

    def name(self, row: int) -> str:
        return self.caption(row)

    def caption(self, row: int) -> str:
        """What a person would say of it; each word's place tells what it is about."""
        scene = self.scenes.rows(torch.tensor([row]))
        colour = list(COLOURS)[int(scene.colour)]
        digit = DIGITS[int(sprites()[1][scene.digit[0, 0]])]
        instrument = list(INSTRUMENTS)[int(self.sounds.instrument[row])]
        register = list(REGISTERS)[int(self.sounds.register[row])]
        return f"a {colour} {digit} {MOVES[int(scene.motion)]} while a {instrument} plays {register}"

    def sound(self, row: int) -> np.ndarray:
        motion = MOTIONS[int(self.scenes.motion[row, 0])]
        low = list(REGISTERS.values())[int(self.sounds.register[row])]
        timbre = list(INSTRUMENTS.values())[int(self.sounds.instrument[row])]._replace(noise=NOISE)
        notes = melody(motion, low + int(self.sounds.pitch[row]), self.seconds)
        rng = np.random.default_rng([self.seed, 2, row])
        return play(notes, timbre, self.rate, self.kept.shape[1], rng)

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]:
        for row in rows[~self.made[rows]].unique().tolist():
            self.kept[row] = torch.from_numpy((self.sound(row) * 32767).round().astype(np.int16))
            self.made[row] = True
        time = (torch.arange(self.frames) + 0.5).expand(len(rows), -1) / self.frames
        video = render(self.scenes.rows(rows), time, self.side)
        size = torch.full((len(rows), 2), self.side)
        tokens, attention = self.texts.gather(rows, self.pad)
        sound = self.kept[rows].float() / 32768
        return {
            "video": video, "size": size, "audio": sound, "tokens": tokens, "attention": attention
        }, {}  # fmt: skip


def sounding_digits(
    image_size: int, frames: int, seconds: float, rate: int, tokenizer: str | Path | None, max_length: int
) -> Dataset:
    """Two thousand films with sound and captions to learn from, and four hundred to be judged by.

    Args:
        image_size: side of a frame in pixels.
        frames: of a film.
        seconds: of its sound.
        rate: samples a second.
        tokenizer: what makes numbers of the captions; default one learned from them.
        max_length: tokens an encoder shall take.
    """
    films = SoundingDigits(image_size, frames, seconds, rate)
    lines = [films.caption(row) for row in range(len(films))]
    model = learn_tokenizer(lines[:TRAIN], WORDS) if tokenizer is None else load_tokenizer(tokenizer)
    ids, lengths, _ = model.encode(lines, max_length)
    films.texts, films.pad = Ragged(ids, lengths), model.vocabulary.pad
    inputs = {
        "in_chans": 3, "image_size": image_size, "rate": rate, "tokenizer": model.text, "max_length": max_length,
    }  # fmt: skip
    return Dataset(
        films, "sounding-digits", modality="film", inputs=inputs, targets=films.scenes.motion[:, 0],
        classes=list(MOTIONS), parts=torch.tensor([("train", "test").index(part) for part in films.parts]),
        part_names=("train", "test"),
        facts={"frames": f"{frames} a film", "sound": f"{seconds:g} s", "memory": "made when needed"},
    )  # fmt: skip
