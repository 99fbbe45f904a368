"""What is hidden of a graph: edges, columns of features, all but a part of it.

Edges stand in both directions and are grouped by their first node (`data.graph` reads them so,
`with_self_loops` makes sure): what follows is then a matter of gathering runs, without a look at the rest of
the graph. A graph is the same in every process, and so is what is drawn for it: unlike in `draw.uniform`,
nothing is shared out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pretask.data.ranges import ranges
from pretask.errors import need

Edges = Int[Tensor, "2 edges"]


class Graph(NamedTuple):
    """Nodes with features and the edges between them; as much of a PyG `Data` as a network looks at."""

    x: Float[Tensor, "nodes dim"]
    edge_index: Int[Tensor, "2 edges"]

    @property
    def num_nodes(self) -> int:
        return len(self.x)


def uniform(
    shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*shape"]:
    """U[0, 1), alike in all processes."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=dtype)


def permutation(count: int, generator: torch.Generator) -> Int[Tensor, "count"]:
    """0 .. count-1 in a random order, alike in all processes."""
    return torch.randperm(count, generator=generator, device=generator.device)


def with_self_loops(graph: Any) -> Graph:
    """The graph with one self-loop at every node, edges grouped by their first node. Made once of a graph that
    keeps what is made of it (`data.graph.WholeGraph`)."""
    return graph.once("looped", lambda: looped(graph)) if hasattr(graph, "once") else looped(graph)


def looped(graph: Any) -> Graph:
    count, (row, column) = len(graph.x), graph.edge_index.unbind(0)
    plain = row != column
    if not bool(plain.all()):
        row, column = row[plain], column[plain]
    if not bool((row[1:] >= row[:-1]).all()):
        row, order = row.sort(stable=True)
        column = column[order]
    node = torch.arange(count, device=row.device)
    sizes = torch.bincount(row, minlength=count)
    place = sizes.cumsum(0) + node  # the last of each run; the edges before it move on by one a run
    edges = row.new_empty(2, len(row) + count)
    edges[:, place] = node
    edges[:, torch.arange(len(row), device=row.device) + row] = torch.stack([row, column])
    return Graph(graph.x, edges)


def drop_edges(edge_index: Edges, noise: Float[Tensor, "edges"], share: float) -> Edges:
    """Without the edges whose noise, from U[0, 1), is below `share`; each direction is an edge of its own."""
    return edge_index[:, noise >= share]


def mask_columns(
    x: Float[Tensor, "nodes dim"], noise: Float[Tensor, "dim"], share: float
) -> Float[Tensor, "nodes dim"]:
    """With 0 in the columns whose noise, from U[0, 1), is below `share`: the same ones at all nodes."""
    return x * (noise >= share)


def augmented(graph: Graph, edges: float, columns: float, generator: torch.Generator) -> Graph:
    """A view of a graph: edges dropped, then columns of features masked (GRACE, Zhu et al., 2020).

    Args:
        graph: what is seen.
        edges: chance of each edge to be dropped.
        columns: chance of each feature to be 0 at all nodes.
        generator: of the draws.
    """
    for_edges = uniform((graph.edge_index.shape[1],), generator)
    for_columns = uniform((graph.x.shape[1],), generator)
    return Graph(mask_columns(graph.x, for_columns, columns), drop_edges(graph.edge_index, for_edges, edges))


def runs(edge_index: Edges, count: int) -> Int[Tensor, "nodes+1"]:
    """Where the edges of each node begin, and the end."""
    return torch.searchsorted(edge_index[0].contiguous(), torch.arange(count + 1, device=edge_index.device))


def around(
    edge_index: Edges, start: Int[Tensor, "nodes+1"], nodes: Int[Tensor, "some"]
) -> tuple[Int[Tensor, "edges"], Int[Tensor, "edges"]]:
    """The edges of some nodes: for each which of `nodes` it belongs to, and where it leads."""
    sizes = start[nodes + 1] - start[nodes]
    owner = torch.arange(len(nodes), device=nodes.device).repeat_interleave(sizes)
    return owner, edge_index[1][ranges(start[nodes], sizes)]


def k_hop(edge_index: Edges, seeds: Int[Tensor, "seeds"], hops: int, count: int) -> Int[Tensor, "found"]:
    """The nodes that some seed reaches in at most `hops` steps, seeds included, in order."""
    start = runs(edge_index, count)
    seen = torch.zeros(count, dtype=torch.bool, device=edge_index.device)
    seen[seeds] = True
    frontier = seen.nonzero().flatten()
    for _ in range(hops):
        fresh = torch.zeros_like(seen)
        fresh[around(edge_index, start, frontier)[1]] = True
        fresh &= ~seen
        seen |= fresh
        frontier = fresh.nonzero().flatten()
    return seen.nonzero().flatten()


def by_degree(edge_index: Edges, budget: int, count: int, generator: torch.Generator) -> Int[Tensor, "found"]:
    """GraphSAINT's node sampler (Zeng et al., ICLR 2020) as DGL has it: `budget` draws with replacement, in
    proportion to the number of a node's edges (at least 1); every node drawn counts once, in order."""
    weight = torch.bincount(edge_index[0], minlength=count).clamp(min=1)
    total = weight.cumsum(0).double()  # searched, because multinomial() takes at most 2^24 nodes
    drawn = uniform((budget,), generator, torch.float64).to(total.device) * total[-1]
    found = torch.searchsorted(total, drawn, right=True).clamp(max=count - 1)
    seen = torch.zeros(count, dtype=torch.bool, device=edge_index.device)
    seen[found] = True
    return seen.nonzero().flatten()


def subgraph(graph: Graph, nodes: Int[Tensor, "some"]) -> Graph:
    """These nodes, numbered anew, and all edges between them."""
    count = graph.num_nodes
    owner, to = around(graph.edge_index, runs(graph.edge_index, count), nodes)
    place = torch.full((count,), -1, device=nodes.device)
    place[nodes] = torch.arange(len(nodes), device=nodes.device)
    inside = place[to] >= 0
    return Graph(graph.x[nodes], torch.stack([owner[inside], place[to[inside]]]))


class Block(NamedTuple):
    """One step of messages from sampled neighbours to the nodes they are neighbours of.

    Args:
        nodes: what messages come from; the nodes they go to stand first.
        edge_index: from and to, as places in `nodes`.
        size: how many nodes messages go to.
    """

    nodes: Int[Tensor, "sources"]
    edge_index: Int[Tensor, "2 edges"]
    size: int


def neighbour_blocks(
    edge_index: Edges,
    seeds: Int[Tensor, "seeds"],
    fanouts: Sequence[int],
    count: int,
    generator: torch.Generator,
) -> list[Block]:
    """Sampled neighbourhoods, the farthest step first (GraphSAGE, Hamilton et al., 2017; DGL's blocks).

    From the seeds outwards the *last* of `fanouts` is used first; a node with more neighbours keeps so many
    random ones of them.

    Args:
        edge_index: grouped by its first row, both directions.
        seeds: different nodes.
        fanouts: most neighbours of a node at each step, the farthest first.
        count: nodes of the graph.
        generator: of the draws.
    """
    start, blocks = runs(edge_index, count), list[Block]()
    for fanout in reversed(fanouts):
        owner, source = around(edge_index, start, seeds)
        order = (owner + uniform((len(owner),), generator, torch.float64).to(seeds.device)).argsort()
        owner, source = owner[order], source[order]
        sizes = torch.bincount(owner, minlength=len(seeds))
        rank = torch.arange(len(owner), device=owner.device) - (sizes.cumsum(0) - sizes)[owner]
        owner, source = owner[rank < fanout], source[rank < fanout]
        place = torch.full((count,), -1, device=seeds.device)
        place[seeds] = torch.arange(len(seeds), device=seeds.device)
        new = source[place[source] < 0].unique()
        place[new] = torch.arange(len(seeds), len(seeds) + len(new), device=seeds.device)
        blocks.insert(0, Block(torch.cat([seeds, new]), torch.stack([place[source], owner]), len(seeds)))
        seeds = blocks[0].nodes
    return blocks


def partition(edge_index: Edges, count: int, parts: int) -> Int[Tensor, "nodes"]:
    """METIS' division into parts of about equal size with few edges between them (Karypis & Kumar, 1998).

    Args:
        edge_index: both directions.
        count: nodes.
        parts: how many parts.
    """
    metis = need("pymetis", "graph")
    plain = edge_index[:, edge_index[0] != edge_index[1]].cpu()
    plain = plain[:, (plain[0] * count + plain[1]).argsort()]  # the answer depends on the order
    found = metis.part_graph(parts, xadj=runs(plain, count).tolist(), adjncy=plain[1].tolist())
    return torch.tensor(list(found.vertex_part))


def sampled(graph: Graph, budget: int, generator: torch.Generator) -> Graph:
    """The part of a graph between the nodes of `by_degree`."""
    return subgraph(graph, by_degree(graph.edge_index, budget, graph.num_nodes, generator))


def random_pairs(
    edge_index: Edges, count: int, positives: int, negatives: int, generator: torch.Generator
) -> tuple[Edges, Bool[Tensor, "pairs"]]:
    """Some edges, and for each some pairs of its source and any node; and which of them are the edges.

    Args:
        edge_index: all edges.
        count: nodes.
        positives: how many edges (all of them where there are fewer).
        negatives: pairs an edge.
        generator: of the draws.
    """
    edges = edge_index[:, permutation(edge_index.shape[1], generator)[:positives]]
    source = edges[0].repeat_interleave(negatives)
    target = (uniform((len(source),), generator, torch.float64) * count).long()
    joined = torch.arange(edges.shape[1] + len(source), device=edges.device) < edges.shape[1]
    return torch.cat([edges, torch.stack([source, target.to(source.device)])], dim=1), joined


def hidden_nodes(count: int, share: float, generator: torch.Generator) -> Bool[Tensor, "nodes"]:
    """The nodes whose features are hidden: `share` of them, rounded down, at random."""
    hidden = torch.zeros(count, dtype=torch.bool, device=generator.device)
    hidden[permutation(count, generator)[: int(share * count)]] = True
    return hidden


def surroundings(edge_index: Edges, node: int, most: int, count: int) -> Int[Tensor, "found"]:
    """The nodes within two steps of one, or one step, or itself: the largest of these of at most `most`."""
    found = torch.tensor([node], device=edge_index.device)
    for _ in range(2):
        wider = k_hop(edge_index, found, 1, count)
        if len(wider) > most:
            break
        found = wider
    return found


def picture(
    graph: Graph, nodes: Int[Tensor, "some"], kept: Bool[Tensor, "edges"] | None = None, **marks: Tensor
):
    """A part of a graph to be drawn (`Panel(kind="graph")`), as a PyG `Data`.

    Args:
        graph: the whole.
        nodes: what is shown of it, in order.
        kept: which edges are seen; the others are drawn as `dropped`.
        marks: what is known of every node: `hidden` draws it hollow, `value` in [0, 1] colours it.
    """
    inside = torch.zeros(graph.num_nodes, dtype=torch.bool, device=nodes.device)
    inside[nodes] = True
    place, (source, target) = inside.cumsum(0) - 1, graph.edge_index
    shown = inside[source] & inside[target] & (source != target)
    kept = torch.ones_like(shown) if kept is None else kept
    return need("torch_geometric.data", "graph").Data(
        edge_index=place[graph.edge_index[:, shown & kept]],
        dropped=place[graph.edge_index[:, shown & ~kept]],
        num_nodes=len(nodes),
        **{name: values[nodes] for name, values in marks.items()},
    )
