"""What scores of what is known and what is not are judged by, against loops written from the formulas."""

import math

import pytest
import torch

from pretask.errors import PretaskError
from pretask.evaluation.detection import (
    aupr,
    auroc,
    auroc_interval,
    average_precision,
    false_positives,
    mood_false_positives,
    mood_threshold,
    placements,
)
from pretask.evaluation.ood import told_apart


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scores_with_ties() -> tuple[torch.Tensor, torch.Tensor]:
    return (normal(57) * 4).round() / 2 + 0.5, (normal(83, seed=1) * 4).round() / 2


def test_auroc_counts_pairs_and_half_the_ties():
    inside, outside = scores_with_ties()
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in inside for b in outside]
    assert auroc(inside, outside) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    first, second = placements(inside, outside)
    assert float(first.mean()) == pytest.approx(float(second.mean()), abs=1e-12)
    assert auroc(inside, outside) + auroc(outside, inside) == pytest.approx(1)


@pytest.mark.parametrize("count", [19, 20, 21, 57])
def test_false_positives_at_95_percent_recall(count):
    inside, outside = scores_with_ties()
    inside = inside[:count]
    threshold = sorted(inside.tolist())[-math.floor(0.95 * count)]
    expected = sum(value >= threshold for value in outside.tolist()) / len(outside)
    assert false_positives(inside, outside) == expected
    assert (inside >= threshold).double().mean() >= math.floor(0.95 * count) / count


def test_aupr_is_the_trapezoid_under_the_curve():
    inside, outside = scores_with_ties()
    points = [(0.0, 1.0)]
    for threshold in sorted({*inside.tolist(), *outside.tolist()}, reverse=True):
        hits, false = int((inside >= threshold).sum()), int((outside >= threshold).sum())
        points.append((hits / len(inside), hits / (hits + false)))
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(points, points[1:], strict=False))
    assert aupr(inside, outside) == pytest.approx(area, abs=1e-12)
    assert aupr(torch.tensor([0.0, -math.inf]), torch.tensor([-math.inf])) > 0.5


def test_mood_judges_its_scores_as_its_code_does():
    """Distances 1 .. 20 and 19.02: the 95th percentile lies at 19.05, between two known samples."""
    inside, outside = -torch.arange(1.0, 21.0), torch.tensor([-19.02])
    assert false_positives(inside, outside) == 0 and mood_false_positives(inside, outside) == 1
    assert mood_threshold(inside) == pytest.approx(-19.05)
    found = {
        name: told_apart("ood", name, inside, {"far": outside}) for name in ("mahalanobis", "one-gaussian")
    }
    assert [found[name][1].value for name in found] == [0, 1]
    inside, outside = scores_with_ties()
    area, last = 0.0, 0
    for threshold in sorted({*inside.tolist(), *outside.tolist()}):  # what is outside is positive, below it
        hits, false = int((outside <= threshold).sum()), int((inside <= threshold).sum())
        area += (hits - last) / len(outside) * hits / (hits + false)
        last = hits
    score = told_apart("ood", "one-gaussian", inside, {"far": outside})[0]
    assert score.detail["by set"]["far"]["aupr_out"] == pytest.approx(area, abs=1e-12)


def test_only_the_order_of_scores_counts():
    inside, outside = scores_with_ties()
    whole = average_precision(inside, outside)
    assert average_precision(10 * inside.exp(), 10 * outside.exp()) == whole
    high = torch.cat([inside, outside]).max()
    inside[inside == high], outside[outside == high] = torch.inf, torch.inf
    assert average_precision(inside, outside) == whole


def test_delong_covers_the_truth():
    """The mean AUROC of N(1, 1) against N(0, 1) and N(0.5, 1) lies in 95 % of the intervals."""
    normal_cdf = torch.distributions.Normal(0, 1).cdf
    truth = float((normal_cdf(torch.tensor(1 / 2**0.5)) + normal_cdf(torch.tensor(0.5 / 2**0.5))) / 2)
    inside = 0
    for trial in range(300):
        known = normal(60, seed=3 * trial) + 1
        pairs = [
            placements(known, normal(40, seed=3 * trial + 1)),
            placements(known, normal(80, seed=3 * trial + 2) + 0.5),
        ]
        low, high = auroc_interval(pairs)
        inside += low < truth < high
    assert 272 <= inside <= 298


def test_what_is_no_number_is_refused():
    with pytest.raises(PretaskError, match="numbers"):
        placements(torch.tensor([1.0, math.nan]), torch.tensor([0.0]))
    with pytest.raises(PretaskError, match="each side"):
        placements(torch.tensor([1.0]), torch.tensor([]))
