"""Panels for the page: pictures as they are, clips that play, sound that is heard, points that turn."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pretask.errors import UsageError
from pretask.reports.map import data_uri
from pretask.reports.panels import caption, draw, fit, to_pixels
from pretask.task import Panel, Sheet

Shown = dict[str, Any]

SHARP = 64
"""Pictures up to this side are sent as they are and enlarged by the page, so that pixels can be counted."""

FRAMES, SIDE, POINTS, SECONDS = 64, 160, 3000, 20
"""At most: frames of a clip, pixels of a frame's side, points of a cloud, seconds of a sound."""


def rows_of(sheet: Sheet, answers: bool, rate: int = 16_000) -> list[list[Shown]]:
    """The rows of a sheet, each panel as plain data.

    Args:
        sheet: what a task shows.
        answers: keep the panels of role `answer`.
        rate: samples a second of sounds.

    Raises:
        UsageError: a panel's kind is unknown or its content does not fit the kind.
    """
    kept = [[panel for panel in row if answers or panel.role != "answer"] for row in sheet.rows]
    return [[to_plain(panel, rate) for panel in row] for row in kept if row]


def to_plain(panel: Panel, rate: int) -> Shown:
    """A panel as plain data; `look` says how the page draws it."""
    common = {"caption": caption(panel), "role": panel.role, "kind": panel.kind}
    if isinstance(panel.content, str):
        return {**common, "look": "text", "text": panel.content}
    make = LOOKS.get(panel.kind)
    if make is None or not isinstance(
        panel.content, Tensor
    ):  # sounds, graphs, and kinds that only `draw` knows
        heard = sound(panel.content, rate) if panel.kind == "audio" else {}
        return {**common, **still(draw(panel)), **heard}
    return {**common, **make(panel.content.detach().cpu())}


def still(picture: Image.Image) -> Shown:
    """A drawing."""
    return {"look": "image", "uri": data_uri(picture), "width": picture.width, "height": picture.height}


def image(content: Tensor) -> Shown:
    picture = Image.fromarray(to_pixels(content))
    if max(picture.size) > SHARP:
        return still(fit(picture))
    return {"look": "image", "uri": png(picture), "width": picture.width, "height": picture.height}


def png(picture: Image.Image) -> str:
    """A picture as text, every pixel as it is."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def frames(content: Tensor, what: str) -> Shown:
    """Pictures one after the other, (C, T, H, W), on one sheet from top to bottom."""
    if content.ndim != 4:
        raise UsageError(
            f"a {what} panel holds (channels, {what}, height, width), not {tuple(content.shape)}"
        )
    times = torch.linspace(0, content.shape[1] - 1, min(FRAMES, content.shape[1])).round().long()
    pictures = [fit(Image.fromarray(to_pixels(content[:, t])), 32, SIDE) for t in times.tolist()]
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width, height * len(pictures)))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (0, number * height))
    return {"uri": data_uri(sheet), "count": len(pictures), "width": width, "height": height}


def video(content: Tensor) -> Shown:
    """A clip that plays."""
    return {"look": "clip", "unit": "frame", "plays": True, **frames(content, "video")}


def volume(content: Tensor) -> Shown:
    """A block of (C, D, H, W): its slices, gone through by hand."""
    block = content[None] if content.ndim == 3 else content
    return {"look": "clip", "unit": "slice", "plays": False, **frames(block, "volume")}


def sound(content: Any, rate: int) -> Shown:
    """What is heard of a waveform; it is drawn besides."""
    samples = torch.as_tensor(content).detach().cpu().float().nan_to_num(0.0)
    mono = samples.mean(0) if samples.ndim == 2 else samples
    return {"look": "sound", "wav": wav(mono[: SECONDS * rate], rate)}


def wav(samples: Tensor, rate: int) -> str:
    """Samples in [-1, 1] as a WAV file of 16 bits inside a text."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.clamp(-1, 1) * 32767).round().numpy().astype("<i2").tobytes())
    return "data:audio/wav;base64," + base64.b64encode(buffer.getvalue()).decode()


def scene(places: Tensor, kind: str, **more: Any) -> Shown:
    """Points through time, (T, N, 2 or 3): fitted into [-1, 1]; points that are not finite lie at -32768.

    Numbers travel as 16-bit integers, little end first, in base64.
    """
    places = places.float()
    there = places.isfinite().all(-1, keepdim=True)
    flat = places.where(there, torch.nan).flatten(0, 1)
    known = flat[there.flatten()]
    low, high = (known.amin(0), known.amax(0)) if len(known) else (torch.zeros(places.shape[-1]),) * 2
    reach = float((high - low).max().clamp(min=1e-9)) / 2
    unit = (places - (low + high) / 2) / reach * 32767
    whole = unit.where(there, -32768.0).nan_to_num(0.0).round().clamp(-32768, 32767)
    steps, count, dim = places.shape
    shape = {"steps": steps, "count": count, "dim": dim, "reach": reach}
    return {"look": "scene", "scene": kind, **shape, "places": packed(whole.numpy(), "<i2"), **more}


def packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values.astype(kind)).tobytes()).decode()


def points(content: Tensor) -> Shown:
    """(N, 3+F): a cloud that turns; features 1-3 are its colours where they lie in [0, 1]."""
    if content.ndim != 2 or content.shape[1] < 3:
        raise UsageError(f"a points panel holds (points, 3 + features), not shape {tuple(content.shape)}")
    keep = torch.linspace(0, len(content) - 1, min(POINTS, len(content))).long()
    cloud = content[keep].float()
    colour = cloud[:, 3:6]
    if colour.shape[1] == 3 and colour.numel() and colour.min() >= 0 and colour.max() <= 1:
        return scene(cloud[None, :, :3], "points", colours=packed((colour * 255).numpy(), "u1"))
    return scene(cloud[None, :, :3], "points")


def pose(content: Tensor) -> Shown:
    """(T, J, D) or (J, D): joints that move, with a line from each if D is 4 or 6 (as `reports.plots.pose` draws)."""
    joints = content if content.ndim == 3 else content[None]
    if joints.ndim != 3 or joints.shape[2] not in (2, 3, 4, 6):
        raise UsageError(f"a pose panel holds (frames, joints, 2, 3, 4 or 6), not {tuple(content.shape)}")
    joints = joints[:: max(1, len(joints) // FRAMES)]
    if joints.shape[2] < 4:
        return scene(joints, "pose")
    half = joints.shape[2] // 2
    shown = scene(joints[..., :half], "pose")
    lines = joints[..., half:].float().nan_to_num(0.0) / shown["reach"] * 32767
    return {**shown, "lines": packed(lines.round().clamp(-32767, 32767).numpy(), "<i2")}


def track(content: Tensor) -> Shown:
    """(A, T, 2): ways seen from above, walked at the same time."""
    ways = content if content.ndim == 3 else content[None]
    if ways.ndim != 3 or ways.shape[2] != 2:
        raise UsageError(f"a track panel holds (agents, frames, 2), not {tuple(content.shape)}")
    return scene(ways.transpose(0, 1), "track")


LOOKS: dict[str, Callable[[Tensor], Shown]] = {
    "image": image,
    "video": video,
    "volume": volume,
    "points": points,
    "pose": pose,
    "track": track,
}
