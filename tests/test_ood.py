"""Out-of-distribution scores and what they are judged by, against loops written from their formulas."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pretask.api import evaluate
from pretask.data import Dataset, open_data
from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.evaluation import ood_scores, protocols
from pretask.evaluation.detection import auroc
from pretask.evaluation.features import extract
from pretask.evaluation.finetune import fine_tuned, finetune
from pretask.evaluation.linear import fit_chosen
from pretask.evaluation.ood import head_of, one_class, ood
from pretask.evaluation.ood_distances import DISTANCES, unit
from pretask.evaluation.ood_scores import HEADLESS, MOOD, PAPER, SCORES, SINGLE, Head, Known, score_all


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def known() -> Known:
    """500 features of 10 classes around different places, off the origin; one class is never predicted."""
    labels = torch.arange(500) % 10
    features = normal(500, 24) + 2 * normal(10, 24, seed=1)[labels] + 1
    weight, bias = normal(10, 24, seed=2) / 5, normal(10, seed=3)
    bias[7] = -50
    return Known(features, labels, Head(weight, bias))


@pytest.fixture
def fresh() -> torch.Tensor:
    return 2 * normal(12, 24, seed=4) + 1


def softmax(logits: np.ndarray) -> np.ndarray:
    e = [math.exp(value - max(logits)) for value in logits]
    return np.array(e) / sum(e)


def logits_of(known: Known, z: np.ndarray) -> np.ndarray:
    w, b = known.head.weight.numpy(), known.head.bias.numpy()
    return np.array([sum(w[k, c] * z[c] for c in range(len(z))) + b[k] for k in range(len(b))])


def log_sum_exp(values: np.ndarray) -> float:
    return max(values) + math.log(sum(math.exp(value - max(values)) for value in values))


def left_over(known: Known, dropped: int) -> tuple[np.ndarray, np.ndarray]:
    """u and R of the paper, by a general eigendecomposition as the official code has it."""
    u = -np.linalg.pinv(known.head.weight.numpy()) @ known.head.bias.numpy()
    rows = known.features.numpy() - u
    covariance = sum(np.outer(row, row) for row in rows) / len(rows)
    values, vectors = np.linalg.eig(covariance)
    order = sorted(range(len(values)), key=lambda i: -values[i])
    return u, np.stack([vectors[:, i] for i in order[dropped:]], axis=1)


def gaussian_distance(unit: np.ndarray, z: np.ndarray, covariance: np.ndarray | None = None) -> float:
    mean = sum(unit) / len(unit)
    if covariance is None:
        covariance = sum(np.outer(row - mean, row - mean) for row in unit) / len(unit)
    return (z - mean) @ np.linalg.pinv(covariance) @ (z - mean)


def shrunk(unit: np.ndarray) -> np.ndarray:
    """Ledoit and Wolf's covariance (2004, lemmas 3.2 to 3.4)."""
    rows = unit - unit.mean(0)
    n, dim = rows.shape
    sample = sum(np.outer(row, row) for row in rows) / n
    size = np.trace(sample) / dim
    away = ((sample - size * np.eye(dim)) ** 2).sum() / dim
    error = sum(((np.outer(row, row) - sample) ** 2).sum() for row in rows) / n**2 / dim
    share = min(error, away) / away
    return share * size * np.eye(dim) + (1 - share) * sample


def naive_mood(name: str, unit: np.ndarray, labels: np.ndarray, z: np.ndarray) -> float:
    if name == "one-gaussian":
        return -gaussian_distance(unit, z)
    if name in ("nearest-gaussian", "mean-gaussian"):
        each = [gaussian_distance(unit[labels == k], z) for k in range(10)]
        return -min(each) if name == "nearest-gaussian" else -sum(each) / 10
    off = [abs(a - b) for a, b in zip(z, unit.mean(0), strict=True)]
    if name == "euclidean":
        return -math.sqrt(sum(value**2 for value in off))
    if name == "minkowski":
        return -sum(off)
    if name == "chebyshev":
        return -max(off)
    likeness = max(sum(a * b for a, b in zip(row, z, strict=True)) for row in unit)
    if name in ("cosine", "projection"):
        return likeness * (12 if name == "projection" else 1)  # the squared length of 12 features of length 1
    if name == "gauss":
        covariance = shrunk(unit)
        k = 1 / ((2 * math.pi) ** (len(z) / 2) * math.sqrt(np.linalg.norm(np.linalg.pinv(covariance))))
        return math.log(k * math.exp(-gaussian_distance(unit, z, covariance) / 2))
    raise AssertionError(name)


def naive(name: str, known: Known, z: np.ndarray) -> float:
    train, w = known.features.numpy(), known.head.weight.numpy()
    l = logits_of(known, z)  # noqa: E741
    p, classes = softmax(l), len(l)
    if name == "msp":
        return max(p)
    if name == "maxlogit":
        return max(l)
    if name == "energy":
        return log_sum_exp(l)
    if name == "react":
        flat = sorted(train.flatten())
        place = 0.99 * (len(flat) - 1)
        low = int(place)
        c = flat[low] + (place - low) * (flat[low + 1] - flat[low])
        return log_sum_exp(logits_of(known, np.array([min(value, c) for value in z])))
    if name in ("residual", "vim"):
        u, r = left_over(known, 12)
        norm = math.sqrt(sum(value**2 for value in (z - u) @ r))
        if name == "residual":
            return -norm
        tops = np.mean([max(logits_of(known, row)) for row in train])
        norms = np.mean([math.sqrt(sum(((row - u) @ r) ** 2)) for row in train])
        return log_sum_exp(l) - tops / norms * norm
    if name == "mahalanobis":
        labels = known.labels.numpy()
        means = [train[labels == k].mean(0) for k in range(classes)]
        centred = [row - means[k] for row, k in zip(train, labels, strict=True)]
        precision = np.linalg.pinv(sum(np.outer(row, row) for row in centred) / len(train))
        return -min((z - m) @ precision @ (z - m) for m in means)
    if name == "gradnorm":
        layer = nn.Linear(w.shape[1], classes).double()
        layer.weight.data, layer.bias.data = known.head.weight.clone(), known.head.bias.clone()
        loss = -(torch.ones(1, classes) * layer(torch.from_numpy(z)[None]).log_softmax(1)).sum(1).mean()
        loss.backward()
        return float(layer.weight.grad.abs().sum())
    if name == "kl-matching":
        answers = [softmax(logits_of(known, row)) for row in train]
        best = math.inf
        for k in range(classes):
            own = [q for q in answers if q.argmax() == k]
            q = np.mean(own, axis=0) if own else np.zeros(classes)
            terms = [a * (math.log(a / b) if b else math.inf) for a, b in zip(p, q, strict=True) if a != 0]
            best = min(best, sum(terms))
        return -best
    if name == "entropy":
        return sum(a * math.log(a) for a in p)
    if name == "kl-uniform":
        return sum(math.log2(1 / classes / a) / classes for a in p)
    if name in MOOD:
        unit = np.stack([row / (np.linalg.norm(row) + 1e-10) for row in train])
        return naive_mood(name, unit, known.labels.numpy(), z / (np.linalg.norm(z) + 1e-10))
    if name == "knn":
        unit = [row / np.linalg.norm(row) for row in train]
        return -sorted(np.linalg.norm(z / np.linalg.norm(z) - row) for row in unit)[49]
    raise AssertionError(name)


@pytest.mark.parametrize("name", [name for name in SCORES if name != "kmeans"])
def test_score_is_its_formula(name, known, fresh):
    found = SCORES[name](known)(fresh)
    expected = torch.tensor([naive(name, known, row) for row in fresh.numpy()], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_kmeans_is_the_distance_to_the_nearest_of_as_many_centres_as_classes():
    """Three bundles of directions, under labels that know nothing of them."""
    bundles = torch.eye(8, dtype=torch.float64)[:3].repeat(40, 1)
    features = (bundles + 0.05 * normal(120, 8)) * (1 + normal(120, 1, seed=1).abs())
    found = SCORES["kmeans"](Known(features, torch.arange(120) // 40))(normal(5, 8, seed=2))
    unit = features / features.norm(dim=1, keepdim=True)
    centres = [unit[bundle::3].mean(0) for bundle in range(3)]
    expected = [-min(float((z / z.norm() - c).norm()) for c in centres) for z in normal(5, 8, seed=2)]
    assert found.tolist() == pytest.approx(expected, abs=1e-8)


def test_all_scores_are_larger_for_what_is_known(known):
    near, far = known.features[:200], known.features[:200] * -3 + 40 * normal(1, 24, seed=5)
    known = known._replace(head=head_of(fit_chosen((known.features.float(), known.labels)).model))
    found = score_all(known, {"near": near, "far": far})
    assert set(found) == set(SCORES) - {"projection"}, "it cannot compare sets of unequal numbers"
    assert set(PAPER) | {"knn", "kl-uniform"} | set(MOOD) == set(SCORES) and len(PAPER) == 9
    for name in ("residual", "vim", "mahalanobis", "knn"):
        assert auroc(found[name]["near"], found[name]["far"]) > 0.95, name
    for name in set(MOOD) - {"entropy", "projection"}:
        assert auroc(found[name]["near"], found[name]["far"]) > 0.8, name


def test_features_are_shifted_by_the_origin_of_logits_not_by_their_mean(known, fresh):
    mean = Known(known.features, known.labels)
    assert (SCORES["residual"](known)(fresh) - SCORES["residual"](mean)(fresh)).abs().min() > 1e-3
    u = known.origin()
    assert known.head(u[None]).square().sum() < known.head((u + 0.1)[None]).square().sum()


@pytest.mark.parametrize(
    ("dim", "dropped"), [(24, 12), (25, 12), (768, 512), (1024, 512), (2048, 17), (4096, 17)]
)
def test_principal_directions_that_are_dropped(dim, dropped):
    assert ood_scores.principal_size(dim, 17) == dropped


def test_kl_matching_is_infinite_where_only_the_template_is_zero():
    head = Head(torch.eye(2, dtype=torch.float64) * 800, torch.zeros(2, dtype=torch.float64))
    known = Known(torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64), torch.zeros(3, dtype=torch.long), head)
    found = SCORES["kl-matching"](known)(
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
    )
    assert found[0] == 0 and found[1] == -math.inf and found[2] == -math.inf


def test_without_a_head_there_are_the_scores_that_need_none(known, fresh):
    found = score_all(Known(known.features, known.labels), {"fresh": fresh})
    assert set(found) == set(HEADLESS) - {"projection"}
    with pytest.raises(UsageError, match="head"):
        SCORES["msp"](Known(known.features, known.labels))


# ---- the protocols


def test_head_is_the_classifier_in_one_layer():
    x, y = normal(90, 7).float() * 3 + 2, torch.arange(90) % 3
    model = fit_chosen((x, y)).model
    torch.testing.assert_close(head_of(model)(x), model(x)[0], rtol=1e-4, atol=1e-4)


def test_protocol_reports_means_over_sets_and_the_range_over_scores():
    labels = torch.arange(300) % 3
    centres = 4 * normal(3, 8, seed=9).float()
    train, test = ((normal(300, 8, seed=seed).float() + centres[labels], labels) for seed in (1, 2))
    outside = {
        "far": normal(100, 8, seed=3).float() * 6,
        "same": normal(300, 8, seed=4).float() + centres[labels],
    }
    scores = {score.metric: score for score in ood(train, test, outside)}
    head = head_of(fit_chosen(train).model)

    def score_of(name: str) -> torch.Tensor:
        return score_all(Known(*train, head), {"test": test[0]})[name]["test"]

    for name in set(SCORES) - {"projection"}:
        found = scores[f"auroc {name}"]
        by_set = found.detail["by set"]
        assert found.value == pytest.approx((by_set["far"]["auroc"] + by_set["same"]["auroc"]) / 2)
        assert found.value == pytest.approx(float(found.items.mean())) and len(found.items) == 300
        assert found.low <= found.value <= found.high and found.n == 700
        assert 0.4 < by_set["same"]["auroc"] < 0.6, f"{name} tells apart what is the same"
        assert scores[f"fpr95 {name}"].value == pytest.approx(
            (by_set["far"]["fpr95"] + by_set["same"]["fpr95"]) / 2
        )
        assert "logistic regression" in found.detail["head"]
        assert 0.94 <= (score_of(name) >= found.detail["threshold"]).double().mean() <= 0.96
    nine = [scores[f"auroc {name}"].value for name in PAPER]
    assert scores["auroc mean"].value == pytest.approx(sum(nine) / 9)
    assert scores["auroc range"].value == pytest.approx(max(nine) - min(nine))
    given = Head(normal(3, 8).float(), normal(3).float())
    own = ood(train, test, outside, head=given)
    assert own[0].detail["head"] == "the one given" and own[0].value != scores["auroc msp"].value
    with pytest.raises(UsageError, match="--ood-data"):
        ood(train, test, {})


def test_one_class_judges_each_class_by_its_own_samples():
    labels = torch.tensor([2, 5, 6] * 60)  # labels need not be consecutive
    centres = torch.zeros(7, 6)
    centres[5], centres[6] = 8.0, 8.0
    train, test = ((normal(180, 6, seed=seed).float() + centres[labels], labels) for seed in (1, 2))
    scores = {score.metric: score for score in one_class(train, test)}
    assert set(scores) == {
        f"{metric} {name}" for metric in ("auroc", "fpr95") for name in SINGLE if name != "projection"
    }
    found = scores["auroc mahalanobis"]
    x, y = train
    expected = []
    for known in (2, 5, 6):
        own = x[y == known].double()
        precision = torch.linalg.pinv((own - own.mean(0)).T @ (own - own.mean(0)) / len(own))
        distance = [(z - own.mean(0)) @ precision @ (z - own.mean(0)) for z in test[0].double()]
        score = -torch.stack(distance)
        expected.append(
            np.mean([auroc(score[test[1] == known], score[test[1] == k]) for k in (2, 5, 6) if k != known])
        )
    assert list(found.detail["by class"].values()) == pytest.approx(expected, abs=1e-9)
    assert found.value == pytest.approx(np.mean(expected))
    with pytest.raises(UsageError, match="two classes"):
        one_class((x[y == 2], y[y == 2]), test)


def small_encoder(dataset: Dataset):
    return build_encoder("resnet10t:stem_width=8,channels=[8,8,16,16]", seed=0, **dataset.inputs)


def test_evaluate_takes_other_data(embedded, tmp_path):
    encoder = small_encoder(embedded)
    photos = open_data("photos", image_size=32, limit=60)
    train, test = embedded.split("train").subset(range(150)), embedded.split("test").subset(range(60))
    scores = protocols.evaluate(encoder, train, test, ["ood", "one-class"], outside=[photos])
    first = scores[0]
    assert first.protocol == "ood" and list(first.detail["by set"]) == ["photos"]
    assert first.n == 120 and {score.protocol for score in scores} == {"ood", "one-class"}


def test_other_sets_are_all_but_the_set_itself(embedded):
    found = protocols.other_sets(embedded.split("test"))
    assert {part.name for part in found} >= {"digits", "photos"}
    assert "digits-on-textures" not in {part.name for part in found}
    assert {(part.channels, part.image_size) for part in found} == {(3, 32)}


def test_a_fine_tuned_head_is_what_finetune_judges(embedded):
    encoder = small_encoder(embedded)
    train, test = embedded.subset(range(64)), embedded.subset(range(64, 96))
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    tuned = fine_tuned(encoder, train, epochs=1, seed=3)
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    x, y = extract(tuned.encoder, test)
    score = finetune(encoder, train, test, epochs=1, seed=3)[0]
    assert score.value == pytest.approx(float((tuned.head(x).argmax(1) == y).double().mean()))


def test_the_command_takes_other_data():
    reference = "random:resnet10t:stem_width=8,channels=[8,8,16,16]"
    reading = {"limit": 200}
    found = evaluate(reference, "digits-on-textures", protocols="ood", ood_data=["photos"], reading=reading)
    assert list(found[0]["detail"]["by set"]) == ["photos"] and found[0]["metric"] == "auroc msp"
    assert all(score["arm"] == reference for score in found)


def test_scores_of_a_single_known_sample_are_numbers():
    """As classes of a short training have it: no spread, whose inverse is 0."""
    known, other = unit(torch.randn(1, 6).double()), unit(torch.randn(4, 6).double())
    for name, score in DISTANCES.items():
        assert score(known, torch.zeros(1).long())(other).isfinite().all(), name
