"""Graph encoders against their formulas, and as encoders like any other."""

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCNConv
from torch_geometric.utils import k_hop_subgraph

from pretask.data import open_data
from pretask.encoders import build_encoder, load_encoder, save_encoder
from pretask.encoders.graph import RemaskDecoder, both_degrees
from pretask.errors import UsageError
from pretask.pretexts.graph import Graph, drop_edges, neighbour_blocks, with_self_loops

NAMES = ("gcn", "sage", "gin", "gat")


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def graph() -> Graph:
    """With edges in one direction only, and a node without any edge into it."""
    whole = with_self_loops(open_data("karate").samples.graph)
    noise = torch.rand(whole.edge_index.shape[1], generator=dice())
    edges = drop_edges(whole.edge_index, noise, 0.4)
    return Graph(whole.x, edges[:, edges[1] != 5])


def encoder(name: str = "gcn:widths=[12,8]", in_dim: int = 18):
    return build_encoder(name, "graph", in_dim=in_dim, seed=0)


def dense_gcn(model, x: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The layers of the spec, with a loop over edges, in float64, normalised over the nodes."""
    for conv, norm, act in zip(model.convs, model.norms, model.acts, strict=True):
        weight, bias = (t.detach().double().numpy() for t in (conv.lin.weight, conv.bias))
        out = np.tile(bias, (len(x), 1))
        for source, target in edges.T:
            degree = max((edges[0] == source).sum(), 1) * max((edges[1] == target).sum(), 1)
            out[target] += x[source] @ weight.T / np.sqrt(degree)
        out = (out - out.mean(0)) / np.sqrt(out.var(0) + norm.eps)
        out = out * norm.weight.detach().double().numpy() + norm.bias.detach().double().numpy()
        slope = act.weight.item()
        x = np.where(out > 0, out, slope * out)
    return x


def test_gcn_is_its_formula(graph):
    net = encoder()
    for norm in net.model.norms:
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    expected = dense_gcn(net.model, graph.x.double().numpy(), graph.edge_index.numpy())
    np.testing.assert_allclose(net.nodes(graph).detach().numpy(), expected, atol=2e-4)


def test_gcn_starts_as_in_the_paper():
    net = encoder("gcn")
    assert [tuple(conv.lin.weight.shape) for conv in net.model.convs] == [
        (512, 18),
        (256, 512),
    ] and net.dim == 256
    for conv, norm, act in zip(net.model.convs, net.model.norms, net.model.acts, strict=True):
        bound = (6 / sum(conv.lin.weight.shape)) ** 0.5
        assert 0.95 * bound < conv.lin.weight.abs().max() <= bound and not conv.bias.any()
        assert norm.momentum == 0.99 and act.weight.shape == (1,)


def test_statistics_follow_the_last_look(graph):
    net = encoder()
    net.nodes(graph)
    other = Graph(graph.x.flip(0), graph.edge_index)
    net.nodes(other)
    trained = net.nodes(other)
    net.eval()
    torch.testing.assert_close(net.nodes(other), trained, atol=0.15, rtol=0.05)


def test_degrees_of_both_ends():
    edges = torch.tensor([[0, 0, 0, 1], [1, 2, 0, 1]])  # out: 3, 1, 0; in: 1, 2, 1
    assert both_degrees(edges, 3, 3).tolist() == pytest.approx([6**-0.5, 3**-0.5, 3**-0.5, 2**-0.5])


@pytest.mark.parametrize("name", NAMES)
def test_sampled_steps_without_a_limit(name):
    """With all neighbours drawn a mean or a sum over them is that of the whole graph. GCN's is not: the degree
    of a source is the one within the step (as in DGL)."""
    graph = with_self_loops(open_data("karate").samples.graph)
    net = encoder(f"{name}:widths=[12,8]").eval()
    seeds = torch.tensor([16, 25])
    blocks = neighbour_blocks(graph.edge_index, seeds, (50, 50), 34, dice())
    found, whole = net.blocks(graph.x[blocks[0].nodes], blocks), net.nodes(graph)[seeds]
    assert torch.allclose(found, whole, atol=1e-5) == (name != "gcn")


@pytest.mark.parametrize("name", NAMES)
def test_steps_beyond_the_layers_are_not_taken(name):
    """Two layers on three sampled steps answer for the targets of the second, among which the seeds stand
    first."""
    graph = with_self_loops(open_data("karate").samples.graph)
    net = encoder(f"{name}:widths=[12,8]")
    blocks = neighbour_blocks(graph.edge_index, torch.tensor([16, 25]), (15, 10, 5), 34, dice())
    found = net.blocks(graph.x[blocks[0].nodes], blocks)
    assert found.shape == (blocks[1].size, 8) and blocks[1].size == len(blocks[2].nodes) > 2


@pytest.mark.parametrize("name", NAMES)
def test_far_nodes_do_not_matter(name):
    graph = with_self_loops(open_data("karate").samples.graph)
    net = encoder(f"{name}:widths=[12,8]").eval()
    near, *_ = k_hop_subgraph(16, 2, graph.edge_index, num_nodes=34)
    x = graph.x.clone()
    far = torch.ones(34, dtype=torch.bool)
    far[near] = False
    assert far.any()
    x[far] += 3
    changed = net.nodes(Graph(x, graph.edge_index))
    assert torch.allclose(changed[16], net.nodes(graph)[16], atol=1e-6)
    assert not torch.allclose(changed, net.nodes(graph), atol=1e-3)


class TestFace:
    def test_nodes_of_one_graph(self):
        data = open_data("karate")
        net = encoder().eval()
        batch = data.batch([3, 0, 7])
        found = net.encode(batch)
        whole = net.nodes(with_self_loops(batch["graph"]))
        assert torch.equal(found.pooled, whole[[3, 0, 7]])
        assert found.tokens.shape == (3, 1, 8) and found.prefix.shape == (3, 0, 8)

    @pytest.mark.parametrize("readout", ["mean", "sum", "max"])
    def test_several_graphs(self, readout):
        sizes = (4, 2, 5)
        graphs = [
            Data(x=torch.randn(n, 3, generator=dice(n)), edge_index=torch.tensor([[0, 1], [1, 0]]))
            for n in sizes
        ]
        net = encoder(f"gcn:widths=[6],readout={readout}", 3).eval()
        data = open_data(graphs, modality="graph", scale="none")
        found = net.encode(data.batch([0, 1, 2]))
        alone = [net.nodes(with_self_loops(graph)) for graph in graphs]
        pooled = [getattr(x, readout)(0) for x in alone]
        expected = torch.stack([p if isinstance(p, torch.Tensor) else p.values for p in pooled])
        torch.testing.assert_close(found.pooled, expected)
        assert found.tokens.shape == (3, 5, 6) and not found.tokens[1, 2:].any()
        torch.testing.assert_close(found.tokens[2], alone[2])
        joined = Batch.from_data_list(graphs)  # PyG's own batch does as well
        torch.testing.assert_close(net.encode({"graph": joined}).pooled, expected)

    def test_raw_is_the_features(self):
        data = open_data("karate")
        net = build_encoder("raw", "graph", **data.inputs)
        assert (
            torch.equal(net.encode(data.batch([2, 5])).pooled, data.samples.graph.x[[2, 5]]) and net.dim == 18
        )

    def test_kept_under_pygs_names_and_built_again(self, tmp_path):
        net = encoder("sage:widths=[12,8],act=relu,norm=layer")
        assert "convs.0.lin_l.weight" in net.model.state_dict()
        save_encoder(net, tmp_path / "encoder.safetensors")
        again = load_encoder(tmp_path / "encoder.safetensors")
        batch = open_data("karate").batch([1, 2])
        assert torch.equal(again.eval().encode(batch).pooled, net.eval().encode(batch).pooled)
        assert again.name == net.name and again.pretrained

    def test_gcn_weights_load_into_pyg(self):
        net = encoder()
        conv = GCNConv(18, 12)
        conv.load_state_dict(net.model.convs[0].state_dict())
        whole = open_data("karate").samples.graph  # both directions: PyG's normalisation is ours
        edges = with_self_loops(whole).edge_index
        ours = net.model.convs[0](whole.x, edges, both_degrees(edges, 34, 34))
        torch.testing.assert_close(conv(whole.x, whole.edge_index), ours)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("gnc", "gcn"),
            ("gcn:depth=3", "no argument 'depth'"),
            ("gcn:norm=instance", "norm is batch or layer or none"),
            ("gcn:widths=64", "widths=\\[512,256\\]"),
        ],
    )
    def test_what_there_is_not_is_refused(self, name, said):
        with pytest.raises(UsageError, match=said):
            encoder(name)

    def test_other_features_are_refused(self):
        with pytest.raises(UsageError, match="18 features"):
            encoder().encode(open_data("blocks").batch([0]))


def test_remask_decoder(graph):
    """A convolution whose messages are made smaller first; hidden nodes say nothing."""
    decoder, hidden = RemaskDecoder(8, 18), torch.arange(34) % 3 == 0
    encoded = torch.randn(34, 8, generator=dice())
    found = decoder(encoded, graph.edge_index, hidden)
    conv = GCNConv(8, 18, normalize=False)
    conv.lin.weight.data, conv.bias.data = decoder.weight.weight.data, decoder.weight.bias.data
    seen = decoder.bridge(encoded)
    seen = torch.where(hidden[:, None], 0.0, seen)
    weight = both_degrees(graph.edge_index, 34, 34)
    torch.testing.assert_close(found, conv(seen, graph.edge_index, weight))
    other = torch.where(hidden[:, None], encoded + 5, encoded)
    assert torch.equal(decoder(other, graph.edge_index, hidden), found)
    assert decoder.bridge.bias is None and not decoder.weight.bias.any()
