"""Films with sound and captions: captions look for their film by sight, by sound and by both; and are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pretask.encoders import Encoder
from pretask.encoders.parts import Parts
from pretask.encoders.valor import ValorEncoder
from pretask.errors import UsageError
from pretask.evaluation.features import frozen, to_device
from pretask.evaluation.score import Score, bootstrap_interval
from pretask.objectives.fine import fine_similarity

if TYPE_CHECKING:
    from pretask.data import Dataset

KS = (1, 5, 10)
GROUPS, NAMES = ("v", "a", "va"), {"v": "video", "a": "audio"}
BATCH = 64


def reads_films(encoder: Encoder) -> ValorEncoder:
    """
    Raises:
        UsageError: it reads something else.
    """
    if not isinstance(encoder, ValorEncoder):
        raise UsageError(
            f"{type(encoder).__name__} does not compare captions with sight and sound: valor does"
        )
    return encoder


def there(dataset: Dataset) -> list[str]:
    """The groups of kinds of data that these films have besides captions.

    Raises:
        UsageError: they have no captions, or nothing else.
    """
    batch = dataset.batch([0])
    found = [group for group in GROUPS if all(NAMES[key] in batch for key in group)]
    if "tokens" not in batch or not found:
        raise UsageError(f"{dataset.name} has {', '.join(batch)}: captions, and video or audio, are needed")
    return found


def hits(
    score: Float[Tensor, "captions films"], same: Bool[Tensor, "captions films"], k: int
) -> Float[Tensor, "captions"]:
    """1 for each caption one of whose k best films has it for its own."""
    best = score.topk(min(k, score.shape[1]), dim=1).indices
    return same.gather(1, best).any(1).double()


def captions_of(dataset: Dataset, encoder: ValorEncoder) -> Int[Tensor, "films length"]:
    """All captions, filled up."""
    rows = torch.arange(len(dataset)).split(BATCH)
    return torch.cat([encoder.read(dataset.batch(some)).tokens.cpu() for some in rows])


def audiovisual(
    encoder: Encoder,
    train_set: Dataset,
    test_set: Dataset,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """Each test caption looks for its film among all, by what is seen (`t-v`), heard (`t-a`) and both (`t-va`):
    recall at 1, 5 and 10. A film with the very same caption counts as found.

    Raises:
        UsageError: the encoder or the data do not have what it takes.
    """
    model, groups = reads_films(encoder), there(test_set)
    found: dict[str, list[Parts]] = {key: [] for key in {"t", *"".join(groups)}}
    with frozen(model, device) as place:
        for rows in torch.arange(len(test_set)).split(BATCH):
            batch = to_device(test_set.batch(rows), place)
            text = model.read(batch)
            found["t"].append(model.parts("t", model.bert(text), text.attention))
            for key, read in (("v", model.frames), ("a", model.sounds)):
                if key in found:
                    found[key].append(model.parts(key, read(batch)[:, :, 0]))
        parts = {key: Parts(*map(torch.cat, zip(*own, strict=True))) for key, own in found.items()}
        compared = {group: on_cpu(model.group({key: parts[key] for key in group})) for group in groups}
    words, tokens = on_cpu(parts["t"]), captions_of(test_set, model)
    same = (tokens[:, None] == tokens[None]).all(2)
    scores = []
    for group, films in compared.items():
        score = torch.cat([
            fine_similarity(Parts(*(column[rows] for column in words)), films)
            for rows in torch.arange(len(test_set)).split(BATCH)
        ])  # fmt: skip
        for k in KS:
            items = hits(score, same, k)
            low, high = bootstrap_interval(items, seed=seed)
            detail: dict[str, object] = {"chance": min(1.0, k / len(items))}
            metric = f"t-{group} recall@{k}"
            scores.append(
                Score("audiovisual", metric, float(items.mean()), low, high, len(items), detail, items)
            )
    return scores


def on_cpu(parts: Parts) -> Parts:
    return Parts(*(column.cpu() for column in parts))


def captions(
    encoder: Encoder,
    train_set: Dataset,
    test_set: Dataset,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[Score]:
    """Captions told word by word from what is seen, heard and both: the share of the true caption's words that are
    said at their place.

    Raises:
        UsageError: the encoder or the data do not have what it takes.
    """
    model, groups = reads_films(encoder), there(test_set)
    right: dict[str, list[float]] = {group: [] for group in groups}
    with frozen(model, device) as place:
        for rows in torch.arange(len(test_set)).split(BATCH):
            batch = to_device(test_set.batch(rows), place)
            truth = [model.tokenizer.decode(row).split() for row in batch["tokens"]]
            for group in groups:
                said = model.caption(batch, group, model.max_length)
                right[group] += [
                    share(model.tokenizer.decode(row).split(), words)
                    for row, words in zip(said, truth, strict=True)
                ]
    scores = []
    for group, shares in right.items():
        items = torch.tensor(shares, dtype=torch.float64)
        interval = bootstrap_interval(items, seed=seed)
        scores.append(
            Score("captions", f"words {group}", float(items.mean()), *interval, len(items), {}, items)
        )
    return scores


def share(said: list[str], words: list[str]) -> float:
    """Of the true words, how many are said at their place."""
    return sum(a == b for a, b in zip(said, words, strict=False)) / max(len(words), 1)
