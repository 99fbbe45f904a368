"""Files that hold graphs: `.npz`, lists of edges with tables beside them, folders of known collections.

Nothing is unpickled: PyG's and DGL's own `.pt` and `.bin` files are refused with a word on what to do.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pretask.data.dataset import Skipped
from pretask.data.layout import ORDER
from pretask.errors import DataError, need

ACCEPTED = (
    "accepted are .npz (edge_index or adj_*, x or attr_*, y ...), a list of edges (.csv, .tsv, .txt, "
    ".edgelist, .edges), a folder with `edges`, `features` and `labels` tables, LINQS' .cites and .content, "
    "Geom-GCN's out1_graph_edges.txt, a TU folder (DS_A.txt ...), and PyG objects from Python"
)
PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".bin")
TABLES = (".csv", ".tsv", ".txt", ".edgelist", ".edges")
EDGES = ("edge_index", "edges", "edge")
FEATURES = ("x", "attr", "features", "feat", "node_attr")
LABELS = ("y", "labels", "label", "node_label")
CLASSES = ("class_names", "classes", "label_names")
SHOWN = 1000  # broken lines that are named


@dataclass
class Found:
    """A graph, or many, as a file holds it.

    Args:
        name: for people.
        edges: (2, E) pairs of nodes 0, 1, ..., in any order and direction.
        num_nodes: how many nodes there are.
        x: (N, F) features.
        labels: of every node (or graph), None where there is none.
        parts: nodes (or graphs) of each split, by its name.
        names: of the nodes.
        class_names: of classes 0, 1, ...
        graph_of: where there are many graphs, which each node belongs to; nodes of a graph lie together.
        skipped: lines that could not be used.
        lines: how many lines were looked at.
    """

    name: str
    edges: np.ndarray
    num_nodes: int
    x: np.ndarray | None = None
    labels: Sequence[Any] | None = None
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    names: list[str] | None = None
    class_names: list[str] | None = None
    graph_of: np.ndarray | None = None
    skipped: list[Skipped] = field(default_factory=list)
    lines: int = 0


def read_graph(path: Path, features: str | Path | None = None, labels: str | Path | None = None) -> Found:
    """
    Raises:
        DataError: there is no graph in it, or it cannot be read.
    """
    if (features or labels) and path.suffix.lower() not in TABLES:
        raise DataError(
            f"{path}: tables of features and labels stand beside a list of edges ({', '.join(TABLES)})"
        )
    try:
        if path.is_dir():
            return from_folder(path)
        if not path.is_file():
            raise DataError(f"there is no '{path}'; {ACCEPTED}")
        suffix = path.suffix.lower()
        if suffix == ".npz":
            return from_npz(path)
        if suffix in (".cites", ".content"):
            return from_linqs(path.with_suffix(".content"), path.with_suffix(".cites"))
        if suffix in TABLES:
            tables = [None if table is None else Path(table) for table in (features, labels)]
            return from_edges(path, tables[0], tables[1])
        raise refused(path)
    except (OSError, zipfile.BadZipFile, RuntimeError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"{path} cannot be read as a graph: {' '.join(str(error).split())[:300]}") from error


def refused(path: Path) -> DataError:
    if path.suffix.lower() in PICKLED:
        return DataError(
            f"{path}: pickled files can run code when opened and are not read. Load it with its own library "
            "and give the object, or write numpy.savez(file, edge_index=..., x=..., y=...) once"
        )
    return DataError(f"{path}: a file of type '{path.suffix}' is no graph; {ACCEPTED}")


def from_folder(root: Path) -> Found:
    """A folder of one of the known collections.

    Raises:
        DataError: it is none.
    """
    names = sorted(file.name for file in root.iterdir() if file.is_file())
    by_stem = {Path(name).stem.lower(): root / name for name in names if Path(name).suffix.lower() in TABLES}
    adjacency = [name for name in names if name.endswith("_A.txt")]
    if adjacency:
        return from_tu(root, adjacency[0].removesuffix("_A.txt"))
    content = [root / name for name in names if name.endswith(".content")]
    if content:
        return from_linqs(content[0], content[0].with_suffix(".cites"))
    if "out1_graph_edges" in by_stem:
        return from_geom(by_stem["out1_node_feature_label"], by_stem["out1_graph_edges"])
    edges = next((by_stem[stem] for stem in EDGES if stem in by_stem), None)
    if edges is not None:
        features, labels = (
            next((by_stem[stem] for stem in wanted if stem in by_stem), None) for wanted in (FEATURES, LABELS)
        )
        return from_edges(edges, features, labels, root.name)
    archives = [name for name in names if name.endswith(".npz")]
    if len(archives) == 1:
        return from_npz(root / archives[0])
    if archives:
        raise DataError(f"{root} holds several graphs ({', '.join(archives)}): give one of these files")
    pickled = next((file for file in root.rglob("*") if file.suffix.lower() in PICKLED), None)
    raise refused(pickled) if pickled else DataError(f"{root} holds no graph; {ACCEPTED}")


def from_npz(path: Path) -> Found:
    """Edges, features, labels and splits by the names numpy users, PyG and gnn-benchmark give them.

    Raises:
        DataError: there are no edges by these names.
    """
    with np.load(path, allow_pickle=False) as file:
        there = set(file.files)
        x = matrix(file, there, FEATURES)
        if {"adj_indices", "adj_indptr"} <= there:
            edges = sparse(file, "adj").nonzero()
            edges = np.stack(edges)
        else:
            name = next((name for name in EDGES if name in there), None)
            if name is None:
                raise DataError(
                    f"{path} holds {', '.join(file.files)}; edges are looked for as {', '.join(EDGES)}"
                )
            edges = file[name]
            edges = edges.T if edges.shape[0] != 2 else edges
        if edges.ndim != 2 or edges.shape[0] != 2 or edges.dtype.kind not in "ui":
            raise DataError(
                f"{path}: edges must be two rows of whole numbers, not {edges.shape} {edges.dtype}"
            )
        many = "node_start" in there or "ptr" in there
        labels = next((as_labels(file[name]) for name in LABELS if name in there), None)
        starts = file["node_start" if "node_start" in there else "ptr"] if many else None
        count = int(starts[-1]) if starts is not None else (
            int(file["num_nodes"]) if "num_nodes" in there else len(x) if x is not None else
            int(edges.max(initial=-1)) + 1
        )  # fmt: skip
        found = Found(path.stem, edges.astype(np.int64), count, x, labels, splits(file, there))
        if starts is not None:
            found.graph_of = np.repeat(np.arange(len(starts) - 1), np.diff(starts.astype(np.int64)))
            if x is None and "node_label" in there:
                found.x = one_hot(file["node_label"])
        names = next((name for name in CLASSES if name in there), None)
        if names is not None:
            found.class_names = [str(name) for name in file[names].tolist()]
        return found


def matrix(file: Any, there: set[str], names: Sequence[str]) -> np.ndarray | None:
    """The first of these that is there, dense or as the parts of a sparse matrix."""
    for name in names:
        if name in there:
            return file[name]
        if {f"{name}_indices", f"{name}_indptr"} <= there:
            return sparse(file, name).toarray()
    return None


def sparse(file: Any, name: str) -> Any:
    from scipy.sparse import csr_matrix

    parts = [file[f"{name}_{part}"] for part in ("data", "indices", "indptr", "shape")]
    return csr_matrix(
        (parts[0], parts[1].astype(np.int64), parts[2]), shape=tuple(parts[3]), dtype=np.float32
    )


def splits(file: Any, there: set[str]) -> dict[str, np.ndarray]:
    """Nodes by split, from `train_idx`, `train_index` or `train_mask`."""
    found = {}
    for part in ORDER:
        for key in (f"{part}_idx", f"{part}_index", f"{part}_mask"):
            if key in there and file[key].ndim == 1 and part not in found:
                found[part] = np.flatnonzero(file[key]) if key.endswith("mask") else file[key]
    return found


def as_labels(values: np.ndarray) -> list[Any] | None:
    """Classes; negative ones and not-a-number are no label. None where the values are no classes at all."""
    values = np.asarray(values).squeeze()
    if values.dtype.kind in "US":
        return [str(value) for value in values.tolist()]
    if values.ndim == 2:  # one-hot
        return values.argmax(1).tolist()
    known = np.isfinite(values) & (values >= 0)
    if values.ndim != 1 or not np.array_equal(values[known], np.round(values[known])):
        return None
    return [int(value) if ok else None for value, ok in zip(values.tolist(), known.tolist(), strict=True)]


def one_hot(values: np.ndarray) -> np.ndarray:
    return (values[:, None] == np.unique(values)).astype(np.float32)


def rows_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of every line that is no comment; separated by commas, tabs or blanks."""
    comma = path.suffix.lower() == ".csv"
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            line = line.strip()
            if line and line[0] not in "#%":
                fields = line.split(",") if comma or "," in line else line.split()
                yield number, [text.strip().strip('"') for text in fields]


def from_edges(
    path: Path, features: Path | None = None, labels: Path | None = None, name: str | None = None
) -> Found:
    """A list of edges, with tables of features and classes beside it.

    A line names two nodes; what stands behind them (a weight, a time) is left out. Where all nodes are whole
    numbers and a table has no column `id`, its row i belongs to node i. The last column of a table of labels
    is the class.

    Raises:
        DataError: a table names nodes that do not exist, or has columns that are no numbers.
    """
    found = Found(name or path.stem, np.empty((2, 0), dtype=np.int64), 0)
    pairs: list[list[str]] = []
    for number, fields in rows_of(path):
        found.lines += 1
        if len(fields) >= 2 and (pairs or found.lines > 1 or not is_header(fields)):
            pairs.append(fields[:2])
        elif len(fields) < 2:
            skip(found, path, number, "one node where an edge needs two")
    tables = [None if table is None else read_table(table) for table in (features, labels)]
    text = np.array(pairs, dtype=str).reshape(-1, 2)
    ids = [table[0] for table in tables if table is not None and table[0] is not None]
    numeric = not ids and bool(np.char.isdigit(text).all())
    if numeric:
        found.edges = text.astype(np.int64).T.copy()
        found.num_nodes = max(
            [int(found.edges.max(initial=-1)) + 1, *(len(t[1]) for t in tables if t is not None)]
        )
        check_sparse_ids(found)
    else:
        known = np.unique(np.concatenate([text.ravel(), *ids]))
        place = {node: number for number, node in enumerate(known.tolist())}
        found.names, found.num_nodes = known.tolist(), len(known)
        found.edges = (
            np.array([place[node] for node in text.ravel().tolist()], dtype=np.int64).reshape(-1, 2).T
        )
    columns = [None if table is None else in_order(found, *table) for table in tables]
    if columns[0] is not None:
        found.x = np.array([row or ["0"] * width(columns[0]) for row in columns[0]], dtype=np.float32)
    if columns[1] is not None:
        found.labels = [row[-1] if row and row[-1] not in ("", "-1", "nan") else None for row in columns[1]]
    return found


def is_header(fields: list[str]) -> bool:
    """Whether the first line of a list of edges names columns."""
    return any(
        re.fullmatch(r"(src|source|dst|target|from|to|node\w*|id\w*|u|v)", f.lower()) for f in fields[:2]
    )


def skip(found: Found, path: Path, number: int, reason: str) -> None:
    found.skipped.append(Skipped(f"{path.name}:{number}", reason))


def check_sparse_ids(found: Found) -> None:
    """Numbers that leave most nodes without any edge are names, not places.

    Raises:
        DataError: there would be absurdly many nodes.
    """
    used = np.unique(found.edges)
    if found.num_nodes > 10 * len(used) + 1000:
        found.names = [str(node) for node in used.tolist()]
        found.edges, found.num_nodes = np.searchsorted(used, found.edges), len(used)


def read_table(path: Path) -> tuple[np.ndarray | None, list[list[str]]]:
    """The nodes' ids, if the table has a column `id`, and the other columns' fields."""
    if path.suffix.lower() == ".npy":
        array = np.load(path, allow_pickle=False)
        return None, [[str(value) for value in np.atleast_1d(row)] for row in array]
    rows = [fields for _, fields in rows_of(path)]
    if not rows:
        raise DataError(f"{path} is empty")
    head = rows[0][0].lower()
    if head in ("id", "node", "node_id", "name"):
        return np.array([row[0] for row in rows[1:]], dtype=str), [row[1:] for row in rows[1:]]
    words = head in ("label", "labels", "class", "target", "y") or re.fullmatch(r"(x|feat\w*|f)_?0?", head)
    return None, rows[1:] if words else rows


def width(rows: Sequence[list[str] | None]) -> int:
    return next((len(row) for row in rows if row), 0)


def in_order(found: Found, ids: np.ndarray | None, rows: list[list[str]]) -> list[list[str] | None]:
    """A table's rows by node; None for nodes it does not name."""
    ordered: list[list[str] | None] = [None] * found.num_nodes
    if ids is None:
        if len(rows) > found.num_nodes:
            raise DataError(f"{found.name}: a table of {len(rows)} rows for {found.num_nodes} nodes")
        ordered[: len(rows)] = rows
        return ordered
    place = {node: number for number, node in enumerate(found.names or ())}
    for node, row in zip(ids.tolist(), rows, strict=True):
        ordered[place[node]] = row
    return ordered


def from_linqs(content: Path, cites: Path) -> Found:
    """LINQS' Cora and Citeseer: `id features... class` a line, and `cited citing` a line."""
    rows = [fields for _, fields in rows_of(content)]
    names = [row[0] for row in rows]
    place = {name: number for number, name in enumerate(names)}
    x = np.array([row[1:-1] for row in rows], dtype=np.float32)
    found = Found(content.stem, np.empty((2, 0)), len(rows), x, [row[-1] for row in rows], names=names)
    pairs = []
    for number, fields in rows_of(cites):
        found.lines += 1
        if len(fields) == 2 and fields[0] in place and fields[1] in place:
            pairs.append((place[fields[0]], place[fields[1]]))
        else:
            skip(found, cites, number, "leads to a node that is not described")
    found.edges = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return found


def from_geom(described: Path, edges: Path) -> Found:
    """Geom-GCN's Chameleon, Squirrel and Actor: `id <tab> features <tab> class`, and an edge a line.

    Features are 0s and 1s, or (Actor) the numbers of those that are 1.
    """
    lines = [
        line.split("\t") for line in described.read_text(encoding="utf-8").splitlines()[1:] if line.strip()
    ]
    values = [np.array(line[1].split(","), dtype=np.int64) for line in lines]
    count = len(lines)
    order = np.array([int(line[0]) for line in lines])
    if len({len(row) for row in values}) == 1 and max(int(row.max()) for row in values) <= 1:
        rows = np.stack(values).astype(np.float32)
    else:
        rows = np.zeros((count, 1 + max(int(row.max()) for row in values)), dtype=np.float32)
        rows[np.repeat(np.arange(count), [len(row) for row in values]), np.concatenate(values)] = 1
    x = np.zeros_like(rows)
    x[order] = rows
    labels: list[Any] = [None] * count
    for node, line in zip(order.tolist(), lines, strict=True):
        labels[node] = int(line[2])
    pairs = [line.split() for line in edges.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
    return Found(described.parent.name, np.array(pairs, dtype=np.int64).reshape(-1, 2).T, count, x, labels)


def from_tu(root: Path, prefix: str) -> Found:
    """A folder of the TU collection, read by PyG: many graphs, each with a class."""
    tu = need("torch_geometric.io", "graph")
    data, slices, _ = tu.read_tu_data(str(root), prefix)
    starts = (slices["x"] if data.x is not None else slices["num_nodes"]).numpy()
    graph_of = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    per_graph = np.diff(slices["edge_index"].numpy())
    edges = data.edge_index.numpy() + np.repeat(starts[:-1], per_graph)
    found = Found(
        prefix, edges, int(starts[-1]), None if data.x is None else data.x.numpy(), graph_of=graph_of
    )
    if data.y is not None and not data.y.is_floating_point():
        found.labels = data.y.tolist()
    return found
