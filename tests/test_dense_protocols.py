"""What an encoder knows of places: segmentation of pictures, positions, anomalies."""

import numpy as np
import pytest
import torch
from scipy.ndimage import label
from torch import nn

from pretask.data.dataset import Dataset, Memory
from pretask.encoders.features import Features
from pretask.errors import PretaskError, UsageError
from pretask.evaluation.anomaly import anomaly
from pretask.evaluation.detection import aupro
from pretask.evaluation.position import coordinates, position
from pretask.evaluation.segmentation import segmentation, segmentation_knn

GRID = 6


class Colours(nn.Module):
    """Tells of each of 6 x 6 places the mean colour, and nothing else."""

    def encode(self, batch):
        tokens = nn.functional.adaptive_avg_pool2d(batch["image"].float() / 255, GRID).flatten(2)
        tokens = tokens.transpose(1, 2)
        return Features(tokens.mean(1), tokens, tokens[:, :0], (GRID, GRID))


class Places(nn.Module):
    """Tells of each place where it is, bent, with noise of the picture."""

    def encode(self, batch):
        where = coordinates((GRID, GRID)).float()
        tokens = torch.cat([where, where**2], 1).expand(len(batch["image"]), -1, -1)
        noise = batch["image"].float().mean((1, 2, 3)).view(-1, 1, 1)
        return Features(
            tokens.mean(1), torch.cat([tokens, noise.expand(-1, GRID**2, 1)], 2), None, (GRID, GRID)
        )


def scenes(count: int, seed: int, kinds: int = 2) -> Dataset:
    """Dark pictures with one cell-aligned square in the colour of its class."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 40, (count, 3, 24, 24), generator=generator, dtype=torch.uint8)
    truth = torch.zeros(count, 24, 24, dtype=torch.int16)
    for n in range(count):
        kind = n % kinds + 1
        y, x = (4 * int(torch.randint(0, 5, (), generator=generator)) for _ in range(2))
        image[n, kind - 1, y : y + 8, x : x + 8] = 250
        truth[n, y : y + 8, x : x + 8] = kind
    columns = {"image": image, "segmentation": truth, "size": torch.full((count, 2), 24)}
    return Dataset(Memory(columns), "scenes", 3, 24)


@pytest.mark.parametrize("protocol", [segmentation, segmentation_knn])
def test_who_sees_colours_knows_the_squares(protocol):
    train, test = scenes(20, 0), scenes(12, 1)
    (seen,) = protocol(Colours(), train, test, places=4000)
    (blind,) = protocol(Places(), train, test, places=4000)
    assert seen.metric == "dice" and seen.value > 0.85 and seen.low <= seen.value <= seen.high
    assert blind.value < seen.value - 0.3
    assert set(seen.detail["by class"]) == {"1", "2"}


def test_segmentation_needs_masks():
    plain = Dataset(Memory({"image": torch.zeros(4, 3, 24, 24, dtype=torch.uint8)}), "plain", 3, 24)
    with pytest.raises(UsageError, match="masks beside"):
        segmentation_knn(Colours(), plain, plain)


def test_positions():
    train, test = scenes(20, 0), scenes(12, 1)
    (known,) = position(Places(), train, test)
    (unknown,) = position(Colours(), train, test)
    assert known.value == pytest.approx(1.0, abs=0.01) and abs(unknown.value) < 0.1
    assert known.detail["places"] == GRID**2 and len(known.items) == 12


def test_coordinates_are_middles_of_cells():
    assert coordinates((2, 4)).tolist() == [
        [-0.5, -0.75], [-0.5, -0.25], [-0.5, 0.25], [-0.5, 0.75],
        [0.5, -0.75], [0.5, -0.25], [0.5, 0.25], [0.5, 0.75],
    ]  # fmt: skip


def naive_aupro(heat: np.ndarray, truth: np.ndarray, limit: float) -> float:
    """The curve, threshold by threshold."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(heat.flatten().tolist()), reverse=True):
        overlaps = []
        for picture, mask in zip(heat, truth, strict=True):
            numbers, count = label(mask > 0, structure=np.ones((3, 3)))
            for region in range(1, count + 1):
                overlaps.append((picture[numbers == region] >= threshold).mean())
        points.append(((heat[truth == 0] >= threshold).mean(), np.mean(overlaps)))
    total, (x0, y0) = 0.0, points[0]
    for x, y in points[1:]:
        if x > limit:
            y = y0 + (y - y0) * (limit - x0) / (x - x0)
            return (total + (limit - x0) * (y0 + y) / 2) / limit
        total += (x - x0) * (y0 + y) / 2
        x0, y0 = x, y
    return total / limit


@pytest.mark.parametrize("levels", [8, 1000])
def test_aupro_by_thresholds(levels):
    rng = np.random.default_rng(levels)
    heat = rng.integers(0, levels, (4, 9, 9)).astype(np.float64)
    truth = np.zeros((4, 9, 9), np.int64)
    truth[0, :3, :3] = truth[0, 5:, 5:6] = truth[1, 2, 2] = truth[2, 4:, :2] = 1
    truth[1, 3, 3] = 1  # touches (2, 2) by a corner: one region
    truth[2, 0] = -1
    heat[truth > 0] += levels / 4
    found = aupro(torch.from_numpy(heat), torch.from_numpy(truth), 0.3)
    assert found == pytest.approx(naive_aupro(heat, truth, 0.3), abs=1e-9)


def test_aupro_at_its_ends():
    truth = torch.zeros(1, 4, 4, dtype=torch.long)
    truth[0, 0, 0] = 1
    assert aupro(truth.double(), truth) == pytest.approx(1.0)
    assert aupro(-truth.double(), truth) == pytest.approx(0.0)
    with pytest.raises(PretaskError, match="regions"):
        aupro(truth.double(), torch.zeros_like(truth))


def tiles(count: int, seed: int, masks: bool = True) -> Dataset:
    """Grey noise; every second picture has a green spot."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(90, 110, (count, 3, 24, 24), generator=generator, dtype=torch.uint8)
    truth = torch.full((count, 24, 24), -1, dtype=torch.int16)
    for n in range(1, count, 2):
        y, x = (int(v) for v in torch.randint(0, 18, (2,), generator=generator))
        image[n, 1, y : y + 6, x : x + 6] = 220
        truth[n] = 0
        truth[n, y : y + 6, x : x + 6] = 1
    columns = {"image": image, "size": torch.full((count, 2), 24)}
    if masks:
        columns["segmentation"] = truth
    return Dataset(Memory(columns), "tiles", 3, 24, targets=torch.arange(count) % 2, classes=["good", "spot"])


def test_spots_are_found_and_placed():
    scores = {score.metric: score for score in anomaly(Colours(), tiles(30, 0), tiles(20, 1))}
    assert scores["auroc picture"].value > 0.99 and scores["fpr95 picture"].value == 0
    assert scores["pixel auroc"].value > 0.9 and scores["aupro"].value > 0.6
    blind = {score.metric: score for score in anomaly(Places(), tiles(30, 0), tiles(20, 1))}
    assert blind["aupro"].value < scores["aupro"].value - 0.2


def test_without_masks_pictures_are_judged():
    scores = anomaly(Colours(), tiles(30, 0, masks=False), tiles(20, 1, masks=False))
    assert [score.metric for score in scores] == ["auroc picture", "fpr95 picture"]


def test_what_is_not_normal_is_not_learned_from():
    train = tiles(30, 0)
    dirty = train.samples.columns["image"]
    before = [score.value for score in anomaly(Colours(), train, tiles(20, 1))]
    dirty[1::2] = 0
    assert [score.value for score in anomaly(Colours(), train, tiles(20, 1))] == before


def test_a_class_must_be_called_normal():
    data = tiles(10, 0)
    data.classes = ["cat", "dog"]
    with pytest.raises(UsageError, match="cat, dog"):
        anomaly(Colours(), data, data)
