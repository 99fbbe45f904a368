"""Panels that are drawings rather than pixels: sound, points, poses, tracks, graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pretask.errors import UsageError, need

BLUE, GREY, RED = "#3568d4", "#9aa3af", "#d1495b"
DPI = 100


def array(content: Any, what: str, *ndims: int) -> np.ndarray:
    """The content as float numpy, its number of dimensions checked."""
    values = torch.as_tensor(content).detach().cpu().float().numpy()
    if values.ndim not in ndims:
        raise UsageError(f"{what} panel has {values.ndim} dimensions (shape {values.shape}), not {ndims[-1]}")
    return np.nan_to_num(values)


def canvas(width: int, height: int, panes: int = 1, rows: int = 1, bare: bool = True):
    """A figure of `width` x `height` pixels and its axes, without margins."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    axes = figure.subplots(rows, panes, squeeze=False).ravel()
    figure.subplots_adjust(0.02, 0.02, 0.98, 0.98, wspace=0.06, hspace=0.06)
    for pane in axes:
        pane.set_xticks([])
        pane.set_yticks([])
        for spine in pane.spines.values():
            spine.set_visible(not bare)
            spine.set_color("#d5d9e0")
    return figure, axes


def rasterise(figure: Figure) -> Image.Image:
    agg = FigureCanvasAgg(figure)
    agg.draw()
    return Image.fromarray(np.asarray(agg.buffer_rgba())[..., :3].copy())


def audio(content: Any) -> Image.Image:
    """(S,) or (C, S): the waveform above its spectrogram (dB, 0 to half the sampling rate)."""
    wave = array(content, "an audio", 2, 1)
    wave = wave.mean(0) if wave.ndim == 2 else wave
    figure, (above, below) = canvas(280, 150, rows=2)
    edges = np.linspace(0, len(wave), min(560, len(wave)) + 1).astype(int)[:-1]
    low, high = np.minimum.reduceat(wave, edges), np.maximum.reduceat(wave, edges)
    above.fill_between(np.arange(len(edges)), low - 1e-3, high + 1e-3, color=BLUE, linewidth=0.4)
    reach = max(float(np.abs(wave).max()), 1e-6)
    above.set_ylim(-reach, reach)
    above.set_xlim(0, len(edges) - 1)
    window = min(512, max(16, 1 << (len(wave) // 16).bit_length()))
    padded = torch.nn.functional.pad(torch.from_numpy(wave), (0, max(0, window - len(wave))))
    power = torch.stft(
        padded, window, window // 4, window=torch.hann_window(window), center=False, return_complex=True
    ).abs()
    decibel = 20 * torch.log10(power + 1e-6)
    top = float(decibel.max())
    below.imshow(decibel, origin="lower", aspect="auto", cmap="magma", vmin=top - 80, vmax=top)
    return rasterise(figure)


def points(content: Any, shown: int = 4000) -> Image.Image:
    """(N, 3+F) seen along its three axes; depth by shade, colour where features 4-6 lie in [0, 1]."""
    cloud = array(content, "a points", 2)
    if cloud.shape[1] < 3:
        raise UsageError(f"a points panel holds (points, 3 + features), not shape {cloud.shape}")
    cloud = cloud[np.linspace(0, len(cloud) - 1, min(shown, len(cloud))).astype(int)]
    coloured = cloud.shape[1] >= 6 and cloud[:, 3:6].min() >= 0 and cloud[:, 3:6].max() <= 1
    figure, panes = canvas(330, 110, panes=3)
    centre = (cloud[:, :3].max(0) + cloud[:, :3].min(0)) / 2
    reach = max(float(np.abs(cloud[:, :3] - centre).max()) * 1.05, 1e-6)
    size = float(np.clip(1500 / len(cloud), 0.4, 9))
    for pane, (across, up, depth) in zip(panes, ((0, 1, 2), (0, 2, 1), (1, 2, 0)), strict=True):
        order = cloud[:, depth].argsort()
        shade = {"c": cloud[order, 3:6]} if coloured else {"c": cloud[order, depth], "cmap": "viridis"}
        pane.scatter(cloud[order, across], cloud[order, up], s=size, linewidths=0, **shade)
        pane.set_xlim(centre[across] - reach, centre[across] + reach)
        pane.set_ylim(centre[up] - reach, centre[up] + reach)
        pane.set_aspect("equal")
    return rasterise(figure)


def pose(content: Any, moments: int = 4) -> Image.Image:
    """(T, J, D) or (J, D): the joints at evenly spaced moments, y upwards, all to one scale.

    D is 2 or 3, or twice that: where a joint is, and how far a line from it reaches. Joints that are not finite
    are left out.
    """
    there = torch.as_tensor(content).isfinite().all(-1).cpu().numpy()
    joints = array(content, "a pose", 2, 3)
    joints, there = (joints[None], there[None]) if joints.ndim == 2 else (joints, there)
    lines = joints[..., joints.shape[2] // 2 :] if joints.shape[2] in (4, 6) else np.zeros_like(joints)
    times = np.linspace(0, len(joints) - 1, min(moments, len(joints))).round().astype(int)
    figure, panes = canvas(100 * len(times), 120, panes=len(times))
    drawn = joints[..., :2][there] if there.any() else np.zeros((1, 2))
    centre = drawn.mean(0)
    reach = max(float(np.abs(drawn - centre).max()) * 1.1, 1e-6)
    for pane, time in zip(panes, times, strict=True):
        x, y, *_ = joints[time, there[time]].T
        right, up, *_ = lines[time, there[time]].T
        pane.plot([x, x + right], [y, y + up], color=RED, linewidth=1.2, zorder=1)
        shade = {"c": there[time].nonzero()[0], "cmap": "viridis", "vmin": 0, "vmax": joints.shape[1] - 1}
        pane.scatter(x, y, s=16, linewidths=0, **shade)
        pane.set_xlim(centre[0] - reach, centre[0] + reach)
        pane.set_ylim(centre[1] - reach, centre[1] + reach)
        pane.set_aspect("equal")
    return rasterise(figure)


def track(content: Any) -> Image.Image:
    """(A, T, 2) seen from above: a line an agent, a dot where it ends."""
    paths = array(content, "a track", 2, 3)
    paths = paths[None] if paths.ndim == 2 else paths
    figure, (pane,) = canvas(170, 170)
    for number, path in enumerate(paths):
        colour = BLUE if number == 0 else GREY
        pane.plot(path[:, 0], path[:, 1], color=colour, linewidth=1.4, zorder=2 - bool(number))
        pane.scatter(path[-1:, 0], path[-1:, 1], s=14, color=colour, zorder=3, linewidths=0)
    pane.margins(0.08)
    pane.set_aspect("equal", adjustable="datalim")
    return rasterise(figure)


def pairs(edges: Any, shown: int) -> set[tuple[int, int]]:
    """Edges without direction, of the first `shown` nodes."""
    edges = torch.as_tensor(edges).detach().cpu()
    if edges.ndim != 2 or len(edges) != 2:
        raise UsageError(f"a graph panel holds edges (2, number), not shape {tuple(edges.shape)}")
    return {(min(a, b), max(a, b)) for a, b in edges.T.tolist() if max(a, b) < shown}


def graph(content: Any, shown: int = 200) -> Image.Image:
    """A PyG `Data`, or edges (2, E): nodes laid out by springs, at most `shown` of them.

    Edges in `dropped` are dashed and pull at the springs like the others, so that pictures of one graph lie
    alike. Nodes are coloured by `value` in [0, 1], else by their number of neighbours; `hidden` ones are
    hollow.
    """
    networkx = need("networkx", "graph")
    edges = getattr(content, "edge_index", content)
    number = getattr(content, "num_nodes", None) or (int(edges.max()) + 1 if edges.numel() else 0)
    there, gone = pairs(edges, shown), pairs(getattr(content, "dropped", np.empty((2, 0))), shown)
    net = networkx.Graph()
    net.add_nodes_from(range(min(number, shown)))
    net.add_edges_from(sorted(there | gone))
    place = networkx.spring_layout(net, seed=0, iterations=60) if number else {}
    figure, (pane,) = canvas(200, 200)
    for a, b in net.edges:
        line = {"color": "#c3c9d3", "linewidth": 0.7, "zorder": 1}
        if (min(a, b), max(a, b)) not in there:
            line |= {"color": RED, "linestyle": (0, (2, 3))}
        pane.plot(*np.stack([place[a], place[b]]).T, **line)
    if place:
        spots, hidden = np.array([place[node] for node in net.nodes]), getattr(content, "hidden", None)
        degree = np.log1p([net.degree[node] for node in net.nodes])
        value = array(getattr(content, "value", degree / max(degree.max(), 1)), "a graph's values", 1)
        colour = colormaps["viridis"](value[: len(spots)])
        edge = colour.copy()
        if hidden is not None:
            colour[array(hidden, "a graph's hidden nodes", 1)[: len(spots)] > 0] = 1
        pane.scatter(*spots.T, s=16, c=colour, edgecolors=edge, linewidths=0.8, zorder=2)
    return rasterise(figure)
