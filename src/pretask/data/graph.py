"""Graphs, whatever they lie in, as one kind of data set.

Where the data are one graph, a sample is a *node*: every batch holds the whole graph (the same object,
nothing is copied) and in `node` where its samples stand. Where they are many graphs, a sample is a *graph*: a
batch holds its own graphs as one with as many components (`ptr`, `batch`). Edges stand in both directions,
each once, sorted, without self-loops; no label is in a graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretask import modalities
from pretask.data.dataset import Dataset, check_broken, name_skipped, part_of, spread
from pretask.data.graph_files import Found, as_labels, read_graph
from pretask.data.layout import UNLABELLED, encode_labels
from pretask.data.links import split_links
from pretask.data.ranges import ranges
from pretask.errors import DataError, need

geometric: Any = need("torch_geometric.data", "graph")

Scale = Literal["standard", "rows", "none"]
DEGREES = 64  # columns that tell a node's number of neighbours, where nodes have no features


class WholeGraph(geometric.Data):
    """A graph that all batches share and nobody changes: it goes to a device once and is at hand there from
    then on, and so is what is made of it."""

    def to(self, device: torch.device | str, *args: Any, **kwargs: Any) -> Any:
        """The same graph on a device. Unlike PyG's own this one stays where it is, as a tensor does."""
        place = torch.empty(0, device=device).device
        places: dict[torch.device, WholeGraph] = self.__dict__.setdefault("places", {self.x.device: self})
        if place not in places:
            moved = copy.copy(self)
            moved.__dict__["made"] = {}
            places[place] = geometric.Data.to(moved, place)
        return places[place]

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, made when it is first asked for by this name."""
        made = self.__dict__.setdefault("made", {})
        if name not in made:
            made[name] = make()
        return made[name]

    def pin_memory(self, *args: Any) -> WholeGraph:
        """This graph: it is moved but once."""
        return self


@dataclass(repr=False)
class Nodes:
    """The nodes of one graph as samples."""

    graph: Any
    names: Sequence[str] | None = None
    in_memory = True

    def __len__(self) -> int:
        return self.graph.num_nodes

    def name(self, row: int) -> str:
        return self.names[row] if self.names is not None else str(row)

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Any], dict[int, str]]:
        return {"graph": self.graph, "node": rows}, {}


@dataclass(repr=False)
class Graphs:
    """Many graphs, held as one with as many components, as samples."""

    graph: Any
    in_memory = True

    def __len__(self) -> int:
        return len(self.graph.ptr) - 1

    def name(self, row: int) -> str:
        return str(row)

    def get(self, rows: Int[Tensor, "batch"]) -> tuple[dict[str, Any], dict[int, str]]:
        return {"graph": select(self.graph, rows)}, {}


def select(graph: Any, rows: Int[Tensor, "some"] | slice) -> Any:
    """Some of the graphs of a joined one, joined again."""
    count = len(graph.ptr) - 1
    rows = torch.arange(count, device=graph.ptr.device)[rows]
    sizes = (graph.ptr[1:] - graph.ptr[:-1])[rows]
    edge_ptr = torch.searchsorted(graph.edge_index[0].contiguous(), graph.ptr)
    edges = (edge_ptr[1:] - edge_ptr[:-1])[rows]
    ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    moved = (ptr[:-1] - graph.ptr[rows]).repeat_interleave(edges)
    return geometric.Data(
        x=graph.x[ranges(graph.ptr[rows], sizes)],
        edge_index=graph.edge_index[:, ranges(edge_ptr[rows], edges)] + moved,
        ptr=ptr,
        batch=torch.arange(len(rows), device=ptr.device).repeat_interleave(sizes),
    )


def open_graphs(
    source: Any,
    *,
    split: str | None = None,
    limit: int | None = None,
    max_broken: float = 0.2,
    workers: int | None = None,
    features: str | Path | None = None,
    labels: str | Path | None = None,
    scale: Scale = "standard",
    hide_links: bool = False,
) -> Dataset:
    """A graph whose nodes are the samples, or many graphs, from files, PyG objects or an embedded set.

    Args:
        source: what `docs/data.md` lists.
        split: only the nodes (or graphs) of this part; the graph stays whole.
        limit: at most so many samples, spread evenly; the graph stays whole.
        max_broken: the largest share of unreadable lines that is put up with.
        workers: without effect, graphs lie in memory.
        features: a table of the nodes' features beside a list of edges.
        labels: a table of the nodes' classes beside a list of edges.
        scale: `standard` gives every feature mean 0 and spread 1 over all nodes, `rows` gives every node
            features that sum to 1 (words as shares), `none` leaves them as they are.
        hide_links: take 30 % of the edges away before anything sees them: what `links` then asks for.

    Raises:
        DataError: there is no graph, or too much of it is unreadable.
        UsageError: a split that is not there.
    """
    if isinstance(source, str) and source in modalities.find("graph").embedded:
        from pretask.data.graph_embedded import EMBEDDED

        found = EMBEDDED[source]()
    elif isinstance(source, (str, Path)):
        found = read_graph(Path(source).expanduser(), features, labels)
    else:
        found = from_objects(source)
    check_broken(found.name, found.skipped, found.lines, max_broken)
    name_skipped(found.name, found.skipped, "line")
    dataset = assemble(found, scale, hide_links, max_broken)
    dataset = dataset if split is None else part_of(dataset, split)
    return dataset if limit is None else dataset.subset(spread(len(dataset), limit))


def assemble(found: Found, scale: Scale, hide_links: bool, max_broken: float) -> Dataset:
    """What a file held as a data set.

    Raises:
        DataError: edges, features, labels and splits do not fit each other.
    """
    count = found.num_nodes
    if count == 0:
        raise DataError(f"{found.name} holds no nodes")
    edges = both_directions(found.edges, count, found.name)
    x = torch.from_numpy(np.ascontiguousarray(node_features(found, edges), dtype=np.float32))
    if not x.isfinite().all():
        raise DataError(
            f"{found.name}: the features of {int((~x.isfinite().all(1)).sum())} nodes are not finite"
        )
    graph = WholeGraph(x=scaled(x, scale), edge_index=edges)
    many = found.graph_of is not None
    if many:
        counts = torch.bincount(torch.from_numpy(found.graph_of))
        graph.ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    elif hide_links:
        links = split_links(edges, count)
        graph.edge_index, graph.val_link, graph.test_link = links.graph, links.val, links.test
    samples = Graphs(graph) if many else Nodes(graph, found.names)
    targets, classes = encode_labels([None] * len(samples) if found.labels is None else found.labels)
    if targets is not None and len(targets) != len(samples):
        raise DataError(
            f"{found.name}: {len(targets)} labels for {len(samples)} {'graphs' if many else 'nodes'}"
        )
    if found.class_names is not None and classes is not None:
        classes = [found.class_names[int(value)] if value.isdigit() else value for value in classes]
    return Dataset(
        samples, found.name, modality="graph", inputs={"in_dim": graph.x.shape[1]}, connected=not many,
        targets=targets, classes=classes, parts=parts_of(found, len(samples)), part_names=tuple(found.parts),
        skipped=found.skipped, max_broken=max_broken, facts=facts(found, graph, many),
    )  # fmt: skip


def both_directions(edges: np.ndarray, count: int, name: str) -> Int[Tensor, "2 edges"]:
    """Every edge in both directions, once, sorted, without self-loops.

    Raises:
        DataError: an edge ends at no node.
    """
    if edges.size and (edges.min() < 0 or edges.max() >= count):
        raise DataError(
            f"{name}: edges lead to nodes {edges.min()} to {edges.max()}, and there are {count} nodes"
        )
    one, other = torch.from_numpy(edges.astype(np.int64)).unbind(0)
    there = one != other
    flat = torch.cat([one * count + other, other * count + one])[there.repeat(2)].unique()
    return torch.stack([flat // count, flat % count])


def node_features(found: Found, edges: Int[Tensor, "2 edges"]) -> np.ndarray:
    """The nodes' features; where they have none, how many neighbours they have, one column a number."""
    if found.x is not None:
        if len(found.x) != found.num_nodes:
            raise DataError(
                f"{found.name}: features of {len(found.x)} nodes, and there are {found.num_nodes}"
            )
        return found.x
    degree = torch.bincount(edges[0], minlength=found.num_nodes).clamp(max=DEGREES - 1)
    return torch.eye(int(degree.max()) + 1)[degree].numpy()


def scaled(x: Float[Tensor, "nodes dim"], scale: Scale) -> Float[Tensor, "nodes dim"]:
    if scale == "standard":  # a column without spread becomes 0
        x = x - x.mean(0, dtype=torch.float64).float()
        std = x.square().mean(0, dtype=torch.float64).sqrt().float()
        return x / torch.where(std > 1e-12, std, 1.0)
    if scale == "rows":
        total = x.sum(1, keepdim=True)
        return x / torch.where(total == 0, 1.0, total)
    return x


def parts_of(found: Found, count: int) -> Int[Tensor, "samples"] | None:
    if not found.parts:
        return None
    parts = torch.full((count,), UNLABELLED)
    for place, rows in enumerate(found.parts.values()):
        parts[torch.from_numpy(np.asarray(rows, dtype=np.int64))] = place
    return parts


def facts(found: Found, graph: Any, many: bool) -> dict[str, Any]:
    """What `describe` says beyond counts."""
    degree = torch.bincount(graph.edge_index[0], minlength=graph.num_nodes)
    said = {
        "a sample is": "a graph" if many else "a node",
        "nodes": graph.num_nodes,
        "edges": graph.edge_index.shape[1] // 2,
        "neighbours": f"{int(degree.min())} to {int(degree.max())}, on average {degree.float().mean():.1f}",
        "features": graph.x.shape[1]
        if found.x is not None
        else f"none; {graph.x.shape[1]} columns of degrees",
    }
    if hasattr(graph, "test_link"):
        said["hidden edges"] = graph.val_link.shape[1] + graph.test_link.shape[1]
    return said


def from_objects(source: Any) -> Found:
    """A PyG `Data`, or several: a list of them or a PyG data set.

    Raises:
        DataError: it is none of these.
    """
    items = (
        [source] if isinstance(source, geometric.Data) else list(source) if hasattr(source, "__len__") else []
    )
    if not items or not all(isinstance(item, geometric.Data) for item in items):
        raise DataError(f"{type(source).__name__} objects hold no graphs: a PyG Data or several of them do")
    starts = np.cumsum([0, *(item.num_nodes for item in items)])
    edges = [item.edge_index.numpy() + start for item, start in zip(items, starts, strict=False)]
    found = Found(type(source).__name__, np.concatenate(edges, 1), int(starts[-1]))
    if all(item.x is not None for item in items):
        found.x = torch.cat([item.x for item in items]).float().numpy()
    labels = [item.y for item in items]
    if all(isinstance(y, Tensor) and (len(items) == 1 or y.numel() == 1) for y in labels):
        found.labels = as_labels(torch.cat([y.reshape(-1) for y in labels]).numpy())
    if len(items) > 1:
        found.graph_of = np.repeat(np.arange(len(items)), np.diff(starts))
        return found
    for part in ("train", "val", "test"):
        mask = getattr(items[0], f"{part}_mask", None)
        if mask is not None and mask.ndim == 1 and mask.any():
            found.parts[part] = mask.nonzero().flatten().numpy()
    return found
