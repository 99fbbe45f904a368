"""Graphs are read as they are, from whatever holds them; every batch has the whole one."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.preprocessing import StandardScaler
from torch_geometric.data import Batch, Data

from pretask.data import open_data
from pretask.data.batch import take
from pretask.data.graph import select
from pretask.data.links import non_links, split_links
from pretask.errors import DataError, UsageError
from pretask.pretexts.graph import with_self_loops

EDGES = np.array([[0, 1, 1, 3, 3, 2], [1, 0, 2, 3, 4, 1]])  # once twice, once a loop, one direction each
X = np.arange(15, dtype=np.float32).reshape(5, 3) ** 2
Y = np.array([0, 1, 0, -1, 2])
BOTH = {(0, 1), (1, 0), (1, 2), (2, 1), (3, 4), (4, 3)}


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def opened(source, **settings):
    return open_data(source, modality="graph", **{"scale": "none", **settings})


def check(dataset, features=True):
    """It is the little graph above."""
    graph = dataset.samples.graph
    assert graph.num_nodes == len(dataset) == 5
    assert set(map(tuple, graph.edge_index.T.tolist())) == BOTH and graph.edge_index.shape[1] == len(BOTH)
    assert (graph.edge_index[0].diff() >= 0).all()
    if features:
        assert torch.equal(graph.x, torch.from_numpy(X))


class TestFiles:
    def test_npz(self, tmp_path):
        data = opened(
            write(tmp_path / "a.npz", edge_index=EDGES, x=X, y=Y, train_mask=Y == 0, test_idx=[1, 4])
        )
        check(data)
        assert data.classes == ["0", "1", "2"] and data.targets.tolist() == [0, 1, 0, -1, 2]
        assert data.split("train").rows.tolist() == [0, 2] and data.split("test").rows.tolist() == [1, 4]
        assert data.inputs == {"in_dim": 3} and "a node" in str(data.describe())

    def test_sparse_npz(self, tmp_path):
        """Features as CSR; and gnn-benchmark's way, where the edges are a matrix, too."""
        x = csr_matrix(X)
        parts = {"data": x.data, "indices": x.indices.astype(np.uint16), "indptr": x.indptr, "shape": x.shape}
        check(opened(write(tmp_path / "a.npz", edge_index=EDGES.astype(np.int32), num_nodes=5,
                           **{f"x_{key}": value for key, value in parts.items()})))  # fmt: skip
        adjacency = csr_matrix((np.ones(6), EDGES), shape=(5, 5))
        own = {
            "data": adjacency.data,
            "indices": adjacency.indices,
            "indptr": adjacency.indptr,
            "shape": (5, 5),
        }
        made = {f"attr_{key}": value for key, value in parts.items()} | {
            f"adj_{k}": v for k, v in own.items()
        }
        check(opened(write(tmp_path / "b.npz", labels=Y, **made)))

    def test_edges_of_numbers(self, tmp_path):
        (tmp_path / "edges.txt").write_text("# a comment\n" + "\n".join(f"{a} {b} 0.5" for a, b in EDGES.T))
        check(opened(tmp_path / "edges.txt"), features=False)
        np.save(tmp_path / "x.npy", X)
        (tmp_path / "y.csv").write_text("label\nred\nblue\nred\n-1\nblue\n")
        data = opened(tmp_path / "edges.txt", features=tmp_path / "x.npy", labels=tmp_path / "y.csv")
        check(data)
        assert data.classes == ["blue", "red"] and data.targets.tolist() == [1, 0, 1, -1, 0]

    def test_edges_of_names(self, tmp_path):
        """A folder of tables; rows in another order, a node of the table without any edge, a broken line."""
        (tmp_path / "edges.csv").write_text("source,target\nann,bob\nbob,cid\nlonely\neve,dan\ndan,eve\n")
        (tmp_path / "features.csv").write_text(
            "id,a,b\nzoe,9,9\nbob,1,2\nann,3,4\ncid,5,6\neve,7,8\ndan,0,1\n"
        )
        (tmp_path / "labels.tsv").write_text("id\tteam\nann\tx\nzoe\ty\nbob\tx\n")
        data = opened(tmp_path)
        names = [data.samples.name(row) for row in range(len(data))]
        assert names == ["ann", "bob", "cid", "dan", "eve", "zoe"]
        assert data.samples.graph.x.tolist() == [[3, 4], [1, 2], [5, 6], [0, 1], [7, 8], [9, 9]]
        assert data.targets.tolist() == [0, 0, -1, -1, -1, 1]
        assert [(skip.path, "two" in skip.reason) for skip in data.skipped] == [("edges.csv:4", True)]
        assert set(map(tuple, data.samples.graph.edge_index.T.tolist())) == {
            (0, 1), (1, 0), (1, 2), (2, 1), (3, 4), (4, 3),
        }  # fmt: skip

    def test_large_numbers_are_names(self, tmp_path):
        (tmp_path / "a.edgelist").write_text("1000000007 5\n5 12\n")
        data = open_data(tmp_path / "a.edgelist")  # found out by its extension
        assert len(data) == 3 and data.samples.name(2) == "1000000007"

    def test_linqs(self, tmp_path):
        (tmp_path / "c.content").write_text("p1\t0\t1\tA\np2\t1\t1\tB\np3\t1\t0\tA\n")
        (tmp_path / "c.cites").write_text("p1\tp2\np3\tp1\np2\tp1\np9\tp1\n")
        for source in (tmp_path, tmp_path / "c.cites", tmp_path / "c.content"):
            data = opened(source, max_broken=0.5)
            assert data.samples.graph.x.tolist() == [[0, 1], [1, 1], [1, 0]]
            assert data.classes == ["A", "B"] and data.targets.tolist() == [0, 1, 0]
            assert data.samples.graph.edge_index.shape[1] == 4 and data.skipped[0].path == "c.cites:4"
        with pytest.raises(DataError, match="max_broken"):
            opened(tmp_path)

    @pytest.mark.parametrize("features", [("1,0,1", "0,1,0"), ("0,2", "1")])
    def test_geom_gcn(self, tmp_path, features):
        lines = f"node_id\tfeature\tlabel\n1\t{features[1]}\t3\n0\t{features[0]}\t1\n"
        (tmp_path / "out1_node_feature_label.txt").write_text(lines)
        (tmp_path / "out1_graph_edges.txt").write_text("node_id\tnode_id\n0\t1\n")
        data = opened(tmp_path)
        assert data.samples.graph.x.tolist() == [[1, 0, 1], [0, 1, 0]]
        assert data.classes == ["1", "3"] and data.targets.tolist() == [0, 1]

    def test_tu(self, tmp_path):
        """Two graphs, edges by numbers from 1, as the collection has them."""
        for name, text in {
            "A": "1, 2\n2, 1\n3, 4\n4, 3\n4, 5\n5, 4",
            "graph_indicator": "1\n1\n2\n2\n2",
            "graph_labels": "-1\n1",
            "node_labels": "0\n2\n1\n0\n0",
        }.items():
            (tmp_path / f"DS_{name}.txt").write_text(text + "\n")
        data = opened(tmp_path)
        assert len(data) == 2 and not data.connected and data.targets.tolist() == [0, 1]
        batch = data.batch([1, 0])
        assert batch["graph"].ptr.tolist() == [0, 3, 5] and "node" not in batch
        assert batch["graph"].edge_index.tolist() == [[0, 1, 1, 2, 3, 4], [1, 0, 2, 1, 4, 3]]
        assert batch["graph"].x.argmax(1).tolist() == [1, 0, 0, 0, 2]

    def test_python_objects(self):
        one = Data(x=torch.from_numpy(X), edge_index=torch.from_numpy(EDGES), y=torch.from_numpy(Y))
        one.train_mask = one.y == 0
        data = opened(one)
        check(data)
        assert data.split("train").rows.tolist() == [0, 2] and data.targets[3] == -1
        pair = Data(x=one.x[:2], edge_index=torch.tensor([[0], [1]]), y=torch.tensor([4]))
        several = opened([pair, pair, Data(x=one.x, edge_index=one.edge_index, y=torch.tensor([2]))])
        assert several.samples.graph.ptr.tolist() == [0, 2, 4, 9] and several.classes == ["2", "4"]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ({"x": X}, "edges are looked for"),
            ({"edge_index": EDGES, "x": X[:4]}, "lead to nodes 0 to 4"),
            ({"edge_index": EDGES, "x": X, "num_nodes": 7}, "features of 5 nodes"),
            ({"edge_index": EDGES, "x": X, "y": Y[:3]}, "3 labels for 5 nodes"),
            ({"edge_index": EDGES * 1.5, "x": X}, "whole numbers"),
            ({"edge_index": EDGES, "x": np.where(X > 3, np.nan, X)}, "not finite"),
        ],
    )
    def test_what_does_not_fit_is_explained(self, tmp_path, content, said):
        with pytest.raises(DataError, match=said):
            opened(write(tmp_path / "a.npz", **content))

    def test_what_is_no_graph_is_refused(self, tmp_path):
        with pytest.raises(DataError, match="accepted are"):
            opened(tmp_path)
        (tmp_path / "data.pt").write_bytes(b"\x80")
        for source in (tmp_path, tmp_path / "data.pt"):
            with pytest.raises(DataError, match="can run code"):
                opened(source)
        with pytest.raises(DataError, match="no 'nowhere.npz'"):
            opened("nowhere.npz")
        (tmp_path / "none.edges").write_text("# nobody\n")
        with pytest.raises(DataError, match="holds no nodes"):
            opened(tmp_path / "none.edges")
        with pytest.raises(DataError, match="beside a list of edges"):
            opened(tmp_path / "data.npz", features="x.csv")
        (tmp_path / "latin.edges").write_bytes(b"caf\xe9 bar\n")
        with pytest.raises(DataError, match="cannot be read"):
            opened(tmp_path / "latin.edges")
        (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 broken")
        with pytest.raises(DataError, match="cannot be read"):
            opened(tmp_path / "bad.npz")
        np.savez(tmp_path / "objects.npz", edge_index=np.array([{}, 1], dtype=object))
        with pytest.raises(DataError, match="cannot be read"):
            opened(tmp_path / "objects.npz")


class TestScale:
    def test_standard_is_scikit_learns(self, tmp_path):
        x = np.random.default_rng(0).normal(3, 5, (5, 4)).astype(np.float32)
        x[:, 2] = 7
        data = opened(write(tmp_path / "a.npz", edge_index=EDGES, x=x), scale="standard")
        np.testing.assert_allclose(data.samples.graph.x, StandardScaler().fit_transform(x), atol=1e-5)

    def test_rows_sum_to_one(self, tmp_path):
        x = np.array([[1, 3], [0, 0], [2, 2], [0, 5], [1, 0]], dtype=np.float32)
        data = opened(write(tmp_path / "a.npz", edge_index=EDGES, x=x), scale="rows")
        assert data.samples.graph.x.tolist() == [[0.25, 0.75], [0, 0], [0.5, 0.5], [0, 1], [1, 0]]

    def test_without_features_degrees_speak(self, tmp_path):
        data = opened(write(tmp_path / "a.npz", edge_index=EDGES, num_nodes=6))
        assert data.samples.graph.x.argmax(1).tolist() == [1, 2, 1, 1, 1, 0]
        assert "none" in data.describe()["features"]


class TestBatches:
    def test_every_batch_holds_the_whole_graph_and_no_label(self):
        data = open_data("blocks")
        one, other = data.batch([3, 7]), data.subset([7, 9]).batch([0])
        assert one["graph"] is other["graph"] and sorted(one["graph"].keys()) == ["edge_index", "x"]
        assert one["node"].tolist() == [3, 7] and other["node"].tolist() == [7]
        assert take(one, slice(1, 2))["graph"] is one["graph"] and take(one, slice(1, 2))[
            "node"
        ].tolist() == [7]

    def test_it_goes_to_a_device_once(self):
        graph = open_data("karate").batch([0])["graph"]
        moved = graph.to("meta")
        assert moved is graph.to(torch.device("meta")) and moved is moved.to("meta")
        assert moved.x.is_meta and moved.edge_index.is_meta and not graph.x.is_meta
        assert moved.to("cpu") is graph and graph.to("cpu") is graph and graph.pin_memory() is graph

    def test_what_is_made_of_it_is_made_once_on_each_device(self):
        graph = open_data("karate").batch([0])["graph"]
        first = with_self_loops(graph)
        assert with_self_loops(graph) is first and first.edge_index.shape[1] == 2 * 78 + 34
        assert graph.to("meta").once("looped", lambda: "made there") == "made there"
        assert sorted(graph.keys()) == ["edge_index", "x"], "nothing is among the graph's own entries"

    def test_selected_graphs_are_pygs_batch(self):
        generator = torch.Generator().manual_seed(0)
        graphs = []
        for count in (4, 1, 6, 3):
            pairs = torch.randint(count, (2, 3 * count), generator=generator)
            graphs.append(Data(x=torch.rand(count, 2, generator=generator), edge_index=pairs))
        data = open_data(graphs, modality="graph", scale="none")
        rows = torch.tensor([2, 0, 3])
        found, clean = data.batch(rows)["graph"], [data.batch([row])["graph"] for row in rows.tolist()]
        expected = Batch.from_data_list([Data(x=graph.x, edge_index=graph.edge_index) for graph in clean])
        for key in ("x", "edge_index", "ptr", "batch"):
            assert torch.equal(found[key], expected[key]), key
        again = select(found, slice(1, 3))
        assert torch.equal(again.x, torch.cat([graphs[0].x, graphs[3].x])) and again.ptr.tolist() == [0, 4, 7]

    def test_splits_only_say_whose_labels_are_known(self):
        data = open_data("digit-neighbours")
        assert data.pretraining_part is data and len(data.split("train")) == 1347
        assert open_data("digit-neighbours", split="test", limit=9).batch([0])["graph"].num_nodes == 1797
        with pytest.raises(UsageError, match="no split"):
            open_data("blocks", split="test")


class TestLinks:
    def test_split(self):
        graph = open_data("blocks").samples.graph
        links = split_links(graph.edge_index, graph.num_nodes)
        once = {(a, b) for a, b in graph.edge_index.T.tolist() if a < b}
        kept = {(min(a, b), max(a, b)) for a, b in links.graph.T.tolist()}
        val, test = (set(map(tuple, part.T.tolist())) for part in (links.val, links.test))
        assert kept | val | test == once and len(kept) + len(val) + len(test) == len(once)
        assert (len(val), len(test)) == (len(once) // 10, len(once) // 5)
        assert links.graph.shape[1] == 2 * len(kept) and (links.graph[0].diff() >= 0).all()
        hidden = open_data("blocks", hide_links=True).samples.graph
        assert torch.equal(hidden.edge_index, links.graph) and torch.equal(hidden.test_link, links.test)

    @pytest.mark.parametrize("name", ["blocks", "karate"])  # few of all pairs, and many
    def test_pairs_that_are_no_edges(self, name):
        graph = open_data(name).samples.graph
        found = non_links(graph.edge_index, graph.num_nodes, 300, seed=3)
        pairs, edges = set(map(tuple, found.T.tolist())), set(map(tuple, graph.edge_index.T.tolist()))
        assert len(pairs) == 300 and all(a < b for a, b in pairs) and not pairs & edges
        assert not torch.equal(found, non_links(graph.edge_index, graph.num_nodes, 300, seed=4))
        most = non_links(graph.edge_index, graph.num_nodes, 10**6)
        assert most.shape[1] == graph.num_nodes * (graph.num_nodes - 1) // 2 - graph.edge_index.shape[1] // 2


@pytest.mark.parametrize("name", ["digit-neighbours", "blocks", "karate"])
def test_embedded_graphs_are_the_same_every_time(name):
    one, other = open_data(name), open_data(name)
    assert torch.equal(one.samples.graph.x, other.samples.graph.x)
    assert torch.equal(one.samples.graph.edge_index, other.samples.graph.edge_index)
    assert one.labels is not None and one.modality == "graph"


def test_blocks_prefer_their_own():
    data = open_data("blocks")
    source, target = data.samples.graph.edge_index
    same = (data.targets[source] == data.targets[target]).float().mean()
    assert 0.6 < same < 0.73


def test_cora(real_data):
    data = open_data(real_data("planetoid_cora_citeseer") / "cora.npz", modality="graph")
    facts = data.describe()
    assert (facts["nodes"], facts["edges"], facts["features"], facts["classes"]) == (2708, 5278, 1433, 7)
    assert facts["splits"] == {"train": 140, "val": 500, "test": 1000}
    with pytest.raises(DataError, match="several graphs"):
        open_data(real_data("planetoid_cora_citeseer"), modality="graph")


def test_many_graphs(real_data):
    data = open_data(real_data("graph_classification_tu") / "mutag.npz", modality="graph", scale="none")
    assert len(data) == 188 and len(data.classes) == 2 and data.inputs == {"in_dim": 7}
    assert (data.samples.graph.x.sum(1) == 1).all()
