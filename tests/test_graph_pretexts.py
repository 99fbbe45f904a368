"""What is hidden of a graph, held to loops and to PyG."""

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.utils import k_hop_subgraph
from torch_geometric.utils import subgraph as pyg_subgraph

from pretask.data import open_data
from pretask.data.ranges import ranges
from pretask.pretexts.graph import (
    Graph,
    augmented,
    by_degree,
    drop_edges,
    hidden_nodes,
    k_hop,
    mask_columns,
    neighbour_blocks,
    partition,
    permutation,
    picture,
    random_pairs,
    sampled,
    subgraph,
    surroundings,
    with_self_loops,
)
from pretask.reports.panels import draw
from pretask.task import Panel


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return with_self_loops(open_data("blocks").samples.graph)


def as_set(edges) -> set[tuple[int, int]]:
    return set(map(tuple, edges.T.tolist()))


def test_ranges():
    assert ranges(torch.tensor([5, 0, 9]), torch.tensor([3, 0, 2])).tolist() == [5, 6, 7, 9, 10]
    assert ranges(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)).tolist() == []


class TestSelfLoops:
    def test_one_at_every_node(self, graph):
        plain = open_data("blocks").samples.graph.edge_index
        assert as_set(graph.edge_index) == as_set(plain) | {(node, node) for node in range(900)}
        assert graph.edge_index.shape[1] == plain.shape[1] + 900
        assert (graph.edge_index[0].diff() >= 0).all()

    def test_any_order_and_loops_that_are_there(self, graph):
        shuffled = Graph(graph.x, graph.edge_index[:, permutation(graph.edge_index.shape[1], dice())])
        again = with_self_loops(shuffled)
        assert as_set(again.edge_index) == as_set(graph.edge_index)
        assert again.edge_index.shape == graph.edge_index.shape
        assert (again.edge_index[0].diff() >= 0).all()

    def test_no_edges(self):
        lonely = with_self_loops(Graph(torch.ones(3, 1), torch.empty(2, 0, dtype=torch.long)))
        assert lonely.edge_index.tolist() == [[0, 1, 2], [0, 1, 2]]


class TestViews:
    def test_edges_below_the_share_go(self):
        edges, noise = torch.tensor([[0, 1, 2], [1, 0, 2]]), torch.tensor([0.29, 0.3, 0.9])
        assert drop_edges(edges, noise, 0.3).tolist() == [[1, 2], [0, 2]]

    def test_columns_go_at_all_nodes(self):
        x = mask_columns(torch.ones(3, 4), torch.tensor([0.1, 0.5, 0.2, 0.9]), 0.3)
        assert x.tolist() == [[0, 1, 0, 1]] * 3

    def test_shares_and_directions(self, graph):
        view = augmented(graph, 0.3, 0.2, dice())
        total = graph.edge_index.shape[1]
        assert abs(view.edge_index.shape[1] / total - 0.7) < 4 * (0.21 / total) ** 0.5
        gone = (view.x == 0).all(0)
        assert torch.equal(view.x[:, ~gone], graph.x[:, ~gone]) and 3 < gone.sum() < 22
        kept = as_set(view.edge_index)
        assert any((b, a) not in kept for a, b in kept), "each direction is an edge of its own"
        assert sum((node, node) in kept for node in range(900)) < 700, "self-loops can go"

    def test_hidden_nodes_are_rounded_down(self):
        assert [int(hidden_nodes(count, 0.5, dice()).sum()) for count in (7, 8, 1)] == [3, 4, 0]


class TestParts:
    @pytest.mark.parametrize("hops", [0, 1, 3])
    def test_k_hop_is_the_distance(self, graph, hops):
        seeds = torch.tensor([3, 400, 3])
        net = nx.Graph(graph.edge_index.T.tolist())
        near = [nx.single_source_shortest_path_length(net, seed, hops) for seed in (3, 400)]
        found = k_hop(graph.edge_index, seeds, hops, 900)
        assert found.tolist() == sorted(set().union(*near))
        subset, *_ = k_hop_subgraph(seeds.unique(), hops, graph.edge_index, num_nodes=900)
        assert torch.equal(found, subset)

    def test_subgraph_is_pygs(self, graph):
        nodes = torch.arange(0, 900, 3)
        expected, _ = pyg_subgraph(nodes, graph.edge_index, relabel_nodes=True, num_nodes=900)
        found = subgraph(graph, nodes)
        assert as_set(found.edge_index) == as_set(expected) and found.edge_index.shape == expected.shape
        assert torch.equal(found.x, graph.x[nodes]) and (found.edge_index[0].diff() >= 0).all()

    def test_nodes_come_in_proportion_to_their_edges(self):
        edges = torch.tensor(
            [[0, 0, 0, 0, 1, 1, 2, 4], [0, 1, 2, 4, 0, 1, 0, 0]]
        )  # node 3 has none: counts as one
        weight = torch.tensor([4, 2, 1, 1, 1]) / 9
        seen = torch.zeros(5)
        generator = dice()
        for _ in range(3000):
            seen[by_degree(edges, 1, 5, generator)] += 1
        error = (weight * (1 - weight) / 3000).sqrt()
        assert ((seen / 3000 - weight).abs() < 4 * error).all(), seen

    def test_a_node_drawn_twice_counts_once(self, graph):
        found = by_degree(graph.edge_index, 500, 900, dice())
        assert 250 < len(found) < 500 and (found.diff() > 0).all()
        assert len(sampled(graph, 500, dice()).x) == len(found)

    def test_parts_of_metis_are_even_and_hang_together(self, graph):
        parts = partition(graph.edge_index, 900, 6)
        sizes = parts.bincount()
        assert len(sizes) == 6 and sizes.min() > 100 and sizes.max() < 200
        source, target = graph.edge_index[:, graph.edge_index[0] != graph.edge_index[1]]
        assert (parts[source] == parts[target]).float().mean() > 0.4  # one in six by chance
        assert torch.equal(parts, partition(graph.edge_index.flip(1), 900, 6))


class TestBlocks:
    def test_every_step_holds_what_it_should(self, graph):
        """The rules of DGL's sampler, asked of every target of every step."""
        neighbours = {node: set() for node in range(900)}
        for a, b in graph.edge_index.T.tolist():
            neighbours[a].add(b)
        seeds, fanouts = torch.tensor([5, 2, 800]), (15, 4, 2)
        blocks = neighbour_blocks(graph.edge_index, seeds, fanouts, 900, dice())
        targets = seeds
        for block, fanout in zip(reversed(blocks), reversed(fanouts), strict=True):
            assert torch.equal(block.nodes[: block.size], targets), "targets stand first"
            assert len(block.nodes.unique()) == len(block.nodes)
            for place in range(block.size):
                sources = block.nodes[block.edge_index[0, block.edge_index[1] == place]].tolist()
                around = neighbours[int(targets[place])]
                assert len(sources) == len(set(sources)) == min(fanout, len(around))
                assert set(sources) <= around
            assert block.edge_index[0].max() == len(block.nodes) - 1 or len(block.nodes) == block.size
            targets = block.nodes

    def test_neighbours_are_drawn_alike(self):
        edges = with_self_loops(
            Graph(torch.ones(6, 1), torch.tensor([[0] * 5 + [1, 2, 3, 4, 5], [1, 2, 3, 4, 5] + [0] * 5]))
        )
        seen, generator = torch.zeros(6), dice()
        for _ in range(2000):
            block = neighbour_blocks(edges.edge_index, torch.tensor([0]), (2,), 6, generator)[0]
            seen[block.nodes[block.edge_index[0]]] += 1
        assert ((seen / 2000 - 1 / 3).abs() < 4 * (2 / 9 / 2000) ** 0.5).all(), seen


class TestPairs:
    def test_edges_and_their_sources_with_any_node(self, graph):
        pairs, joined = random_pairs(graph.edge_index, 900, 10, 3, dice())
        edges, others = pairs[:, joined], pairs[:, ~joined]
        assert edges.shape[1] == 10 and as_set(edges) <= as_set(graph.edge_index) and len(as_set(edges)) == 10
        assert torch.equal(others[0], edges[0].repeat_interleave(3)) and others.shape[1] == 30

    def test_targets_are_uniform(self, graph):
        pairs, joined = random_pairs(graph.edge_index, 900, 4000, 1, dice())
        thirds = (pairs[1, ~joined] // 300).bincount() / 4000
        assert ((thirds - 1 / 3).abs() < 4 * (2 / 9 / 4000) ** 0.5).all()
        assert random_pairs(graph.edge_index, 900, 10**6, 0, dice())[0].shape[1] == graph.edge_index.shape[1]


class TestPicture:
    def test_what_lies_around(self, graph):
        counts = [len(k_hop(graph.edge_index, torch.tensor([7]), hops, 900)) for hops in (0, 1, 2)]
        for most, expected in ((counts[2], counts[2]), (counts[2] - 1, counts[1]), (2, 1)):
            assert len(surroundings(graph.edge_index, 7, most, 900)) == expected

    def test_marks_and_dropped_edges(self, graph):
        nodes = surroundings(graph.edge_index, 7, 30, 900)
        kept = torch.rand(graph.edge_index.shape[1], generator=dice()) > 0.5
        shown = picture(graph, nodes, kept, hidden=torch.arange(900) % 2 == 0)
        assert shown.hidden.tolist() == (nodes % 2 == 0).tolist()
        whole = subgraph(graph, nodes).edge_index
        plain = {(a, b) for a, b in as_set(whole) if a != b}
        assert as_set(shown.edge_index) | as_set(shown.dropped) == plain
        assert not as_set(shown.edge_index) & as_set(shown.dropped) and shown.dropped.shape[1] > 0

    def test_it_is_drawn(self, graph):
        """Dropped edges are red, hidden nodes hollow, and everything else lies where it lay."""
        nodes = surroundings(graph.edge_index, 7, 30, 900)
        kept = torch.arange(graph.edge_index.shape[1]) % 2 == 0
        kept &= graph.edge_index[0] < graph.edge_index[1]  # both directions of an edge go together
        plain, half, hollow = (
            np.asarray(draw(Panel("x", picture(graph, nodes, *args, **marks), kind="graph"))).astype(int)
            for args, marks in (((), {}), ((kept,), {}), ((), {"hidden": torch.ones(900)}))
        )
        red = [((p[..., 0] - p[..., 1]) > 50).sum() for p in (plain, half)]
        assert red[0] == 0 and red[1] > 20
        light = [(p.min(-1) > 240).sum() for p in (plain, hollow)]
        assert light[1] > light[0] + len(nodes), "a hollow node shows the paper"
        assert (plain != hollow).any(-1).mean() < 0.05
