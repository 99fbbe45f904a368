"""ParetoGNN: five pretext tasks on one graph, weighed so that none pulls against the others (Ju et al., ICLR
2023)."""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pretask.data.batch import require_graph
from pretask.encoders.decoder import xavier_linear
from pretask.encoders.graph import GraphEncoder, RemaskDecoder
from pretask.encoders.heads import Discriminator, mlp
from pretask.errors import UsageError
from pretask.objectives.balance import balance as balanced
from pretask.objectives.contrastive import nt_xent
from pretask.objectives.decorrelation import decorrelation
from pretask.objectives.distributed import gather
from pretask.objectives.reconstruction import scaled_cosine_error
from pretask.pretexts.graph import (
    Block,
    Edges,
    Graph,
    augmented,
    drop_edges,
    hidden_nodes,
    k_hop,
    neighbour_blocks,
    permutation,
    picture,
    random_pairs,
    sampled,
    subgraph,
    surroundings,
    uniform,
    with_self_loops,
)
from pretask.recipe import Recipe
from pretask.task import Batch, Losses, Panel, PretextTask, Sheet, Step

TASKS = ("link", "ming", "minsg", "decor", "recon")
"""In the order in which the encoder looks: the last leaves its statistics to evaluation (momentum 0.99)."""

HOPS, FANOUTS = 3, (15, 10, 5)
RECON_DROP, MINSG_DROP, DECOR_DROP, LINK_DROP = 0.35, 0.3, 0.2, 0.4  # of edges, columns, numbers
SHOWN, SHEET_ROWS = 30, 8  # nodes of a picture, and rows of them


class ParetoGNN(PretextTask):
    """Five tasks share an encoder; at every step the min-norm point of their normalised gradients on it says
    how much each counts.

    `recon` rebuilds hidden features, `ming` tells the graph from one with shuffled nodes, `minsg` finds a
    node again in another view, `decor` wants views alike and features independent, `link` tells edges from
    random pairs (source kept, target uniform over all nodes). Edges include self-loops throughout.

    Where the official code differs: its cross-entropies take probabilities, so that they and their gradients
    saturate where a sigmoid rounds to 0 or 1; here they take logits. It draws both ends of pairs that are no edges.
    Shares of edges and columns that are dropped are those of most of its scripts; the one for Coauthor CS has 0.5 in
    `minsg` and `decor`.

    Args:
        encoder: a graph encoder.
        tasks: which of the five are asked.
        balance: `pareto` weighs them by their gradients (section 3.2), `sum` counts them alike.
        normaliser: what gradients are divided by to find the weights: their `l2` norm, their `loss`, both
            (`loss+`), or nothing (`none`).
        mask_ratio: share of nodes whose features `recon` hides.
        temperature: divides the similarities of `minsg`.
        decor_weight: of the decorrelation in `decor`.
        positives: edges that `link` asks for at a step.
        negatives: random pairs an edge.
        predictor_dim: hidden width of the heads of `minsg` and `link`.
        minsg_multiplier: where the graph has more nodes than this times the batch, `minsg` sees only what
            lies within 3 steps of the batch's nodes; 0 always shows the whole graph.
        ming_multiplier: the same for `ming`.
        decor_size: nodes that `decor` draws of a larger graph, in proportion to their edges; 0 takes all.
        recon_size: the same for `recon`.
        saint: let `minsg` and `ming` see multiplier times batch nodes, drawn like `decor`'s, instead of what
            lies around the batch's.

    Raises:
        UsageError: an unknown task or none at all.
    """

    encoder: GraphEncoder
    recipe = Recipe(
        "adamw", lr=5e-4, lr_batch=0, batch_size=1024, epochs=500, weight_decay=1e-5, betas=(0.9, 0.999),
        warmup=0.0, schedule="constant", decay_vectors=True,
    )  # fmt: skip

    def __init__(
        self,
        encoder: GraphEncoder,
        tasks: tuple[str, ...] = ("recon", "ming", "decor", "minsg", "link"),
        balance: Literal["pareto", "sum"] = "pareto",
        normaliser: Literal["l2", "loss", "loss+", "none"] = "l2",
        mask_ratio: float = 0.5,
        temperature: float = 0.1,
        decor_weight: float = 1e-3,
        positives: int = 10,
        negatives: int = 1,
        predictor_dim: int = 512,
        minsg_multiplier: int = 5,
        ming_multiplier: int = 0,
        decor_size: int = 10_000,
        recon_size: int = 0,
        saint: bool = False,
    ):
        super().__init__(encoder)
        unknown = [name for name in tasks if name not in TASKS]
        if unknown or not tasks:
            raise UsageError(f"tasks: {', '.join(unknown) or 'none'}; there are {', '.join(TASKS)}")
        self.tasks = tuple(name for name in TASKS if name in tasks)
        self.balance, self.normaliser = balance, normaliser
        self.mask_ratio, self.temperature, self.decor_weight = mask_ratio, temperature, decor_weight
        self.positives, self.negatives, self.saint = positives, negatives, saint
        self.minsg_multiplier, self.ming_multiplier = minsg_multiplier, ming_multiplier
        self.decor_size, self.recon_size = decor_size, recon_size
        dim = encoder.dim
        if "link" in tasks:
            self.link_hidden, self.link_out = nn.Linear(dim, predictor_dim), nn.Linear(predictor_dim, 1)
        if "ming" in tasks:
            self.discriminator = Discriminator(dim)
        if "minsg" in tasks:
            self.projector = mlp(dim, predictor_dim, dim)
        if "recon" in tasks:
            self.decoder = RemaskDecoder(dim, encoder.in_dim)
            self.mask_token = nn.Parameter(torch.zeros(1, encoder.in_dim))
        for name, head in self.named_children():
            if name != "encoder":
                head.apply(xavier_linear)

    def loss(self, batch: Batch, step: Step) -> Losses:
        terms = self.terms(batch, step)
        if self.balance == "sum" or len(self.tasks) == 1 or not torch.is_grad_enabled():
            return dict(terms)
        heads = [p for name, p in self.named_parameters() if not name.startswith("encoder.")]
        losses, weights = balanced(terms, self.encoder.parameters(), heads, self.normaliser)
        step.metrics |= {f"weight of {name}": torch.tensor(weight) for name, weight in weights.items()}
        return losses

    def terms(self, batch: Batch, step: Step) -> Iterator[tuple[str, Tensor]]:
        """Each task's name and loss, one after the other: a sample is drawn, then asked for."""
        graph, generator = with_self_loops(require_graph(batch)), step.generator
        seeds = gather(batch["node"]) if "node" in batch else torch.arange(graph.num_nodes)
        for name in self.tasks:
            if name == "link":
                yield name, self.link(graph.x, *self.draw_link(graph, generator))
            elif name == "ming":
                part = self.part(graph, seeds, self.ming_multiplier, generator)
                yield name, self.ming(part, permutation(part.num_nodes, generator))
            elif name == "minsg":
                part = self.part(graph, seeds, self.minsg_multiplier, generator)
                yield name, self.minsg(*two_views(part, MINSG_DROP, generator))
            elif name == "decor":
                part = cut(graph, self.decor_size, generator)
                yield name, self.decor(*two_views(part, DECOR_DROP, generator))
            else:
                part = cut(graph, self.recon_size, generator)
                yield name, self.recon(*self.draw_recon(part, generator))

    def part(
        self, graph: Graph, seeds: Int[Tensor, "seeds"], multiplier: int, generator: torch.Generator
    ) -> Graph:
        """What `ming` and `minsg` see."""
        if multiplier and self.saint:
            return sampled(graph, multiplier * len(seeds), generator)
        if multiplier and graph.num_nodes > multiplier * len(seeds):
            return subgraph(graph, k_hop(graph.edge_index, seeds, HOPS, graph.num_nodes))
        return graph

    def draw_recon(self, graph: Graph, generator: torch.Generator) -> tuple[Graph, Bool[Tensor, "nodes"]]:
        """The graph without some edges, and whose features are hidden."""
        noise = uniform((graph.edge_index.shape[1],), generator)
        edges = drop_edges(graph.edge_index, noise, RECON_DROP)
        return Graph(graph.x, edges), hidden_nodes(graph.num_nodes, self.mask_ratio, generator)

    def recon(self, graph: Graph, hidden: Bool[Tensor, "nodes"]) -> Float[Tensor, ""]:
        """GraphMAE: scaled cosine error of hidden features."""
        return scaled_cosine_error(self.rebuild(graph, hidden)[hidden], graph.x[hidden])

    def rebuild(self, graph: Graph, hidden: Bool[Tensor, "nodes"]) -> Float[Tensor, "nodes dim"]:
        seen = torch.where(hidden.unsqueeze(1), self.mask_token.to(graph.x.dtype), graph.x)
        encoded = self.encoder.nodes(Graph(seen, graph.edge_index))
        return self.decoder(encoded, graph.edge_index, hidden)

    def ming(self, graph: Graph, order: Int[Tensor, "nodes"]) -> Float[Tensor, ""]:
        """Deep Graph Infomax: which vectors fit the graph's summary, which come of shuffled features?"""
        real = self.encoder.nodes(graph)
        fake = self.encoder.nodes(Graph(graph.x[order], graph.edge_index))
        summary = real.mean(0).sigmoid()
        fits, misfits = self.discriminator(real, summary), self.discriminator(fake, summary)
        return bce(fits, torch.ones_like(fits)) + bce(misfits, torch.zeros_like(misfits))

    def minsg(self, one: Graph, other: Graph) -> Float[Tensor, ""]:
        """GRACE: which node of the other view is it? All processes hold the same graph: none are gathered."""
        first, second = (self.projector(self.encoder.nodes(view)) for view in (one, other))
        return nt_xent(first, second, self.temperature, across=False)

    def decor(self, one: Graph, other: Graph) -> Float[Tensor, ""]:
        """CCA-SSG: views alike, features independent; there is no head."""
        return decorrelation(self.encoder.nodes(one), self.encoder.nodes(other), self.decor_weight)

    def draw_link(
        self, graph: Graph, generator: torch.Generator
    ) -> tuple[list[Block], Bool[Tensor, "sources dim"], Edges, Bool[Tensor, "pairs"]]:
        """Sampled neighbourhoods of some pairs, which of their features stay, the pairs, which are edges."""
        count = graph.num_nodes
        both, joined = random_pairs(graph.edge_index, count, self.positives, self.negatives, generator)
        seeds, pairs = both.unique(return_inverse=True)
        fanouts = (FANOUTS[0],) * (self.encoder.depth - len(FANOUTS)) + FANOUTS
        blocks = neighbour_blocks(graph.edge_index, seeds, fanouts, count, generator)
        kept = uniform((len(blocks[0].nodes), graph.x.shape[1]), generator) >= LINK_DROP
        return blocks, kept, pairs, joined

    def link(
        self,
        x: Float[Tensor, "nodes dim"],
        blocks: list[Block],
        kept: Bool[Tensor, "sources dim"],
        pairs: Edges,
        joined: Bool[Tensor, "pairs"],
    ) -> Float[Tensor, ""]:
        """Are two nodes joined? Edges that are asked for stay among those that messages take."""
        seen = x[blocks[0].nodes] * kept / (1 - LINK_DROP)
        found = self.link_hidden(F.normalize(self.encoder.blocks(seen, blocks), dim=1)).relu()
        logits = self.link_out(found[pairs[0]] * found[pairs[1]]).squeeze(1)
        return bce(logits, joined)

    def chance(self, batch_size: int) -> dict[str, float]:
        """Edges and summaries by the toss of a coin; rebuilt features at right angles to the real ones."""
        rest = {"link": log(2), "ming": 2 * log(2), "recon": 1.0}
        return {name: rest[name] for name in self.tasks if name in rest}

    def preview(self, batch: Batch, step: Step) -> Sheet:
        """What lies around some nodes, and what `recon` hides of it."""
        graph = with_self_loops(require_graph(batch))
        nodes = batch["node"] if "node" in batch else torch.arange(graph.num_nodes)
        kept = uniform((graph.edge_index.shape[1],), step.generator) >= RECON_DROP
        hidden, rows = hidden_nodes(graph.num_nodes, self.mask_ratio, step.generator), []
        alike = None
        if "recon" in self.tasks:
            rebuilt = self.rebuild(Graph(graph.x, graph.edge_index[:, kept]), hidden)
            cosine = F.cosine_similarity(rebuilt.float(), graph.x)
            alike = torch.where(hidden, cosine.clamp(min=0), 1.0)
        for node in nodes[:SHEET_ROWS].tolist():
            around = surroundings(graph.edge_index, node, SHOWN, graph.num_nodes)
            seen = picture(graph, around, kept, hidden=hidden)
            panels = [
                Panel("dashed: dropped; hollow: hidden features", seen, "input", "graph"),
                Panel("a node and those around it", picture(graph, around), "truth", "graph"),
            ]
            if alike is not None:
                found = picture(graph, around, kept, value=alike)
                panels.append(Panel("rebuilt: the lighter, the more alike", found, "answer", "graph"))
            rows.append(panels)
        return Sheet("ParetoGNN", "Which features have the hidden nodes? (one of five questions)", rows)


def bce(logits: Float[Tensor, "items"], truth: Tensor) -> Float[Tensor, ""]:
    return F.binary_cross_entropy_with_logits(logits.float(), truth.float())


def two_views(graph: Graph, share: float, generator: torch.Generator) -> list[Graph]:
    return [augmented(graph, share, share, generator) for _ in range(2)]


def cut(graph: Graph, size: int, generator: torch.Generator) -> Graph:
    """A graph of more nodes than `size` (0 for no limit) cut down to a sample of them."""
    return sampled(graph, size, generator) if 0 < size < graph.num_nodes else graph
