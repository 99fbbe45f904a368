"""Encoded sound opened: mono samples at a set rate, of a part of a recording.

libsndfile reads WAV, FLAC, Ogg and MP3; PyAV the sound of videos; numpy `.npy`; MIDI is played by
made-up instruments. Whatever a decoder raises becomes `Broken`.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask.data.decode import threads
from pretask.data.formats import NPY, Broken, check_bytes, reasons
from pretask.data.midi import MAGIC, read_notes
from pretask.data.music import instrument, render
from pretask.data.stores import Opener, Store
from pretask.errors import need

EXTENSIONS = frozenset((".wav", ".flac", ".ogg", ".oga", ".mp3", ".aiff", ".aif", ".au", ".mid", ".midi"))
LONGEST = 24 * 3600  # seconds of one recording; more is no recording, or to be cut first
FULL = 32768  # of 16 bits
SILENT = -1  # in place of a recording where a sample has none


class Facts(NamedTuple):
    """What a recording's header says.

    Args:
        rate: samples a second.
        size: samples.
    """

    rate: int
    size: int

    @property
    def seconds(self) -> float:
        return self.size / self.rate


@contextmanager
def opened(raw: bytes) -> Iterator[Any]:
    """A recording as libsndfile reads it.

    Raises:
        Broken: it cannot.
    """
    soundfile = need("soundfile", "audio")
    try:
        with soundfile.SoundFile(io.BytesIO(raw)) as file:
            yield file
    except soundfile.LibsndfileError as error:
        raise Broken(error.error_string) from error


def measure(raw: Any, rate: int) -> Facts:
    """What a recording is, without decoding it. An array has the rate that is asked for.

    Raises:
        Broken: it is none.
    """
    if isinstance(raw, np.ndarray):
        facts = Facts(rate, raw.shape[-1])
    else:
        check_bytes(len(raw))
        if raw[:6] == NPY:
            return measure(np.load(io.BytesIO(raw), allow_pickle=False), rate)
        if raw[:4] == MAGIC:
            notes = read_notes(raw)
            return Facts(rate, max(1, round(max((n.start + n.length for n in notes), default=0) * rate)))
        with opened(raw) as file:
            facts = Facts(file.samplerate, file.frames)
    if facts.size < 1 or facts.rate < 1:
        raise Broken("holds no sound")
    if facts.seconds > LONGEST:
        raise Broken(f"absurdly long ({facts.seconds / 3600:.0f} hours)")
    return facts


def read_part(raw: Any, start: float, seconds: float, rate: int) -> Float[np.ndarray, "size"]:
    """A part of a recording: mono, at this rate, with silence behind its end.

    Args:
        raw: an encoded recording, or an array (samples,) or (channels, samples) at this rate.
        start: second it begins at.
        seconds: its length.
        rate: samples a second.

    Raises:
        Broken: it cannot be decoded, or holds values that are no sound's.
    """
    if not isinstance(raw, np.ndarray) and raw[:6] == NPY:
        raw = np.load(io.BytesIO(raw), allow_pickle=False)
    if isinstance(raw, bytes) and raw[:4] == MAGIC:
        own, sound = rate, played(raw, start, seconds, rate)
    elif isinstance(raw, bytes) and in_video(raw):
        own, sound = rate, of_video(raw, start, seconds, rate)
    elif isinstance(raw, np.ndarray):
        own, first, last = rate, round(start * rate), round((start + seconds) * rate)
        sound = as_float(np.atleast_2d(raw)[:, first:last]).mean(0)
    else:
        with opened(raw) as file:
            own = file.samplerate
            file.seek(round(start * own))
            sound = file.read(round(seconds * own), dtype="float32", always_2d=True).mean(1)
    if not len(sound):
        raise Broken("ends before its header says")
    if not np.isfinite(sound).all():
        raise Broken("holds values that are not finite")
    if own != rate:
        sound = need("librosa", "audio").resample(sound, orig_sr=own, target_sr=rate)
    size = round(seconds * rate)
    return np.pad(sound[:size], (0, max(size - len(sound), 0))).astype(np.float32)


def played(raw: bytes, start: float, seconds: float, rate: int) -> Float[np.ndarray, "size"]:
    """A part of a MIDI file, by an instrument that is always the same for the file."""
    rng = np.random.default_rng(zlib.crc32(raw))
    timbre = instrument(rng)
    notes = [
        note._replace(
            start=max(note.start - start, 0), length=min(note.length, note.start + note.length - start)
        )
        for note in read_notes(raw)
        if note.start < start + seconds and note.start + note.length > start
    ]
    return render(notes, timbre, rate, round(seconds * rate), rng)


def in_video(raw: bytes) -> bool:
    """Whether a file is an MP4, QuickTime, Matroska, WebM or AVI by its first bytes."""
    return raw[4:8] == b"ftyp" or raw[:4] == b"\x1aE\xdf\xa3" or (raw[:4] == b"RIFF" and raw[8:12] == b"AVI ")


def of_video(raw: bytes, start: float, seconds: float, rate: int) -> Float[np.ndarray, "size"]:
    """The sound that goes with a part of a video, mono, at this rate.

    Raises:
        Broken: it has none.
    """
    av = need("av", "video")
    with av.open(io.BytesIO(raw)) as container:
        if not container.streams.audio:
            raise Broken("a video without sound")
        stream = container.streams.audio[0]
        alike = av.AudioResampler(format="flt", layout="mono", rate=rate)
        parts, held, first, wanted = [], 0, round(start * rate), round((start + seconds) * rate)
        for frame in container.decode(stream):
            parts += [piece.to_ndarray()[0] for piece in alike.resample(frame)]
            held = sum(map(len, parts))
            if held >= wanted:
                break
    return np.concatenate([*parts, np.zeros(0, np.float32)])[first:wanted]


def as_float(values: np.ndarray) -> Float[np.ndarray, "channels samples"]:
    """Samples in [-1, 1], whole numbers by the reach of their type.

    Raises:
        Broken: no such values, or floats beyond that reach.
    """
    if values.dtype.kind == "i":
        return (values / -float(np.iinfo(values.dtype).min)).astype(np.float32)
    if values.dtype.kind != "f":
        raise Broken(f"values of type {values.dtype} are no sound's")
    if np.abs(values).max(initial=0) > 1:
        raise Broken("floats reach beyond -1 to 1: divide them by their largest")
    return values.astype(np.float32)


class Parts:
    """Parts of recordings as samples, decoded when they are asked for.

    Args:
        store: where recordings lie.
        place: for each part its recording (or `SILENT`) and the second it begins at.
        seconds: of each part.
        rate: samples a second.
    """

    in_memory = False

    def __init__(self, store: Store, place: Float[Tensor, "parts 2"], seconds: float, rate: int):
        self.store, self.place, self.seconds, self.rate = store, place, seconds, rate
        self.opener = Opener()  # threads are not for sharing between processes

    def __len__(self) -> int:
        return len(self.place)

    def name(self, row: int) -> str:
        file, start = self.place[row].tolist()
        if file == SILENT:
            return "silence"
        return str(self.store.names[int(file)]) + (f" from {start:g} s" if start else "")

    def pool(self) -> ThreadPoolExecutor:
        worker = torch.utils.data.get_worker_info() is not None  # then there are other processes to decode
        return self.opener.get(lambda: ThreadPoolExecutor(1 if worker else threads()))

    def one(self, row: int) -> np.ndarray | str:
        file, start = self.place[row].tolist()
        if file == SILENT:
            return np.zeros(round(self.seconds * self.rate), dtype=np.float32)
        try:
            with reasons():
                return read_part(self.store.read(int(file)), start, self.seconds, self.rate)
        except Broken as error:
            return str(error)

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]:
        sound = torch.zeros(len(rows), round(self.seconds * self.rate))
        broken = {}
        found = zip(rows.tolist(), self.pool().map(self.one, rows.tolist()), strict=True)
        for place, (row, read) in enumerate(found):
            if isinstance(read, str):
                broken[row] = read
            else:
                sound[place] = torch.from_numpy(read)
        return {"audio": sound}, broken


class Kept:
    """Samples in memory, as 16-bit numbers."""

    in_memory = True

    def __init__(self, sound: Tensor, names: list[str]):
        self.sound, self.names = sound, names

    def __len__(self) -> int:
        return len(self.sound)

    def name(self, row: int) -> str:
        return self.names[row]

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]:
        return {"audio": self.sound[rows].float() / FULL}, {}


def keep(parts: Parts, rows: Int[Tensor, "some"]) -> tuple[Kept, dict[int, str]]:
    """Decode these parts into memory; those that cannot be are silent, with the reason."""
    sound = torch.zeros(len(rows), round(parts.seconds * parts.rate), dtype=torch.int16)
    broken: dict[int, str] = {}
    for places in torch.arange(len(rows)).split(256):
        columns, wrong = parts.get(rows[places])
        sound[places] = (columns["audio"] * FULL).round().clamp(-FULL, FULL - 1).to(torch.int16)
        broken |= wrong
    return Kept(sound, [parts.name(row) for row in rows.tolist()]), broken
