"""What an encoder's vectors of a graph's nodes are good for: classes, clusters, links, partition (ParetoGNN's
four downstream tasks, Ju et al., ICLR 2023, section 4)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pretask.data.links import non_links, split_links
from pretask.errors import UsageError
from pretask.evaluation.features import extract
from pretask.evaluation.score import Score, bootstrap_interval, seed_interval
from pretask.pretexts.graph import partition as metis

if TYPE_CHECKING:
    from pretask.data import Dataset

CS = tuple(2.0**power for power in range(-10, 11))  # scikit-learn's C, the inverse of the penalty
LINK_BATCH = 10_240


def whole_graph(dataset: Dataset) -> Any:
    """The graph whose nodes the samples are.

    Raises:
        UsageError: the samples are something else.
    """
    if dataset.modality != "graph" or not dataset.connected:
        raise UsageError(f"this protocol asks about the nodes of one graph; {dataset.name} is none")
    return dataset.samples.graph  # type: ignore[attr-defined]


def node_vectors(
    encoder: nn.Module, dataset: Dataset, device: torch.device | str | None, graph: Any = None
) -> Float[Tensor, "nodes dim"]:
    """Vectors of length 1 of all nodes, whatever their split; of another graph between them if one is
    given."""
    samples = dataset.samples if graph is None else replace(dataset.samples, graph=graph)  # type: ignore[type-var]
    everything = replace(dataset, samples=samples, rows=torch.arange(len(samples)), targets=None, parts=None)
    return F.normalize(extract(encoder, everything, device=device)[0], dim=1)


def node_classes(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    repeats: int = 10,
    cs: tuple[float, ...] = CS,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """Logistic regression, a fifth of the nodes against the rest, drawn anew `repeats` times.

    The data's own splits are not looked at: every labelled node takes part.

    Args:
        encoder: what is judged.
        train_set: nodes of the graph.
        test_set: others.
        repeats: divisions of the nodes.
        cs: scikit-learn's C to choose from.
        seed: of the divisions.
        device: where the encoder runs.
    """
    whole_graph(train_set)
    labels = train_set.targets
    assert labels is not None  # the protocol needs labels
    known = (labels >= 0).nonzero().flatten()
    x = node_vectors(encoder, train_set, device)[known]
    return [divided("nodes", x, labels[known], repeats, cs, seed)]


def partition(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    parts: int = 10,
    repeats: int = 10,
    cs: tuple[float, ...] = CS,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """In which of METIS' parts does a node lie? Judged like `node_classes`.

    Args:
        encoder: what is judged.
        train_set: nodes of the graph.
        test_set: others.
        parts: how many parts.
        repeats: divisions of the nodes.
        cs: scikit-learn's C to choose from.
        seed: of the divisions.
        device: where the encoder runs.
    """
    graph = whole_graph(train_set)
    labels = metis(graph.edge_index, graph.num_nodes, parts)
    return [divided("partition", node_vectors(encoder, train_set, device), labels, repeats, cs, seed)]


def divided(
    protocol: str,
    x: Float[Tensor, "nodes dim"],
    y: Int[Tensor, "nodes"],
    repeats: int,
    cs: tuple[float, ...],
    seed: int,
) -> Score:
    """One-vs-rest logistic regression on 20 % of the nodes, its penalty chosen by five shuffled halves of
    these; every node's share of right answers among the times it was judged."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, ShuffleSplit, train_test_split
    from sklearn.multiclass import OneVsRestClassifier

    features, labels = x.numpy(), y.numpy()
    right, times, values, chosen = np.zeros(len(y)), np.zeros(len(y)), [], []
    for repeat in range(seed, seed + repeats):
        train, test = train_test_split(np.arange(len(y)), test_size=0.8, random_state=repeat)
        search = GridSearchCV(
            OneVsRestClassifier(LogisticRegression(solver="liblinear", max_iter=10_000)),
            {"estimator__C": cs},
            cv=ShuffleSplit(5, test_size=0.5, random_state=repeat),
        )
        hits = search.fit(features[train], labels[train]).predict(features[test]) == labels[test]
        right[test] += hits
        times[test] += 1
        values.append(float(hits.mean()))
        chosen.append(search.best_params_["estimator__C"])
    judged = times > 0
    items = torch.from_numpy(right[judged] / times[judged])
    ends = seed_interval(values) if repeats > 1 else bootstrap_interval(items, seed=seed)
    most = float(np.bincount(labels).max() / len(labels))
    detail = {"values": values, "C": chosen, "chance": most}
    return Score(protocol, "accuracy", float(np.mean(values)), *ends, len(items), detail, items)


def node_clusters(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    repeats: int = 5,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """k-means with as many clusters as classes; how much the two say of each other (NMI, the V-measure).

    Args:
        encoder: what is judged.
        train_set: nodes of the graph.
        test_set: others.
        repeats: starts of k-means, each the best of ten.
        seed: of the starts.
        device: where the encoder runs.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import v_measure_score

    whole_graph(train_set)
    assert train_set.targets is not None  # the protocol needs labels
    labels = train_set.targets.numpy()
    known = labels >= 0
    x = node_vectors(encoder, train_set, device).numpy()[known]
    count, values = int(labels.max()) + 1, []
    for repeat in range(seed, seed + repeats):
        found = KMeans(count, n_init=10, random_state=repeat).fit_predict(x)
        values.append(float(v_measure_score(labels[known], found)))
    interval = seed_interval(values)
    return [Score("clusters", "NMI", float(np.mean(values)), *interval, len(x), {"values": values})]


def links(
    encoder: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    *,
    repeats: int = 5,
    epochs: int = 200,
    patience: int = 50,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """Are two nodes joined? A linear layer on the product of their vectors; area under the ROC curve.

    The encoder sees the graph without a tenth and a fifth of its edges, which validate and test. Only data
    read with `hide_links` keep these from pretraining, too: `detail` says whether that was so.

    Args:
        encoder: what is judged.
        train_set: nodes of the graph.
        test_set: others.
        repeats: trainings of the layer.
        epochs: passes over the edges at most.
        patience: epochs without a better area on the validation edges.
        seed: of the layer, and of which pairs are no edges.
        device: where the encoder runs.
    """
    graph = whole_graph(train_set)
    hidden = hasattr(graph, "test_link")
    if hidden:
        rest, val, test = graph.edge_index, graph.val_link, graph.test_link
    else:
        rest, val, test = split_links(graph.edge_index, graph.num_nodes)
    seen = type(graph)(x=graph.x, edge_index=rest)
    x = node_vectors(encoder, train_set, device, seen)
    train = rest[:, rest[0] < rest[1]]
    counts = [val.shape[1], test.shape[1], train.shape[1]]
    none = non_links(torch.cat([rest, val, test], dim=1), graph.num_nodes, sum(counts))
    if min(counts) == 0 or none.shape[1] < sum(counts):
        return []  # too few edges to hold any out, or too many to find pairs that are none
    no_val, no_test, no_train = none.split(counts, dim=1)
    pairs = (train, no_train), (val, no_val), (test, no_test)
    found = [fit_links(x, *pairs, epochs, patience, repeat) for repeat in range(seed, seed + repeats)]
    items = torch.stack(found).mean(0)
    interval = bootstrap_interval(items, seed=seed)
    detail = {"values": [float(one.mean()) for one in found], "hidden in pretraining": hidden}
    return [Score("links", "AUC", float(items.mean()), *interval, len(items), detail, items)]


Pairs = tuple[Int[Tensor, "2 joined"], Int[Tensor, "2 apart"]]


@torch.enable_grad()
def fit_links(
    x: Float[Tensor, "nodes dim"],
    train: Pairs,
    val: Pairs,
    test: Pairs,
    epochs: int,
    patience: int,
    seed: int,
) -> Float[Tensor, "joined"]:
    """For each edge of `test` the share of pairs that a linear layer ranks below it, when it does best on
    `val`. Pairs that are no edges come in the same order every epoch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(x.shape[1], 1)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.01, weight_decay=0.01)
    count, size = train[0].shape[1], min(LINK_BATCH, train[0].shape[1])
    apart = train[1][:, torch.randperm(count, generator=generator)]
    truth = (torch.arange(2 * size) < size).float()
    best, waited, kept = -1.0, 0, torch.empty(0)
    for _ in range(epochs):
        joined = train[0][:, torch.randperm(count, generator=generator)]
        for start in range(0, count - size + 1, size):
            part = (joined[:, start : start + size], apart[:, start : start + size])
            logits = layer(products(x, torch.cat(part, dim=1))).squeeze(1)
            optimiser.zero_grad()
            F.binary_cross_entropy_with_logits(logits, truth).backward()
            optimiser.step()
        area = float(ranked(layer, x, val).mean())
        waited = 0 if area >= best else waited + 1
        if waited == 0:
            best, kept = area, ranked(layer, x, test)
        elif waited >= patience:
            break
    return kept


def products(x: Float[Tensor, "nodes dim"], pairs: Int[Tensor, "2 pairs"]) -> Float[Tensor, "pairs dim"]:
    return x[pairs[0]] * x[pairs[1]]


@torch.no_grad()
def ranked(layer: nn.Linear, x: Float[Tensor, "nodes dim"], pairs: Pairs) -> Float[Tensor, "joined"]:
    """For each edge the share of other pairs with a lower logit, equal ones half; their mean is the area
    under the ROC curve."""
    joined, apart = (layer(products(x, part)).squeeze(1) for part in pairs)
    order = apart.sort().values
    below = torch.searchsorted(order, joined) + torch.searchsorted(order, joined, right=True)
    return below.double() / (2 * len(order))
