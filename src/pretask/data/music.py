"""Music made up: chord progressions in a known key, played by instruments that no two tracks share.

Nothing is recorded: a note is a few harmonics under an envelope. All is a function of a seed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

TONICS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
KEYS = [f"{tonic} {mode}" for mode in ("major", "minor") for tonic in TONICS]
"""Class 12 * minor + tonic."""

SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10))
MAJOR, MINOR, DIMINISHED = (0, 4, 7), (0, 3, 7), (0, 3, 6)
MAJOR_SONGS = (  # root above the tonic, and the chord on it
    ((0, MAJOR), (5, MAJOR), (7, MAJOR), (0, MAJOR)),
    ((0, MAJOR), (9, MINOR), (5, MAJOR), (7, MAJOR)),
    ((2, MINOR), (7, MAJOR), (0, MAJOR), (0, MAJOR)),
    ((0, MAJOR), (7, MAJOR), (9, MINOR), (5, MAJOR)),
    ((0, MAJOR), (4, MINOR), (5, MAJOR), (0, MAJOR)),
    ((9, MINOR), (2, MINOR), (7, MAJOR), (0, MAJOR)),
)
MINOR_SONGS = (
    ((0, MINOR), (5, MINOR), (7, MAJOR), (0, MINOR)),
    ((0, MINOR), (8, MAJOR), (3, MAJOR), (10, MAJOR)),
    ((0, MINOR), (5, MINOR), (7, MINOR), (0, MINOR)),
    ((0, MINOR), (10, MAJOR), (8, MAJOR), (7, MAJOR)),
    ((2, DIMINISHED), (7, MAJOR), (0, MINOR), (0, MINOR)),
    ((0, MINOR), (8, MAJOR), (5, MINOR), (0, MINOR)),
)
SONGS = (MAJOR_SONGS, MINOR_SONGS)
TABLE = 2048  # moments of one period


class Note(NamedTuple):
    """A tone.

    Args:
        pitch: MIDI number; 69 is 440 Hz.
        start: seconds.
        length: seconds.
        loud: amplitude.
    """

    pitch: float
    start: float
    length: float
    loud: float


class Timbre(NamedTuple):
    """An instrument and a room.

    Args:
        harmonics: amplitude of each, the fundamental first.
        attack: seconds until a note is at its loudest.
        decay: seconds in which it falls to 1/e.
        tuning: semitones away from 440 Hz.
        noise: standard deviation of noise beside a peak of 1.
    """

    harmonics: Float[np.ndarray, "harmonics"]
    attack: float = 0.01
    decay: float = 1.0
    tuning: float = 0.0
    noise: float = 0.0


def render(
    notes: list[Note], timbre: Timbre, rate: int, size: int, rng: np.random.Generator
) -> Float[np.ndarray, "size"]:
    """The sound of notes, its peak at 1 before the noise. No harmonic above half the rate is played."""
    phase = 2 * np.pi * np.arange(TABLE) / TABLE
    waves = np.cumsum(
        [loud * np.sin(number * phase) for number, loud in enumerate(timbre.harmonics, 1)], axis=0
    )
    sound = np.zeros(size)
    for note in notes:
        frequency = 440.0 * 2 ** ((note.pitch + timbre.tuning - 69) / 12)
        played = min(len(waves), int(rate / 2 / frequency))
        first, last = round(note.start * rate), min(size, round((note.start + note.length) * rate))
        if played < 1 or last <= first:
            continue
        time = np.arange(last - first) / rate
        envelope = np.minimum(time / timbre.attack, 1) * np.exp(-time / timbre.decay)
        envelope *= np.minimum((time[-1] - time) / 0.01, 1)  # no click at the end
        place = (time * frequency * TABLE).astype(np.int64) % TABLE
        sound[first:last] += note.loud * envelope * waves[played - 1][place]
    sound /= max(np.abs(sound).max(), 1e-9)
    return (sound + timbre.noise * rng.standard_normal(size)).clip(-1, 1)


def instrument(rng: np.random.Generator) -> Timbre:
    """A random timbre: bright or dull, plucked or held, a little out of tune, more or less noisy."""
    number = np.arange(1, 11)
    harmonics = number ** -rng.uniform(1.0, 2.5) * rng.uniform(0.3, 1.0, len(number))
    if rng.random() < 0.3:  # as of a closed pipe
        harmonics[1::2] *= 0.1
    return Timbre(
        harmonics, rng.uniform(0.005, 0.05), rng.uniform(0.3, 3.0), rng.uniform(-0.1, 0.1),
        10 ** rng.uniform(-3.0, -1.5),
    )  # fmt: skip


def song(key: int, start: float, length: float, rng: np.random.Generator) -> list[Note]:
    """A progression in a key (a class of `KEYS`): chords in random voicing, a bass, a melody of the scale."""
    tonic, minor = key % 12, key // 12
    chords = SONGS[minor][rng.integers(len(SONGS[minor]))]
    repeats = int(rng.integers(1, 3))
    beat = length / (len(chords) * repeats)
    notes, height = list[Note](), int(rng.integers(-5, 7))
    scale = [step + 12 * octave for octave in (0, 1) for step in SCALES[minor]]
    place = int(rng.integers(len(scale)))
    for number in range(len(chords) * repeats):
        root, chord = chords[number % len(chords)]
        begin = start + number * beat
        for tone in chord:
            pitch = 60 + height + (tonic + root + tone - height) % 12  # within an octave: some inversion
            notes.append(Note(pitch, begin, beat, rng.uniform(0.5, 1.0)))
        notes.append(Note(36 + (tonic + root) % 12, begin, beat, rng.uniform(0.5, 1.2)))
        for half in range(2):
            place = int(np.clip(place + rng.integers(-2, 3), 0, len(scale) - 1))
            strong = [step for step in scale if (step - root) % 12 in chord]
            step = min(strong, key=lambda tone: abs(tone - scale[place])) if half == 0 else scale[place]
            notes.append(Note(72 + tonic + step, begin + half * beat / 2, beat / 2, rng.uniform(0.2, 0.7)))
    return notes


def track(key: int, seconds: float, rate: int, rng: np.random.Generator) -> Float[np.ndarray, "size"]:
    """A piece in a key: one instrument plays two progressions, one in each half."""
    half = seconds / 2
    notes = song(key, 0.0, half, rng) + song(key, half, half, rng)
    return render(notes, instrument(rng), rate, round(seconds * rate), rng)


class Tracks:
    """Made-up pieces, each made when it is first asked for and kept as 16-bit samples.

    Args:
        count: how many; the keys come in turn.
        seconds: of each.
        rate: samples a second.
        seed: of all of them.
    """

    in_memory = True

    def __init__(self, count: int, seconds: float, rate: int, seed: int = 0):
        self.seconds, self.rate, self.seed = seconds, rate, seed
        self.kept = torch.zeros(count, round(seconds * rate), dtype=torch.int16)
        self.made = torch.zeros(count, dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.kept)

    def name(self, row: int) -> str:
        return f"{KEYS[row % len(KEYS)]}, {row // len(KEYS)}"

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]:
        for row in rows[~self.made[rows]].unique().tolist():
            sound = track(row % len(KEYS), self.seconds, self.rate, np.random.default_rng([self.seed, row]))
            self.kept[row] = torch.from_numpy((sound * 32767).round().astype(np.int16))
            self.made[row] = True
        return {"audio": self.kept[rows].float() / 32768}, {}
