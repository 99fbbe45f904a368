"""The four protocols on nodes: held to scikit-learn, and to what must come out where the answer is known."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch_geometric.data import Data

from pretask.data import open_data
from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.evaluation import graph as protocols
from pretask.evaluation.features import data_hash
from pretask.evaluation.protocols import evaluate

CS = (1.0, 100.0)


def blocks(features: torch.Tensor | None = None, **settings):
    """The embedded blocks, perhaps with other features."""
    data = open_data("blocks", **settings)
    if features is None:
        return data
    made = Data(x=features, edge_index=data.samples.graph.edge_index, y=data.targets)
    return open_data(made, modality="graph", scale="none")


def raw(data):
    return build_encoder("raw", "graph", **data.inputs)


def noise() -> torch.Tensor:
    return torch.randn(900, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def told():
    """Features that are the classes, nearly."""
    classes = open_data("blocks").targets
    return blocks(torch.eye(6)[classes] + 0.1 * noise()[:, :6])


def test_area_under_the_curve():
    layer = nn.Linear(3, 1)
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1)).round()  # with ties
    joined, apart = torch.randint(40, (2, 2, 30), generator=torch.Generator().manual_seed(2))
    found = protocols.ranked(layer, x, (joined, apart))
    with torch.no_grad():
        logits = torch.cat([layer(x[a] * x[b]).squeeze(1) for a, b in (joined, apart)])
    expected = roc_auc_score(np.repeat([1, 0], 30), logits.numpy())
    assert float(found.mean()) == pytest.approx(expected, abs=1e-9)


class TestClasses:
    def test_features_that_tell_all(self, told):
        score = protocols.node_classes(raw(told), told, told, repeats=2, cs=CS)[0]
        assert score.value > 0.99 and score.metric == "accuracy" and len(score.detail["values"]) == 2
        assert score.low <= score.value <= score.high

    def test_noise_gives_chance(self):
        data = blocks(noise())
        score = protocols.node_classes(raw(data), data, data, repeats=1, cs=CS)[0]
        assert score.n == len(score.items) == 720, "four fifths are judged"
        assert score.value < 1 / 6 + 4 * (5 / 36 / 720) ** 0.5 and score.detail["chance"] == pytest.approx(
            1 / 6
        )

    def test_every_labelled_node_takes_part(self, told):
        """Whatever the split; those without a label do not."""
        part = told.subset(range(30))
        one, other = (protocols.node_classes(raw(told), d, d, repeats=1, cs=CS)[0] for d in (told, part))
        assert torch.equal(one.items, other.items)
        graph = told.samples.graph
        labels = told.targets.clone()
        labels[:100] = -1
        some = open_data(
            Data(x=graph.x, edge_index=graph.edge_index, y=labels), modality="graph", scale="none"
        )
        assert protocols.node_classes(raw(some), some, some, repeats=1, cs=CS)[0].n == 640


def test_clusters(told):
    assert protocols.node_clusters(raw(told), told, told, repeats=2)[0].value > 0.97
    data = blocks(noise())
    score = protocols.node_clusters(raw(data), data, data, repeats=2)[0]
    assert score.value < 0.05 and score.metric == "NMI" and score.low <= score.value <= score.high


class TestLinks:
    def test_blocks_make_links(self, told):
        score = protocols.links(raw(told), told, told, repeats=2)[0]
        assert 0.7 < score.value < 0.95, "two thirds of the links stay within a block"
        assert score.low < score.value < score.high and score.detail["hidden in pretraining"] is False
        assert float(score.items.mean()) == pytest.approx(score.value)

    def test_noise_gives_chance(self):
        data = blocks(noise())
        assert abs(protocols.links(raw(data), data, data, repeats=1)[0].value - 0.5) < 0.06

    def test_the_encoder_does_not_see_what_is_asked(self):
        """A graph of its own, without the edges; and hidden beforehand it is the same one."""
        seen = []

        class Spy(nn.Module):
            inputs = {"in_dim": 60}

            def encode(self, batch):
                seen.append(batch["graph"].edge_index)
                return build_encoder("raw", "graph", in_dim=60).encode(batch)

        plain, hidden = blocks(), blocks(hide_links=True)
        whole = plain.samples.graph.edge_index.shape[1]
        scores = [protocols.links(Spy(), data, data, repeats=1)[0] for data in (plain, hidden)]
        assert torch.equal(*seen) and seen[0].shape[1] == whole - 2 * (whole // 2 // 10 + whole // 2 // 5)
        assert plain.samples.graph.edge_index.shape[1] == whole
        assert torch.equal(scores[0].items, scores[1].items) and scores[1].detail["hidden in pretraining"]

    def test_too_few_edges(self):
        tiny = Data(x=torch.eye(4), edge_index=torch.tensor([[0, 1], [1, 2]]))
        data = open_data(tiny, modality="graph")
        assert protocols.links(raw(data), data, data) == []


def test_partition(told):
    """Where a node lies is seen in the classes of blocks a little, in noise not."""
    score = protocols.partition(raw(told), told, told, repeats=1, cs=CS, parts=6)[0]
    data = blocks(noise())
    chance = protocols.partition(raw(data), data, data, repeats=1, cs=CS, parts=6)[0]
    assert score.value > 0.4 > 0.28 > chance.value


def test_by_name():
    data = open_data("karate")
    encoder = build_encoder("gcn:widths=[8,8]", "graph", seed=0, **data.inputs)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = evaluate(encoder, data, protocols=["clusters", "links"])
    assert [(score.protocol, score.metric) for score in found] == [("clusters", "NMI"), ("links", "AUC")]
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize("name", ["links", "partition"])
def test_other_data_are_refused(name):
    graphs = [Data(x=torch.eye(3), edge_index=torch.tensor([[0], [1]]))] * 10
    data = open_data(graphs, modality="graph")
    with pytest.raises(UsageError, match="nodes of one graph"):
        evaluate(raw(data), data, protocols=[name])


def test_another_graph_is_another_data_set():
    data = blocks()
    assert data_hash(data) == data_hash(blocks())
    graph = data.samples.graph
    other = Data(x=graph.x, edge_index=graph.edge_index[:, graph.edge_index.amin(0) > 0], y=data.targets)
    one = Data(x=graph.x, edge_index=graph.edge_index, y=data.targets)
    hashes = {data_hash(open_data(made, modality="graph", scale="none")) for made in (one, other)}
    assert len(hashes) == 2
