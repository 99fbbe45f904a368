"""Volumes as they are read, and what they are made into: one size, values in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.data.formats import NOT_FINITE, Broken

Triple = tuple[int, int, int]
UNKNOWN = -1
SEEN = 1_000_000  # voxels that tell a volume's range
LIMITS = (0.5, 99.5)  # percentiles that become 0 and 1 where no window is given
MAX_VOXELS = 1 << 29  # of one volume; more is absurd


class Scan(NamedTuple):
    """A volume as it was read; axes run to the right, to the front and up (RAS) where the file says how it lies.

    Args:
        values: of any type.
        spacing: of voxels along each axis, in millimetres.
        segments: what is at each voxel, if that is known; 0 is the background.
    """

    values: Float[np.ndarray, "chans depth height width"]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    segments: Int[np.ndarray, "depth height width"] | None = None

    @property
    def size(self) -> Triple:
        depth, height, width = self.values.shape[1:]
        return depth, height, width


@dataclass(frozen=True)
class Reading:
    """What volumes are made into; see `data.volumes.open_volumes`.

    Args:
        size: voxels along each axis.
        channels: values of a voxel.
        segmented: whether there are segmentations; where a volume has none, all of it is unknown.
        spacing: in millimetres; None stretches whole volumes onto `size`.
        window: the values that become 0 and 1.
        foreground: outside the box of what is brighter, a volume is cut off.
    """

    size: Triple
    channels: int = 1
    segmented: bool = False
    spacing: tuple[float, float, float] | None = None
    window: tuple[float, float] | None = None
    foreground: float | None = None

    def columns(self, scan: Scan) -> dict[str, Tensor]:
        """A volume's entries of the batch, without the dimension of the batch.

        Raises:
            Broken: it has other channels, no finite values, or a segmentation of another size.
        """
        if len(scan.values) != self.channels:
            raise Broken(f"{len(scan.values)} channels where {self.channels} are wanted")
        segments = scan.segments if self.segmented else None
        if segments is not None and segments.shape != scan.size:
            raise Broken(f"its segmentation has {segments.shape} voxels, not {scan.size}")
        values = scaled(scan.values, self.window)
        if self.foreground is not None:
            inside = (slice(None), *box(values, self.foreground))
            values, segments = values[inside], None if segments is None else segments[inside[1:]]
        if self.segmented and segments is None:
            segments = np.full(values.shape[1:], UNKNOWN)
        found = {
            "volume": self.placed(torch.from_numpy(np.ascontiguousarray(values)), scan.spacing, 0.0),
            "size": torch.tensor(scan.size),
        }
        if segments is not None:
            layer = torch.from_numpy(np.ascontiguousarray(segments, dtype=np.int16))[None]
            found["segmentation"] = self.placed(layer, scan.spacing, UNKNOWN)[0]
        return found

    def placed(self, values: Tensor, spacing: tuple[float, ...], outside: float) -> Tensor:
        """On the canvas: stretched onto it or, where a spacing is set, centred on it at that spacing."""
        if self.spacing is None:
            return resampled(values, self.size)
        return centred(
            resampled(values, at_spacing(values.shape[1:], spacing, self.spacing)), self.size, outside
        )

    def void(self, count: int) -> dict[str, Tensor]:
        """Room for the entries of so many volumes."""
        room = {"volume": torch.zeros(count, self.channels, *self.size), "size": torch.ones(count, 3).long()}
        if self.segmented:
            room["segmentation"] = torch.full((count, *self.size), UNKNOWN, dtype=torch.int16)
        return room


def scaled(
    values: np.ndarray, window: tuple[float, float] | None
) -> Float[np.ndarray, "chans depth height width"]:
    """Clipped to the window and brought to [0, 1]; without a window to each channel's own percentiles. What is
    not finite counts as the lowest value: many programs leave it outside of the head.

    Raises:
        Broken: nothing is finite.
    """
    values = values.astype(np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        if not finite.any():
            raise Broken(NOT_FINITE)
        values[~finite] = values[finite].min()
    for channel in values:
        sample = channel.ravel()[:: channel.size // SEEN + 1]
        low, high = np.percentile(sample, LIMITS) if window is None else window
        if low == high:  # the percentiles of a volume that is nearly empty
            low, high = sample.min(), max(sample.max(), np.nextafter(sample.min(), np.inf, dtype=np.float32))
        np.clip((channel - np.float32(low)) / np.float32(high - low), 0, 1, out=channel)
    return values


def box(values: np.ndarray, above: float) -> tuple[slice, slice, slice]:
    """The smallest box that holds all that is brighter; everything where nothing is."""
    bright = (values > above).any(0)
    found = []
    for others in ((1, 2), (0, 2), (0, 1)):
        there = np.flatnonzero(np.any(bright, axis=others))
        found.append(slice(int(there[0]), int(there[-1]) + 1) if len(there) else slice(None))
    return found[0], found[1], found[2]


def at_spacing(size: tuple[int, ...], spacing: tuple[float, ...], wanted: tuple[float, ...]) -> Triple:
    """Voxels that cover the same millimetres at another spacing."""
    depth, height, width = (
        max(1, round(count * own / new)) for count, own, new in zip(size, spacing, wanted, strict=True)
    )
    return depth, height, width


def resampled(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """(C, D, H, W) stretched onto another size: trilinear with the corners on the corners; axes that shrink to a
    half or less are averaged first. Whole numbers are not mixed: the nearest voxel counts."""
    if tuple(values.shape[1:]) == tuple(size):
        return values
    if not values.is_floating_point():
        # in double: whole numbers stay themselves
        return F.interpolate(values[None].double(), tuple(size), mode="nearest-exact")[0].to(values.dtype)
    factors = [max(1, there // wanted) for there, wanted in zip(values.shape[1:], size, strict=True)]
    if max(factors) > 1:
        depth, height, width = (there // by for there, by in zip(values.shape[1:], factors, strict=True))
        values = F.adaptive_avg_pool3d(values, (depth, height, width))
    return F.interpolate(values[None], tuple(size), mode="trilinear", align_corners=True)[0]


def centred(values: Tensor, size: Triple, outside: float) -> Tensor:
    """(C, D, H, W) cut or filled up on both sides of each axis, evenly."""
    padding: list[int] = []
    for there, wanted in zip(reversed(values.shape[1:]), reversed(size), strict=True):
        before = (wanted - there) // 2
        padding += [before, wanted - there - before]
    return F.pad(values, padding, value=outside)
