"""Samples at the size of a thumbnail, whatever they are, and a few words for each: what a map shows at a dot."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from pretask.data import Dataset
from pretask.reports.map import SIDE, thumbnails
from pretask.task import Batch

AT_ONCE, LONGEST = 64, 90
"""Samples read at once; letters kept of a text."""

INK, PAPER = 0.2, 0.96  # grey levels of drawings


def dots(places: Float[Tensor, "samples points 2"]) -> UInt8[Tensor, "samples 3 side side"]:
    """Points seen in the plane, y upwards, each sample to its own scale; points that are not finite are left out."""
    there = places.isfinite().all(2, keepdim=True)
    low = places.where(there, torch.inf).amin(1, keepdim=True)
    high = places.where(there, -torch.inf).amax(1, keepdim=True)
    reach = (high - low).amax(2, keepdim=True).clamp(min=1e-9)
    cells = (0.5 + (places - (low + high) / 2) / reach * 0.9).nan_to_num(0.5) * SIDE
    column, row = cells.long().clamp(0, SIDE - 1).unbind(2)
    drawn = torch.zeros(len(places), SIDE * SIDE)
    drawn.scatter_add_(1, (SIDE - 1 - row) * SIDE + column, there[..., 0].float())
    darkness = (drawn / drawn.amax(1, keepdim=True).clamp(min=1)).sqrt().view(-1, 1, SIDE, SIDE)
    return thumbnails(PAPER + (INK - PAPER) * darkness)


def cloud(points: Float[Tensor, "samples points dim"]) -> Tensor:
    return dots(points[..., :2].float())


def skeleton(pose: Float[Tensor, "samples frames joints dim"]) -> Tensor:
    return dots(pose[:, pose.shape[1] // 2, :, :2].float())


def path(track: Float[Tensor, "samples agents frames 2"]) -> Tensor:
    """The first agent's way, its points joined."""
    way = track[:, 0].float().transpose(1, 2)
    return dots(F.interpolate(way, 8 * way.shape[2], mode="linear", align_corners=True).transpose(1, 2))


def spectrogram(audio: Float[Tensor, "samples length"], window: int = 256) -> Tensor:
    """Loudness (dB, the loudest 60 of each) over time and frequency, low ones below."""
    wave = F.pad(audio.float(), (0, max(0, window - audio.shape[-1])))
    power = torch.stft(wave, window, window // 2, window=torch.hann_window(window), return_complex=True).abs()
    decibel = 20 * power.clamp(min=1e-6).log10()
    top = decibel.amax((1, 2), keepdim=True)
    return thumbnails(1 + ((decibel - top) / 60).clamp(min=-1).flip(1).unsqueeze(1))


PICTURES: dict[str, Callable[[Tensor], Tensor]] = {
    "image": thumbnails,
    "video": lambda video: thumbnails(video[:, :, video.shape[2] // 2]),
    "volume": lambda volume: thumbnails(volume[:, :, volume.shape[2] // 2]),
    "audio": spectrogram,
    "points": cloud,
    "pose": skeleton,
    "track": path,
}
"""By the name of a batch's entry."""


def small(dataset: Dataset) -> tuple[UInt8[Tensor, "samples 3 side side"] | None, list[str]]:
    """A thumbnail and a few words for every sample; no thumbnails where a sample has no look (a text, a node)."""
    drawn, words = [], []
    for rows in torch.arange(len(dataset)).split(AT_ONCE):
        batch = dataset.batch(rows)
        key = next((key for key in PICTURES if isinstance(batch.get(key), Tensor)), None)
        if key is not None:
            drawn.append(PICTURES[key](batch[key]))
        words += texts(dataset, batch) if "tokens" in batch else names(dataset, batch)
    return torch.cat(drawn) if drawn else None, words


def names(dataset: Dataset, batch: Batch) -> list[str]:
    """What files are called; numbers are no names."""
    found = [str(dataset.samples.name(row)) for row in dataset.rows[batch["index"]].tolist()]
    return ["" if name.isdigit() else name[-LONGEST:] for name in found]


def texts(dataset: Dataset, batch: Batch) -> list[str]:
    """What is written, cut short."""
    from pretask.data.tokens import tokenizer_of

    if "tokenizer" not in dataset.inputs:
        return names(dataset, batch)
    tokenizer = tokenizer_of(dataset.inputs["tokenizer"])
    written = [tokenizer.decode(tokens) for tokens in batch["tokens"]]
    return [text if len(text) <= LONGEST else text[: LONGEST - 1] + "…" for text in written]
