"""Encoded point clouds and meshes opened.

trimesh reads PLY, OFF, STL and OBJ, numpy the rest. Bytes are hostile until decoded: whatever a decoder
raises becomes `Broken` (`formats.reasons`), counts in headers are held against what came.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretask.data.formats import Broken, check_bytes
from pretask.errors import need

POINTS = ("points", "pos", "xyz", "coords", "coordinates", "pc", "cloud", "data", "x", "arr_0")
NORMALS = ("normals", "normal")
FEATURES = ("features", "colors", "colours", "rgb", "intensity", "reflectance")
COLOURS = ("red", "green", "blue")
CARRIED = ("intensity", "reflectance", "reflectivity", "scalar_intensity")
MIN_POINTS, MAX_POINTS = 8, 50_000_000


class Cloud(NamedTuple):
    """Points as they were measured.

    Args:
        places: (n, 3), in the file's own axes and unit.
        features: (n, F): what each point carries besides.
        normals: (n, 3) where the file gives them.
    """

    places: np.ndarray
    features: np.ndarray
    normals: np.ndarray | None = None


def cloud_of(columns: np.ndarray, normals: np.ndarray | None = None) -> Cloud:
    """Columns x, y, z and what follows. Columns 4 to 6 of length 1 are normals, unless these are given.

    Raises:
        Broken: there are no such columns.
    """
    columns = np.asarray(columns)
    if columns.ndim != 2 or columns.shape[1] < 3 or columns.dtype.kind not in "uif":
        raise Broken(f"holds {columns.dtype} values of shape {columns.shape}, not points (number, 3 or more)")
    places, rest = columns[:, :3].astype(np.float64), columns[:, 3:].astype(np.float32)
    if normals is None and rest.shape[1] >= 3:
        length = np.linalg.norm(rest[:, :3], axis=1)
        if np.mean(np.abs(length - 1) < 1e-2) > 0.99:
            normals, rest = rest[:, :3], rest[:, 3:]
    return Cloud(places, rest, normals)


def tidy(cloud: Cloud) -> Cloud:
    """Without points that are not finite: scanners write them where nothing came back.

    Raises:
        Broken: too few or too many are left.
    """
    places, features, normals = cloud
    if len(places) > MAX_POINTS:
        raise Broken(f"absurdly large ({len(places)} points)")
    finite = np.isfinite(places).all(1) & np.isfinite(features).all(1)
    if finite.sum() < MIN_POINTS:
        raise Broken(f"holds {int(finite.sum())} usable points, fewer than {MIN_POINTS}")
    if normals is not None:
        normals = np.asarray(normals, np.float64)[finite]
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        sound = np.isfinite(length).all() and (length > 1e-6).all()
        normals = normals / length if sound else None
    return Cloud(places[finite], features[finite], normals)


def from_bin(raw: bytes) -> Cloud:
    """KITTI's float32 x, y, z, reflectance, or nuScenes' with a fifth column, the beam's number."""
    values = np.frombuffer(raw, "<f4")
    if len(values) % 5 == 0:
        beam = values.reshape(-1, 5)[:, 4]
        with np.errstate(invalid="ignore"):
            whole = np.isfinite(beam).all() and (beam == np.round(beam)).all()
        if whole and beam.min(initial=0) >= 0 and beam.max(initial=0) < 256 and len(np.unique(beam)) > 1:
            return cloud_of(values.reshape(-1, 5))
    if len(values) % 4:
        raise Broken(f"{len(raw)} bytes are no rows of four or five float32 numbers")
    return cloud_of(values.reshape(-1, 4))


def from_text(raw: bytes) -> Cloud:
    """A point a line, separated by spaces or commas; `#` and `//` begin comments, a count may come first."""
    lines = [re.split(r"#|//", line)[0] for line in raw.decode("utf-8-sig").splitlines()]
    rows = [line.replace(",", " ").split() for line in lines]
    rows = [row for row in rows if row]
    if rows and len(rows[0]) == 1:
        rows = rows[1:]
    if len({len(row) for row in rows}) > 1:
        raise Broken("its lines hold different numbers of values")
    return cloud_of(np.array(rows, dtype=np.float64))


def from_npz(raw: bytes) -> Cloud:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        check_bytes(sum(info.file_size for info in archive.infolist()))  # before anything is unpacked
    with np.load(io.BytesIO(raw), allow_pickle=False) as file:
        return cloud_of(*arrays_in(file))


def arrays_in(file: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Points with what they carry behind their coordinates, and their normals, of an open `.npz`.

    Raises:
        Broken: there are no points by any of the names in POINTS.
    """
    points, normals, features = (
        next((file[name] for name in names if name in file), None) for names in (POINTS, NORMALS, FEATURES)
    )
    if points is None:
        raise Broken(f"holds {', '.join(file)}; points are looked for as {', '.join(POINTS)}")
    if features is not None:
        points = np.concatenate([points, features.reshape(*points.shape[:-1], -1)], axis=-1)
    return points, normals


def from_trimesh(raw: bytes, kind: str) -> Any:
    """A mesh as trimesh has it, or the points of a file without faces."""
    trimesh = need("trimesh", "points")
    shape = trimesh.load(io.BytesIO(raw), file_type=kind, process=False)
    if isinstance(shape, trimesh.Scene):
        shape = shape.to_mesh()
    vertices, faces = announced(raw[:4096], kind)
    there = len(getattr(shape, "faces", ()))
    if len(shape.vertices) < vertices or there < faces:
        raise Broken(f"truncated: {len(shape.vertices)} of {vertices} vertices, {there} of {faces} faces")
    if there:
        if not np.isfinite(shape.area) or shape.area <= 0:
            raise Broken("a mesh without any area")
        return shape
    return from_vertices(shape.metadata.get("_ply_raw", {}).get("vertex", {}).get("data"), shape.vertices)


def announced(head: bytes, kind: str) -> tuple[int, int]:
    """How many vertices and faces a PLY's or OFF's header says there are."""
    patterns = {
        "ply": (rb"element vertex\s+(\d+)", rb"element face\s+(\d+)"),
        "off": (rb"OFF(?:\s|#.*\n)*(\d+)", rb"OFF(?:\s|#.*\n)*\d+\s+(\d+)"),
    }
    found = [re.search(pattern, head) for pattern in patterns.get(kind, (b"$^", b"$^"))]
    vertices, faces = (int(number[1]) if number else 0 for number in found)
    return vertices, faces


def from_vertices(data: Any, vertices: np.ndarray) -> Cloud:
    """The points of a PLY, with the normals, colours and intensity its properties give."""
    names = tuple(data.keys() if isinstance(data, dict) else data.dtype.names) if data is not None else ()

    def columns(wanted: tuple[str, ...]) -> list[np.ndarray]:
        return [np.asarray(data[name]).reshape(-1) for name in wanted if name in names]

    features = [
        column / np.iinfo(column.dtype).max if column.dtype.kind == "u" else column
        for column in columns(COLOURS)
    ]
    features += columns(CARRIED)[:1]
    normals = columns(("nx", "ny", "nz"))
    return cloud_of(
        np.stack([*np.asarray(vertices, np.float64).T, *features], axis=1),
        np.stack(normals, axis=1) if len(normals) == 3 else None,
    )


DECODERS: dict[str, Callable[[bytes], Any]] = {
    ".bin": from_bin,
    ".xyz": from_text,
    ".pts": from_text,
    ".npy": lambda raw: cloud_of(np.load(io.BytesIO(raw), allow_pickle=False)),
    ".npz": from_npz,
    **{f".{kind}": partial(from_trimesh, kind=kind) for kind in ("ply", "off", "stl", "obj")},
}


def decode(raw: Any, name: str) -> Any:
    """A cloud, or a mesh as trimesh has it, from a file's content; a cloud may be given as it is.

    Raises:
        Broken: it holds no usable points.
    """
    shape = raw if isinstance(raw, Cloud) else DECODERS[Path(name).suffix.lower()](raw)
    return tidy(shape) if isinstance(shape, Cloud) else shape
