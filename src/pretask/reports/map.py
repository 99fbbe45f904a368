"""The map of embeddings: features and thumbnails kept beside a run, laid out in the plane.

`report/features.safetensors` holds `X` (N, D), and where there are any `y` (N,) labels and
`thumbnails` (N, 3, 32, 32) uint8; names of classes and words about samples stand in its header.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pretask.errors import PretaskError

FILE = Path("report", "features.safetensors")
SIDE, MOST, NEIGHBOURS = 32, 1000, 8
"""Side of a thumbnail, samples on a map, neighbours kept of each."""


@dataclass
class Embedded:
    """Some samples of the data as the trained encoder sees them."""

    x: np.ndarray
    y: np.ndarray | None
    thumbnails: np.ndarray | None
    classes: list[str] | None
    words: list[str] | None = None


def write_features(
    folder: str | Path,
    x: Float[Tensor, "samples dim"],
    y: Int[Tensor, "samples"] | None = None,
    images: Tensor | None = None,
    classes: list[str] | None = None,
    words: Sequence[str] = (),
) -> Path:
    """Keep features for the report of a run; at most `MOST` samples, evenly spaced.

    Args:
        folder: the run folder.
        x: one feature vector a sample.
        y: labels, for colour only.
        images: (N, C, H, W) pictures, uint8 or in [0, 1], made into thumbnails.
        classes: names of the labels.
        words: about each sample: its name, or the text it is.
    """
    keep = torch.linspace(0, len(x) - 1, min(MOST, len(x))).round().long()
    tensors = {"X": x.detach().cpu().float()[keep].contiguous()}
    if y is not None:
        tensors["y"] = y.detach().cpu().long()[keep].contiguous()
    if images is not None:
        tensors["thumbnails"] = thumbnails(images[keep])
    path = Path(folder, FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    kept = [words[row] for row in keep.tolist()] if any(words) else []
    header = {"classes": json.dumps(classes or []), "words": json.dumps(kept)}
    save_file(tensors, partial, metadata=header)
    os.replace(partial, path)
    return path


def thumbnails(images: Tensor) -> UInt8[Tensor, "samples 3 32 32"]:
    """Small copies; grey is repeated, of many channels the first three are kept."""
    small = images.detach().cpu()
    small = small.float() / 255 if not small.dtype.is_floating_point else small.float()
    small = small[:, :3] if small.shape[1] >= 3 else small[:, :1].expand(-1, 3, -1, -1)
    small = F.interpolate(small, (SIDE, SIDE), mode="area" if min(small.shape[2:]) >= SIDE else "nearest")
    return small.nan_to_num(0.0).clamp(0, 1).mul(255).round().byte().contiguous()


def read_features(folder: str | Path) -> Embedded | None:
    """The features kept beside a run, or None where there are none.

    Raises:
        PretaskError: the file is damaged, or its features are not finite.
    """
    path = Path(folder, FILE)
    if not path.is_file():
        return None
    try:
        with safe_open(path, "np") as file:
            names = set(file.keys())
            x = file.get_tensor("X").astype(np.float32)
            y = file.get_tensor("y") if "y" in names else None
            pictures = file.get_tensor("thumbnails") if "thumbnails" in names else None
            header = file.metadata() or {}
            classes, words = (json.loads(header.get(key, "[]")) or None for key in ("classes", "words"))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise PretaskError(f"{FILE} cannot be read: {error}") from error
    if x.ndim != 2 or any(part is not None and len(part) != len(x) for part in (y, pictures, words)):
        raise PretaskError(f"{FILE} holds parts of different lengths")
    if not np.isfinite(x).all():
        raise PretaskError("some features are not finite numbers")
    keep = np.linspace(0, len(x) - 1, min(MOST, len(x))).round().astype(int)
    return Embedded(
        x[keep],
        None if y is None else y[keep],
        None if pictures is None else pictures[keep],
        classes,
        None if words is None else [str(words[row]) for row in keep],
    )


def nearest(x: Float[np.ndarray, "samples dim"], k: int = NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
    """The `k` most similar other samples of each by cosine, nearest first: indices and cosines."""
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, : min(k, len(x) - 1)]
    return order, np.take_along_axis(cosine, order, axis=1)


def project(x: Float[np.ndarray, "samples dim"], seed: int = 0) -> Float[np.ndarray, "samples 2"]:
    """Features in the plane, in [0, 1]^2: PCA to 50 dimensions, then t-SNE; few samples by PCA alone.

    Raises:
        PretaskError: there are fewer than three samples, or all have the same features.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(x) < 3:
        raise PretaskError("a map needs the features of at least three samples")
    centred = x - x.mean(0)
    scale = float(np.abs(centred).max())
    if scale <= 1e-6 * max(float(np.abs(x).max()), 1e-30):
        raise PretaskError(
            "all samples have the same features: the encoder collapsed, there is nothing to map"
        )
    reduced = PCA(min(50, *x.shape), random_state=seed).fit_transform(centred / scale)
    if len(x) >= 12 and reduced.shape[1] >= 2:
        perplexity = min(30.0, (len(x) - 1) / 3)
        reduced = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    plane = np.zeros((len(x), 2))
    plane[:, : min(2, reduced.shape[1])] = reduced[:, :2]
    low, high = plane.min(0), plane.max(0)
    return (plane - low) / np.where(high > low, high - low, 1.0)


def agreement(neighbours: np.ndarray, y: np.ndarray, k: int = 5) -> tuple[float, float]:
    """Share of the `k` nearest that carry the sample's own label, and what drawing at random reaches."""
    same = (y[neighbours[:, :k]] == y[:, None]).mean()
    counts = np.unique(y, return_counts=True)[1]
    by_luck = (counts * (counts - 1)).sum() / max(len(y) * (len(y) - 1), 1)
    return float(same), float(by_luck)


def sprite(pictures: UInt8[np.ndarray, "samples 3 32 32"]) -> tuple[str, int, int]:
    """All thumbnails on one sheet as a data URI, with its columns and rows."""
    columns = ceil(len(pictures) ** 0.5)
    rows = ceil(len(pictures) / columns)
    sheet = np.zeros((rows * columns, SIDE, SIDE, 3), np.uint8)
    sheet[: len(pictures)] = pictures.transpose(0, 2, 3, 1)
    tiled = sheet.reshape(rows, columns, SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4)
    return data_uri(Image.fromarray(tiled.reshape(rows * SIDE, columns * SIDE, 3))), columns, rows


def data_uri(picture: Image.Image, quality: int = 90) -> str:
    """A picture as text that a page can hold."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def payload(embedded: Embedded, seed: int = 0) -> dict[str, Any]:
    """Everything the page's map needs, as plain data."""
    plane = project(embedded.x, seed)
    order, cosine = nearest(embedded.x)
    data: dict[str, Any] = {
        "x": plane[:, 0].round(4).tolist(), "y": plane[:, 1].round(4).tolist(),
        "neighbours": order.tolist(), "cosines": cosine.astype(float).round(3).tolist(),
        "side": SIDE, "columns": 0, "sprite": "", "labels": None, "classes": [],
        "words": embedded.words,
    }  # fmt: skip
    if embedded.thumbnails is not None:
        data["sprite"], data["columns"], data["rows"] = sprite(embedded.thumbnails)
    if embedded.y is not None:
        values = np.unique(embedded.y)
        names = embedded.classes or []
        data["classes"] = [names[v] if 0 <= v < len(names) else str(v) for v in values.tolist()]
        data["labels"] = np.searchsorted(values, embedded.y).tolist()
        data["agreement"], data["luck"] = agreement(order, embedded.y)
    return data


def samples(data: dict[str, Any], number: int = 6) -> list[int]:
    """Samples to show neighbours of: of different classes where there are labels, else evenly spaced."""
    total = len(data["x"])
    if data["labels"]:
        first = {label: index for index, label in reversed(list(enumerate(data["labels"])))}
        chosen = [first[label] for label in sorted(first)]
        if len(chosen) >= number:
            return [chosen[i] for i in np.linspace(0, len(chosen) - 1, number).round().astype(int)]
    return np.unique(np.linspace(0, total - 1, min(number, total)).round().astype(int)).tolist()
