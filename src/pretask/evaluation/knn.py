"""Weighted nearest neighbours on frozen features, and retrieval with them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretask.evaluation.score import Known, Score, accuracy_score, bootstrap_interval

KS = (10, 20, 100, 200)
TEMPERATURE = 0.07
MEMORY = 256 * 2**20  # bytes a chunk of similarities may take


def neighbours(
    query: Float[Tensor, "queries dim"], bank: Float[Tensor, "items dim"], k: int, memory: int = MEMORY
) -> tuple[Float[Tensor, "queries k"], Int[Tensor, "queries k"]]:
    """Cosine similarity to and row of the k nearest of `bank`, nearest first, in chunks that fit `memory`."""
    query, bank = F.normalize(query.float(), dim=1), F.normalize(bank.float(), dim=1)
    rows = max(1, memory // (4 * len(bank)))
    found = [(chunk @ bank.T).topk(k, dim=1) for chunk in query.split(rows)]
    return torch.cat([top.values for top in found]), torch.cat([top.indices for top in found])


def vote(
    similarity: Float[Tensor, "queries k"],
    labels: Int[Tensor, "queries k"],
    classes: int,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, "queries classes"]:
    """Every neighbour votes for its class with weight exp(similarity / temperature)."""
    votes = similarity.new_zeros(len(similarity), classes)
    return votes.scatter_add_(1, labels, (similarity / temperature).exp())


def knn(
    train: Known,
    test: Known,
    *,
    ks: tuple[int, ...] = KS,
    k: int = 20,
    temperature: float = TEMPERATURE,
    memory: int = MEMORY,
    seed: int = 0,
) -> list[Score]:
    """Weighted k-nearest-neighbour classification (Wu et al., CVPR 2018, as in DINO's evaluation).

    Features are L2-normalised; the k training items of highest cosine vote with exp(cosine / 0.07).

    Args:
        train: features and labels that vote.
        test: features and labels that are judged.
        ks: neighbourhoods that are tried, each cut to the number of training items; all are in `detail`.
        k: the one that is the score. It is fixed beforehand: the best of several on the test items
            would flatter.
        temperature: of the votes.
        memory: bytes a chunk of similarities may take.
        seed: of the bootstrap.
    """
    (x, y), (x_test, y_test) = train, test
    classes = int(y.max()) + 1
    similarity, rows = neighbours(x_test, x, min(max(*ks, k), len(x)), memory)
    labels = y.to(rows.device)[rows]
    answers = {
        size: vote(similarity[:, :size], labels[:, :size], classes, temperature).argmax(1)
        for size in dict.fromkeys(min(size, len(x)) for size in (*ks, k))
    }
    by_k = {str(size): float(answer.eq(y_test).double().mean()) for size, answer in answers.items()}
    k = min(k, len(x))
    return [accuracy_score("knn", "accuracy", answers[k], y_test, seed, k=k, by_k=by_k)]


def retrieval(
    train: Known, test: Known, *, ks: tuple[int, ...] = (1, 5, 10), memory: int = MEMORY, seed: int = 0
) -> list[Score]:
    """Test items look for training items of their class by cosine similarity.

    `recall@k` is the share of queries with a hit among the k nearest; `mAP` is the mean over queries of
    the average precision of the whole ranking. Queries whose class the training items lack count as 0.

    Args:
        train: the gallery.
        test: the queries.
        ks: depths of recall.
        memory: bytes a chunk of similarities may take.
        seed: of the bootstrap.
    """
    (bank, y), (query, truth) = train, test
    bank, query = F.normalize(bank.float(), dim=1), F.normalize(query.float(), dim=1)
    rows = max(1, memory // (24 * len(bank)))  # similarities, ranking, hits and their running sums
    precision, first = [], []
    rank = torch.arange(1, len(bank) + 1)
    for chunk, label in zip(query.split(rows), truth.split(rows), strict=True):
        order = (chunk @ bank.T).argsort(dim=1, descending=True)
        hit = (y[order] == label[:, None]).double()
        relevant = hit.sum(1)
        precision.append((hit.cumsum(1) / rank * hit).sum(1) / relevant.clamp(min=1))
        first.append(torch.where(relevant > 0, hit.argmax(1), len(bank)))
    measures = {f"recall@{k}": (torch.cat(first) < k).double() for k in ks if k <= len(bank)}
    measures["mAP"] = torch.cat(precision)
    return [
        Score(
            "retrieval",
            name,
            float(items.mean()),
            *bootstrap_interval(items, seed=seed),
            len(items),
            {},
            items,
        )
        for name, items in measures.items()
    ]
