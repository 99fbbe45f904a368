"""MIDI files read as notes: who plays what when; how it sounds is made up."""

from __future__ import annotations

import struct
from typing import NamedTuple

from pretask.data.formats import Broken
from pretask.data.music import Note

MAGIC = b"MThd"
DRUMS = 9  # the channel whose numbers are no pitches
TEMPO = 500_000  # microseconds of a quarter note, where nothing is said
TEMPO_EVENT, END_EVENT, META, SYSEX, ESCAPE = 0x51, 0x2F, 0xFF, 0xF0, 0xF7
LENGTHS = {0x80: 2, 0x90: 2, 0xA0: 2, 0xB0: 2, 0xC0: 1, 0xD0: 1, 0xE0: 2}  # bytes behind a channel's event


class Event(NamedTuple):
    """A change.

    Args:
        tick: when.
        kind: `tempo`, or a channel's number.
        pitch: of a note.
        value: how loud a note begins, 0 where it ends; a tempo.
    """

    tick: int
    kind: int | str
    pitch: int
    value: int


def read_notes(raw: bytes) -> list[Note]:
    """The notes of all tracks in seconds, percussion left out.

    Raises:
        Broken: it is no MIDI file, is cut short, or counts time in frames of film.
    """
    if raw[:4] != MAGIC or len(raw) < 14:
        raise Broken("no MIDI file")
    tracks, division = struct.unpack(">HH", raw[10:14])
    if division & 0x8000 or division == 0:
        raise Broken("counts time in frames of film, not in beats")
    place, events = 8 + int.from_bytes(raw[4:8], "big"), list[Event]()
    for _ in range(tracks):
        if raw[place : place + 4] != b"MTrk":
            raise Broken("a track is missing")
        end = place + 8 + int.from_bytes(raw[place + 4 : place + 8], "big")
        if end > len(raw):
            raise Broken("a track is cut short")
        events += read_track(raw[place + 8 : end])
        place = end
    return in_seconds(sorted(events, key=lambda event: (event.tick, event.value > 0)), division)


def read_track(data: bytes) -> list[Event]:
    """Notes and changes of tempo."""
    events, place, tick, status = list[Event](), 0, 0, 0
    while place < len(data):
        delta, place = number_at(data, place)
        tick += delta
        if data[place] & 0x80:
            status, place = data[place], place + 1
        if status in (META, SYSEX, ESCAPE):
            kind = data[place] if status == META else None
            length, place = number_at(data, place + (status == META))
            if kind == TEMPO_EVENT:
                events.append(Event(tick, "tempo", 0, int.from_bytes(data[place : place + length], "big")))
            if kind == END_EVENT:
                break
            place += length
            continue
        family = status & 0xF0
        if family not in LENGTHS:
            raise Broken(f"holds an event of unknown kind {status:#x}")
        if family in (0x80, 0x90) and status & 0x0F != DRUMS:
            loud = data[place + 1] if family == 0x90 else 0
            events.append(Event(tick, status & 0x0F, data[place], loud))
        place += LENGTHS[family]
    return events


def number_at(data: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = 0
    while True:
        byte, place = data[place], place + 1
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            return value, place


def in_seconds(events: list[Event], division: int) -> list[Note]:
    """Notes from beginnings and ends in order, whatever the tempo between; what never ends is left out."""
    seconds, before, tempo = 0.0, 0, TEMPO
    begun, notes = dict[tuple[int | str, int], tuple[float, int]](), list[Note]()
    for event in events:
        seconds += (event.tick - before) * tempo / division / 1e6
        before = event.tick
        if event.kind == "tempo":
            tempo = event.value
            continue
        key = (event.kind, event.pitch)
        if key in begun:
            start, loud = begun.pop(key)
            notes.append(Note(event.pitch, start, seconds - start, loud / 127))
        if event.value:
            begun[key] = seconds, event.value
    return notes
