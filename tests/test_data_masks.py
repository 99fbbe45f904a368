"""Masks beside pictures: which file is whose, what their values mean, how they come onto the canvas."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from pretask.data import open_data
from pretask.data.formats import Broken
from pretask.data.masks import class_numbers, pair, squashed
from pretask.pretexts.views import centre_labels, centre_view


@pytest.mark.parametrize(
    ("names", "masks"),
    [
        (["a.jpg", "a_mask.png", "b.jpg"], {"a.jpg": "a_mask.png"}),
        (["images/a.jpg", "masks/a.png", "masks/z.png"], {"images/a.jpg": "masks/a.png"}),
        (["train/images/a.jpg", "train/masks/a.png"], {"train/images/a.jpg": "train/masks/a.png"}),
        (["images/train/a.jpg", "labels/train/a.png"], {"images/train/a.jpg": "labels/train/a.png"}),
        (
            ["ground_truth/cut/000_mask.png", "test/cut/000.png", "test/good/000.png", "train/good/000.png"],
            {"test/cut/000.png": "ground_truth/cut/000_mask.png"},
        ),
        (["JPEGImages/x.jpg", "SegmentationClass/x.png"], {"JPEGImages/x.jpg": "SegmentationClass/x.png"}),
        (["crack/a.jpg", "crack/a.png", "free/b.jpg"], {"crack/a.jpg": "crack/a.png"}),
        (["a.jpg", "a.png", "c.png"], {}),  # c is nobody's mask, so a.png need not be one
        (["a.jpg", "a_mask.jpg"], {}),  # lossy files hold no class numbers
        (["left_mask.png", "right_mask.png"], {}),
    ],
)
def test_whose_mask_a_file_is(names, masks):
    pictures, found = pair(names)
    assert found == masks
    assert pictures == [name for name in names if name not in masks.values()]


def test_values():
    assert class_numbers(np.array([[0, 255], [255, 0]])).tolist() == [[0, 1], [1, 0]]
    assert class_numbers(np.array([[0, 7], [255, 1]])).tolist() == [[0, 7], [-1, 1]]
    assert class_numbers(np.array([[True, False]])).tolist() == [[1, 0]]
    palette = Image.fromarray(np.array([[0, 3], [255, 1]], np.uint8)).convert("L")
    palette = Image.fromarray(np.array(palette), mode="P")
    palette.putpalette([n % 256 for n in range(768)])
    assert class_numbers(palette).tolist() == [[0, 3], [-1, 1]]
    with pytest.raises(Broken, match="colours"):
        class_numbers(Image.fromarray(np.array([[[1, 2, 3]]], np.uint8)))
    with pytest.raises(Broken, match="no class numbers"):
        class_numbers(np.array([[0.5, 1.0]]))


def test_the_nearest_pixel_by_loops():
    numbers = np.arange(35).reshape(5, 7)
    found = squashed(numbers, 4)
    for i in range(4):
        for j in range(4):
            assert found[i, j] == numbers[int((i + 0.5) * 5 / 4), int((j + 0.5) * 7 / 4)]


def encoded(array: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def scenes(folder, count: int = 6):
    """Pictures 40 wide and 24 high with a bright square that their masks tell."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(count):
        picture, mask = rng.integers(0, 60, (24, 40, 3), np.uint8), np.zeros((24, 40), np.uint8)
        top, left = rng.integers(0, 14), rng.integers(8, 20)
        picture[top : top + 10, left : left + 10], mask[top : top + 10, left : left + 10] = 230, 255
        (folder / "images" / f"{number}.png").write_bytes(encoded(picture, "PNG"))
        (folder / "masks" / f"{number}.png").write_bytes(encoded(mask, "PNG"))
    return folder


@pytest.mark.parametrize("cache", ["memory", "never"])
def test_masks_lie_on_their_pictures(tmp_path, cache):
    dataset = open_data(scenes(tmp_path), image_size=24, cache=cache)
    batch = dataset.batch(range(6))
    assert len(dataset) == 6 and dataset.facts["masks"] == "6 pictures have one"
    bright = batch["image"].float().mean(1) > 128
    assert (bright == (batch["segmentation"] == 1)).double().mean() > 0.97  # but for resampled edges
    seen = centre_view(batch["image"].float() / 255, batch["size"], 24).mean(1) > 0.5
    cut = centre_labels(batch["segmentation"], batch["size"])
    assert (seen == (cut == 1)).double().mean() > 0.95
    assert not torch.equal(cut, batch["segmentation"])


def test_centre_labels_by_loops():
    labels = torch.arange(2 * 12 * 12).view(2, 12, 12)
    size = torch.tensor([[30, 60], [50, 20]])
    found = centre_labels(labels, size)
    for n, (height, width) in enumerate(size.tolist()):
        side = min(height, width)
        for i in range(12):
            for j in range(12):
                y = ((height - side) / 2 + (i + 0.5) / 12 * side) / height
                x = ((width - side) / 2 + (j + 0.5) / 12 * side) / width
                assert found[n, i, j] == labels[n, int(y * 12), int(x * 12)]


def test_what_is_wrong_with_a_mask_is_said(tmp_path):
    folder = scenes(tmp_path)
    (folder / "masks" / "2.png").write_bytes(encoded(np.zeros((10, 10), np.uint8), "PNG"))
    (folder / "masks" / "3.png").write_bytes(b"nothing")
    (folder / "masks" / "4.png").unlink()
    dataset = open_data(folder, image_size=24, max_broken=0.5)
    reasons = {item.path: item.reason for item in dataset.skipped}
    assert "10 x 10" in reasons["images/2.png"] and "images/3.png" in reasons
    assert len(dataset) == 4
    assert (dataset.batch([2])["segmentation"] == -1).all()  # of 4 nothing is known


def test_in_an_archive(tmp_path):
    scenes(tmp_path)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted(tmp_path.glob("*/*.png")):
            archive.write(path, path.relative_to(tmp_path))
    dataset = open_data(tmp_path / "all.zip", image_size=24)
    assert len(dataset) == 6 and set(dataset.batch(range(6))["segmentation"].unique().tolist()) == {0, 1}


def test_without_masks_there_is_no_column():
    assert "segmentation" not in open_data("digits").batch([0])
