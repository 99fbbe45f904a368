"""Clouds and meshes as samples: equally many points of each, with the surface measured on all of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pretask.data.clouds import Cloud, decode
from pretask.data.decode import threads
from pretask.data.formats import Broken, reasons
from pretask.data.geometry import Axis, local_pca, rotation
from pretask.data.stores import Opener, Store

MESH = 50_000  # points a mesh is sampled with, evenly by area, before some of them are taken
NEIGHBOURS, LEAST, MOST = (
    128 / 50_000,
    16,
    128,
)  # share of the points that tell the surface at one; in numbers


@dataclass(frozen=True)
class Reading:
    """What clouds are made into; see `data.points.open_points`."""

    points: int
    features: int = 0
    scale: Literal["sphere", "none"] = "sphere"
    scans: int = 1
    turn: Axis | Literal["none"] = "none"
    noise: float = 0.0

    def columns(self, shape: Any, number: int, scans: list[int]) -> dict[str, np.ndarray]:
        """Scans of a cloud or mesh. What is drawn depends on its number and the scan's alone; different scans
        have different points while they last.

        Args:
            shape: as `decode` gives it.
            number: in its source.
            scans: which of its scans.

        Raises:
            Broken: its points carry too little.
        """
        rng = np.random.default_rng([0, number])
        cloud = shape if isinstance(shape, Cloud) else sampled(shape, rng)
        carried = cloud.features.shape[1]
        if carried < self.features:
            raise Broken(f"points carry {carried} numbers besides their place, not {self.features}")
        chosen = np.resize(rng.permutation(len(cloud.places)), (self.scans, self.points))[scans]
        asked, back = np.unique(chosen, return_inverse=True)
        normals, variation = surface(cloud.places, asked)
        if cloud.normals is not None:
            normals = cloud.normals[asked]
        places, normals = cloud.places[chosen], normals[back.reshape(chosen.shape)]
        if self.scale == "sphere":
            places = places - places.mean(1, keepdims=True)
            places = places / np.maximum(np.linalg.norm(places, axis=2).max(1), 1e-12)[:, None, None]
        turns, noise = self.errors(number, scans)
        features = cloud.features[chosen][..., : self.features]
        return {
            "points": np.concatenate([places @ turns + noise, features], axis=2).astype(np.float32),
            "normals": (normals @ turns).astype(np.float32),
            "variation": variation[back].reshape(*chosen.shape, 1).astype(np.float32),
            "oriented": np.full(len(scans), cloud.normals is not None),
        }

    def errors(self, number: int, scans: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """How these scans are turned (scans, 3, 3), and how far each of their points is off."""
        rngs = [np.random.default_rng([1, number, scan]) for scan in scans]
        angles = [rng.uniform(0, 2 * np.pi) if self.turn != "none" else 0.0 for rng in rngs]
        axis: Axis = "y" if self.turn == "none" else self.turn
        turns = rotation(axis, torch.tensor(angles, dtype=torch.float64)).numpy()
        return turns, self.noise * np.stack([rng.normal(size=(self.points, 3)) for rng in rngs])

    def void(self, count: int) -> dict[str, Tensor]:
        return {
            "points": torch.zeros(count, self.points, 3 + self.features),
            "normals": torch.zeros(count, self.points, 3),
            "variation": torch.zeros(count, self.points, 1),
            "oriented": torch.zeros(count, dtype=torch.bool),
        }


def sampled(mesh: Any, rng: np.random.Generator) -> Cloud:
    """Points spread evenly over a mesh, with the normals of its faces."""
    from trimesh.sample import sample_surface

    places, faces = sample_surface(mesh, MESH, seed=rng)
    return Cloud(np.asarray(places), np.empty((MESH, 0), np.float32), np.asarray(mesh.face_normals[faces]))


def surface(places: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normals of unknown sign and variation at these points of a dense cloud.

    MaskFeat3D takes the 128 nearest of 50,000 points; of other clouds the same share, from 16 to 128 points.
    """
    from scipy.spatial import cKDTree

    k = min(max(round(NEIGHBOURS * len(places)), LEAST), MOST, len(places))
    index = cKDTree(places).query(places[asked], k)[1]
    normal, variation = local_pca(torch.from_numpy(places[index]))
    return normal.numpy(), variation.numpy()


def scan_name(store: Store, reading: Reading, row: int) -> str:
    name = str(store.names[row // reading.scans])
    return name if reading.scans == 1 else f"{name} (scan {row % reading.scans})"


def read(
    store: Store, reading: Reading, rows: list[int], pool: ThreadPoolExecutor
) -> tuple[dict[str, Tensor], dict[int, str]]:
    """These rows, each cloud decoded once for all its scans; and those that cannot be, with the reason."""
    columns = reading.void(len(rows))
    wanted: dict[int, list[int]] = {}  # by cloud, the places of its scans among the rows
    for place, row in enumerate(rows):
        wanted.setdefault(row // reading.scans, []).append(place)

    def one(number: int) -> dict[int, str]:
        places = wanted[number]
        scans = [rows[place] % reading.scans for place in places]
        try:
            with reasons():
                shape = decode(store.read(number), str(store.names[number]))
                found = reading.columns(shape, number, scans)
        except Broken as error:
            return {rows[place]: str(error) for place in places}
        for key, column in found.items():
            columns[key][places] = torch.from_numpy(column)
        return {}

    broken: dict[int, str] = {}
    for reason in pool.map(one, wanted):
        broken |= reason
    return columns, broken


class LazyClouds:
    """Clouds decoded when they are asked for.

    Args:
        store: where they lie.
        reading: what they are made into.
    """

    in_memory = False

    def __init__(self, store: Store, reading: Reading):
        self.store, self.reading = store, reading
        self.opener = Opener()  # threads are not for sharing between processes

    def __len__(self) -> int:
        return len(self.store.names) * self.reading.scans

    def name(self, row: int) -> str:
        return scan_name(self.store, self.reading, row)

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Tensor], dict[int, str]]:
        worker = torch.utils.data.get_worker_info() is not None  # then there are other processes to decode
        pool = self.opener.get(lambda: ThreadPoolExecutor(1 if worker else threads()))
        return read(self.store, self.reading, rows.tolist(), pool)
