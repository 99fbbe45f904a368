"""Judging features: nearest neighbours, the linear probe and the extraction itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.harness import Row, against, alternate, find, same
from pretask import build_encoder, open_data
from pretask.evaluation.features import extract
from pretask.evaluation.knn import knn
from pretask.evaluation.linear import PENALTIES, Scale, fit_chosen
from pretask.evaluation.splits import stratified

K, TEMPERATURE = 200, 0.1
Answers = Callable[[], Tensor]


def features(count: int, dim: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Overlapping clouds, one a class, in a space most of whose directions say nothing."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=g)
    return centres[y] * 0.15 + torch.randn(count, dim, generator=g) * torch.linspace(0.2, 4, dim), y


def accuracy(answers: Tensor, truth: Tensor) -> float:
    return float((answers == truth).double().mean())


def neighbours(toy: bool, rounds: int) -> Row:
    (x, y), (query, truth) = (
        features(n, 16 if toy else 384, 20, seed)
        for n, seed in ((400 if toy else 50_000, 1), (100 if toy else 2000, 2))
    )
    k = 20 if toy else K

    def ours() -> float:
        return knn((x, y), (query, truth), ks=(k,), k=k, temperature=TEMPERATURE)[0].value

    def lightly() -> Callable[[], float]:
        from lightly.utils.benchmarking import knn_predict

        def run() -> float:
            bank = F.normalize(x, dim=1).T.contiguous()
            answers = [
                knn_predict(F.normalize(part, dim=1), bank, y, 20, k, TEMPERATURE)[:, 0]
                for part in query.split(256)
            ]
            return accuracy(torch.cat(answers), truth)

        return run

    def sklearn() -> Callable[[], float]:
        import numpy as np
        from sklearn.neighbors import KNeighborsClassifier

        def run() -> float:
            model = KNeighborsClassifier(
                k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / TEMPERATURE)
            ).fit(x.numpy(), y.numpy())
            return accuracy(torch.from_numpy(model.predict(query.numpy())), truth)

        return run

    found, missing = find({"lightly": lightly, "scikit-learn": sklearn})
    agreed = same(ours(), {name: run() for name, run in found.items()}, 2e-3)
    taken = alternate({"ours": ours, **found}, rounds, 0.0, 0)
    note = "; ".join(filter(None, (f"accuracy: {agreed}", "ours with a confidence interval", missing)))
    return against(f"kNN, {len(query)} queries to {len(x)} x {x.shape[1]}, k = {k}", taken, {}, 0.5, note)


def probe(toy: bool) -> Row:
    """The penalty is chosen among eight on a fifth of the items, then all are fitted, by either in one run."""
    (x, y), (other, truth) = (
        features(count, 16 if toy else 384, 20, seed)
        for seed, count in enumerate((400, 100) if toy else (50_000, 5000))
    )
    kept, held = stratified(y, 0.2, 0)
    right: dict[str, float] = {}

    def ours() -> None:
        model = fit_chosen((x, y)).model
        right["ours"] = accuracy(model(other)[0].argmax(1), truth)

    def sklearn() -> Callable[[], None]:
        from sklearn.linear_model import LogisticRegression

        def fit(rows: Tensor, penalty: float) -> Any:
            model = LogisticRegression(C=1 / (penalty * len(rows)), max_iter=200)
            return model.fit(Scale.of(x[rows])(x[rows]).numpy(), y[rows].numpy())

        def run() -> None:
            scale = Scale.of(x[kept])
            judged = [fit(kept, p).score(scale(x[held]).numpy(), y[held].numpy()) for p in PENALTIES]
            model = fit(torch.arange(len(x)), PENALTIES[judged.index(max(judged))])
            right["scikit-learn"] = float(model.score(Scale.of(x)(other).numpy(), truth.numpy()))

        return run

    found, missing = find({"scikit-learn": sklearn})
    taken = alternate({"ours": ours, **found}, 1, 0.0, 0)
    agreed = same(right.pop("ours"), right, 1e-2)
    note = "; ".join(filter(None, (f"accuracy: {agreed}", missing)))
    name = f"linear probe, {len(x)} x {x.shape[1]}, 20 classes, 8 penalties"
    return against(name, taken, {}, 0.5, note)


def extraction(toy: bool, rounds: int) -> Row:
    side, count = (32, 4) if toy else (224, 32)
    image = torch.randint(
        256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    data = open_data(image, image_size=side)
    encoder = build_encoder("vit_tiny_patch16_224", image_size=side, seed=0)
    model = encoder.model.eval()
    ready = encoder.normalise(image.float() / 255)

    def plain() -> Tensor:
        with torch.inference_mode():
            return model(ready)

    def ours() -> Tensor:
        return extract(encoder, data, batch_size=count)[0]

    agreed = same(float(ours().norm()), {"timm": float(plain().norm())}, 1e-4)
    taken = alternate({"ours": ours, "timm, pictures that are ready": plain}, rounds, 0.0 if toy else 1.0, 1)
    return against(f"features of {count} pictures, ViT-Ti/16, {side} px", taken, {}, 1.05, f"norm: {agreed}")


def measure(toy: bool = False) -> list[Row]:
    rounds = 1 if toy else 3
    return [neighbours(toy, rounds), probe(toy), extraction(toy, 1 if toy else 5)]
