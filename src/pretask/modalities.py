"""Kinds of data, one row each: the files they lie in, what reads and what encodes them. Imports no torch."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, NamedTuple

from pretask.errors import UsageError


class Modality(NamedTuple):
    """A kind of data.

    Args:
        name: as in the catalogue.
        extensions: of the files that are read as this modality where nobody says which it is. A text file
            may hold anything: such extensions belong to one modality only, the others are asked for by
            name (every method asks for its own).
        reader: `module:function`, `open_data`'s for this modality.
        encoders: `module:function` that builds an encoder from a name and what the data set's `inputs` say.
        embedded: data sets that need no files; the first stands in where no data are given.
    """

    name: str
    extensions: tuple[str, ...]
    reader: str
    encoders: str
    embedded: tuple[str, ...]


MODALITIES: tuple[Modality, ...] = (
    Modality(
        "image",
        (),  # whatever no other modality claims
        "pretask.data.images:open_images",
        "pretask.encoders.image:build_for",
        ("digits-on-textures", "digits", "photos"),
    ),
    Modality(
        "graph",
        (".edgelist", ".edges", ".cites", ".content"),
        "pretask.data.graph:open_graphs",
        "pretask.encoders.graph:build",
        ("digit-neighbours", "blocks", "karate"),
    ),
    Modality(
        "text",
        (".jsonl", ".ndjson", ".txt.gz"),
        "pretask.data.text:open_text",
        "pretask.encoders.text:build",
        ("cipher-languages",),
    ),
    Modality(
        "points",
        (".ply", ".off", ".stl", ".obj", ".xyz", ".pts", ".bin"),
        "pretask.data.points:open_points",
        "pretask.encoders.points:build",
        ("solids",),
    ),
    Modality(
        "track",
        (),  # text files, like much else
        "pretask.data.tracks:open_tracks",
        "pretask.encoders.tracks:build",
        ("walkers",),
    ),
    Modality(
        "volume",
        (".nii", ".nii.gz", ".mgz"),
        "pretask.data.volumes:open_volumes",
        "pretask.encoders.volume:build",
        ("phantoms",),
    ),
    Modality(
        "pose",
        (".bvh",),
        "pretask.data.poses:open_poses",
        "pretask.encoders.poses:build",
        ("puppets",),
    ),
    Modality(
        "video",
        (".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v"),
        "pretask.data.video:open_video",
        "pretask.encoders.video:build",
        ("moving-digits",),
    ),
    Modality(
        "multimodal",
        (),  # tables of files and texts
        "pretask.data.multimodal:open_multimodal",
        "pretask.encoders.towers:build",
        ("narrated-digits",),
    ),
    Modality(
        "audio",
        (".wav", ".flac", ".ogg", ".oga", ".mp3", ".aiff", ".aif", ".au", ".mid", ".midi"),
        "pretask.data.audio:open_audio",
        "pretask.encoders.audio:build",
        ("cadences",),
    ),
    Modality(
        "film",
        (),  # tables of videos, sounds and captions
        "pretask.data.audiovisual:open_films",
        "pretask.encoders.valor:build",
        ("sounding-digits",),
    ),
    Modality(
        "place",
        (),  # tables of pictures with coordinates
        "pretask.data.visits:open_places",
        "pretask.encoders.image:build_for",
        ("seasons",),
    ),
    Modality(
        "captioned",
        (),  # tables of pictures and texts
        "pretask.data.captioned:open_captioned",
        "pretask.encoders.towers:build_captioned",
        ("captioned-digits", "long-tailed-digits"),
    ),
)

BY_NAME = {row.name: row for row in MODALITIES}
BY_EXTENSION = {extension: row.name for row in MODALITIES for extension in row.extensions}
BY_EMBEDDED = {name: row.name for row in MODALITIES for name in row.embedded}


def find(name: str) -> Modality:
    """The row of a modality.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in BY_NAME:
        near = get_close_matches(name, BY_NAME, n=2, cutoff=0.4) or list(BY_NAME)
        raise UsageError(f"there is no modality '{name}'; there is: {', '.join(near)}")
    return BY_NAME[name]


def of_files(suffixes: Iterable[str]) -> str:
    """The modality most of these file extensions (lower case, with the dot) belong to; else pictures."""
    claimed = Counter(BY_EXTENSION[suffix] for suffix in suffixes if suffix in BY_EXTENSION)
    return claimed.most_common(1)[0][0] if claimed else "image"


def load(path: str) -> Callable[..., Any]:
    """The function a `module:function` stands for."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
