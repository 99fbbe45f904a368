"""PyG's message passing as encoders: a graph in, a vector a node (or a graph) out; weights stay PyG's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pretask.data.batch import require_graph
from pretask.encoders.base import Encoder, split_name
from pretask.encoders.decoder import xavier_linear
from pretask.encoders.features import Features
from pretask.errors import UsageError, need
from pretask.pretexts.graph import Block, with_self_loops
from pretask.task import Batch

READOUTS = ("mean", "sum", "max")


def gcn(layers: Any, before: int, after: int) -> nn.Module:
    return layers.GCNConv(before, after, normalize=False)  # `both_degrees` normalises


def sage(layers: Any, before: int, after: int) -> nn.Module:
    return layers.SAGEConv(before, after)


def gin(layers: Any, before: int, after: int) -> nn.Module:
    inner = nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Linear(after, after))
    return layers.GINConv(inner, train_eps=True)


def gat(layers: Any, before: int, after: int) -> nn.Module:
    heads = next(heads for heads in (4, 2, 1) if after % heads == 0)
    return layers.GATConv(before, after // heads, heads=heads, add_self_loops=False)


CONVOLUTIONS: dict[str, Callable[[Any, int, int], nn.Module]] = {
    "gcn": gcn,
    "sage": sage,
    "gin": gin,
    "gat": gat,
}
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": lambda width: nn.BatchNorm1d(width, momentum=0.99),
    "layer": nn.LayerNorm,
    "none": nn.Identity,
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"prelu": nn.PReLU, "relu": nn.ReLU}


def both_degrees(edge_index: Int[Tensor, "2 edges"], count: int, size: int) -> Float[Tensor, "edges"]:
    """The weight of each edge, 1 / sqrt(edges out of its source * edges into its target); none counts as one.

    On a graph whose edges stand in both directions this is D^-1/2 A D^-1/2 (Kipf & Welling, 2017). Where
    edges were dropped or sampled the two degrees differ (DGL's `norm='both'`; PyG's own takes one for both).

    Args:
        edge_index: from and to.
        count: nodes that messages come from.
        size: nodes they go to.
    """
    source, target = edge_index
    out = torch.bincount(source, minlength=count).clamp(min=1)
    into = torch.bincount(target, minlength=size).clamp(min=1)
    return (out[source] * into[target]).float().rsqrt()


class GraphEncoder(Encoder):
    """Layers of convolution, normalisation and activation, the last one's included.

    Args:
        model: `convs`, `norms` and `acts`, a list each.
        name: what `build` was given.
        in_dim: features of a node.
        dim: width of the output.
        weighted: whether convolutions take `both_degrees`.
        dropout: share of hidden numbers set to 0 between layers.
        readout: how a graph's nodes become its vector.
    """

    modality = "graph"

    def __init__(
        self,
        model: nn.Module,
        name: str,
        in_dim: int,
        dim: int,
        weighted: bool,
        dropout: float,
        readout: str,
    ):
        super().__init__()
        self.model, self.name, self.dim, self.inputs = model, name, dim, {"in_dim": in_dim}
        self.in_dim, self.weighted, self.readout = in_dim, weighted, readout
        self.dropout = nn.Dropout(dropout)

    @property
    def depth(self) -> int:
        return len(self.model.convs)

    def nodes(self, graph: Any) -> Float[Tensor, "nodes dim"]:
        """A vector a node. The graph is taken as it is: `with_self_loops` is the caller's, `encode` does it.

        Args:
            graph: a PyG `Data`, or anything else with `x` and `edge_index`.
        """
        count = len(graph.x)
        return self.layers(graph.x, [(graph.edge_index, count)] * self.depth)

    def blocks(
        self, x: Float[Tensor, "sources dim"], blocks: Sequence[Block]
    ) -> Float[Tensor, "targets dim"]:
        """A vector for each node that the last step's messages go to. Each layer takes a step; further ones
        are not taken.

        Args:
            x: features of the first block's nodes.
            blocks: sampled neighbourhoods, the farthest first.
        """
        return self.layers(x, [(b.edge_index, b.size) for b in blocks[: self.depth]])

    def layers(self, x: Tensor, steps: Sequence[tuple[Tensor, int]]) -> Float[Tensor, "targets dim"]:
        if x.shape[1] != self.in_dim:
            raise UsageError(f"the encoder takes {self.in_dim} features a node and was given {x.shape[1]}")
        known: tuple[Tensor | None, Tensor | None] = (None, None)
        for number, (edges, size) in enumerate(steps):
            if number:
                x = self.dropout(x)
            if self.weighted and known[0] is not edges:
                known = edges, both_degrees(edges, len(x), size).to(x.dtype)
            x = self.model.convs[number](x, edges, *known[1:] if self.weighted else ())[:size]
            x = self.model.acts[number](self.model.norms[number](x))
        return x

    def forward(self, graph: Any) -> Features:
        """Of one graph every node is a sample; of several joined ones (`ptr`) every graph, of which nodes are
        the tokens."""
        found = self.nodes(graph)
        if getattr(graph, "ptr", None) is None:
            tokens = found.unsqueeze(1)
            return Features(found, tokens, tokens[:, :0], (1,))
        utils = need("torch_geometric.utils", "graph")
        pooled = utils.scatter(found, graph.batch, 0, len(graph.ptr) - 1, reduce=self.readout)
        tokens, _ = utils.to_dense_batch(found, graph.batch, batch_size=len(graph.ptr) - 1)
        return Features(pooled, tokens, tokens[:, :0], tuple(tokens.shape[1:2]))

    def encode(self, batch: Batch) -> Features:
        """The features of the batch's nodes (or graphs), every node with its self-loop."""
        graph = require_graph(batch)
        looped = need("torch_geometric.data", "graph").Data(**with_self_loops(graph)._asdict())
        if "node" not in batch:
            if getattr(graph, "ptr", None) is not None:
                looped.ptr, looped.batch = graph.ptr, graph.batch
            return self(looped)
        found = self(looped)
        pooled, tokens, prefix = (part[batch["node"]] for part in found[:3])
        return Features(pooled, tokens, prefix, found.grid)


class RemaskDecoder(nn.Module):
    """GraphMAE's decoder (Hou et al., KDD 2022): a linear layer, hidden nodes set to 0 once more, and one
    graph convolution to the features, so that hidden nodes are rebuilt from those around them alone.

    Args:
        dim: width of the encoder's output.
        out: features of a node.
    """

    def __init__(self, dim: int, out: int):
        super().__init__()
        self.bridge, self.weight = nn.Linear(dim, dim, bias=False), nn.Linear(dim, out)
        # messages of `dim` numbers, then the weights: the same as a GCNConv, whose messages have `out`
        self.spread = need("torch_geometric.nn", "graph").SimpleConv(aggr="sum")
        self.apply(xavier_linear)

    def forward(
        self,
        encoded: Float[Tensor, "nodes dim"],
        edge_index: Int[Tensor, "2 edges"],
        hidden: Bool[Tensor, "nodes"],
    ) -> Float[Tensor, "nodes out"]:
        seen = self.bridge(encoded).masked_fill(hidden.unsqueeze(1), 0)
        weight = both_degrees(edge_index, len(seen), len(seen)).to(seen.dtype)
        return self.weight(self.spread(seen, edge_index, weight))


class RawNodes(GraphEncoder):
    """The nodes' own features: the baseline every encoder must beat."""

    def nodes(self, graph: Any) -> Float[Tensor, "nodes dim"]:
        return graph.x


class Shape(NamedTuple):
    """What may stand behind the colon of an encoder's name.

    Args:
        widths: of each layer's output.
        norm: `batch`, `layer` or `none`. The one over the batch follows its last look almost alone (momentum
            0.99, as ParetoGNN has it).
        act: `prelu` (one slope a layer) or `relu`.
        dropout: share of numbers set to 0 between layers.
        readout: how a graph's nodes become its vector: `mean`, `sum` or `max`.
    """

    widths: Sequence[int] = (512, 256)
    norm: str = "batch"
    act: str = "prelu"
    dropout: float = 0.0
    readout: str = "mean"


def shape_of(plain: str, given: dict[str, Any]) -> Shape:
    """
    Raises:
        UsageError: an argument or a choice that there is not.
    """
    unknown = [key for key in given if key not in Shape._fields]
    if unknown:
        raise UsageError(f"encoder '{plain}' has no argument '{unknown[0]}': {', '.join(Shape._fields)}")
    shape = Shape(**given)
    for key, known in (("norm", NORMS), ("act", ACTIVATIONS), ("readout", READOUTS)):
        if getattr(shape, key) not in known:
            raise UsageError(f"encoder '{plain}': {key} is {' or '.join(known)}, not '{getattr(shape, key)}'")
    if not isinstance(shape.widths, (list, tuple)) or not all(isinstance(w, int) for w in shape.widths):
        raise UsageError(f"encoder '{plain}': widths are a list, such as widths=[512,256]")
    return shape


def build(name: str, in_dim: int) -> GraphEncoder:
    """An encoder by name: `gcn`, `sage`, `gin` or `gat`, perhaps with its `Shape` behind a colon
    (`gcn:widths=[128,64]`); `raw` is the features themselves.

    Args:
        name: with its arguments.
        in_dim: features of a node.

    Raises:
        UsageError: there is no such encoder or argument.
    """
    plain, given = split_name(name)
    shape = shape_of(plain, given)
    if plain == "raw":
        return RawNodes(nn.Identity(), name, in_dim, in_dim, False, 0.0, shape.readout)
    if plain not in CONVOLUTIONS:
        near = get_close_matches(plain, CONVOLUTIONS) or list(CONVOLUTIONS)
        raise UsageError(f"there is no graph encoder '{plain}'; there is: {', '.join(near)}, raw")
    layers = need("torch_geometric.nn", "graph")
    convolution, norm, act = CONVOLUTIONS[plain], NORMS[shape.norm], ACTIVATIONS[shape.act]
    widths = [in_dim, *shape.widths]
    model = nn.ModuleDict()
    model["convs"] = nn.ModuleList(convolution(layers, *pair) for pair in pairwise(widths))
    model["norms"] = nn.ModuleList(norm(width) for width in widths[1:])
    model["acts"] = nn.ModuleList(act() for _ in widths[1:])
    return GraphEncoder(model, name, in_dim, widths[-1], plain == "gcn", shape.dropout, shape.readout)
