"""One `open_data` for whatever a person has."""

import csv
import json
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import break_some, everything, photo
from pretask.data import decode as decode_module
from pretask.data import open_data
from pretask.data.images import default_side
from pretask.errors import DataError, PretaskError, UsageError


def test_a_flat_folder_of_photographs(photo_folder):
    root = photo_folder(10)
    dataset = open_data(root, image_size=32)
    batch = everything(dataset)
    assert set(batch) == {"image", "size", "index"} and dataset.labels is None and dataset.classes is None
    assert batch["image"].shape == (10, 3, 40, 40) and batch["image"].dtype == torch.uint8
    sizes = [Image.open(path).size[::-1] for path in sorted(root.iterdir())]
    assert batch["size"].tolist() == [list(size) for size in sizes]
    assert batch["index"].tolist() == list(range(10))
    reference = Image.open(root / "3.jpg").resize((40, 40), Image.Resampling.BICUBIC)
    assert (
        np.abs(batch["image"][3].int() - torch.from_numpy(np.array(reference)).permute(2, 0, 1))
        .float()
        .mean()
        < 2
    )


def test_class_folders_and_splits(photo_folder):
    dataset = open_data(photo_folder(3, ("cat", "dog"), ("train", "val", "test")))
    assert len(dataset) == 18 and dataset.classes == ["cat", "dog"]
    for name in ("train", "val", "test"):
        part = dataset.split(name)
        assert len(part) == 6 and part.labels.tolist() == [0] * 3 + [1] * 3
        assert part.batch([5])["label"].item() == 1 and part.split("train") is None
    assert dataset.split("other") is None
    only = open_data(photo_folder(3, ("cat", "dog"), ("train", "test")), split="test")
    assert len(only) == 6 and len(only.samples) == 6  # the others were not even decoded
    with pytest.raises(UsageError, match="no split 'val'; it has train, test"):
        open_data(photo_folder(3, ("cat", "dog"), ("train", "test")), split="val")


def test_broken_files_are_skipped_counted_and_named(photo_folder):
    root = photo_folder(20, broken=True)
    dataset = open_data(root)
    assert len(dataset) == 20 and {item.path for item in dataset.skipped} == {
        "bomb.png", "empty.jpg", "text.jpg", "truncated.jpg",
    }  # fmt: skip
    said = dataset.describe()
    assert said["broken"] == 4 and json.dumps(said)
    assert said["sizes (height x width)"]["smallest"] != "1 x 1", "broken ones have no size"
    assert "empty.jpg: empty file" in said["broken files"]
    assert (everything(dataset)["image"].flatten(1).float().std(1) > 1).all()


def test_too_many_broken_files_stop_with_an_explanation(photo_folder):
    root = photo_folder(8, broken=True)
    with pytest.raises(
        DataError, match=r"4 of 12 files cannot be used .bomb.png: absurdly large.*max_broken"
    ):
        open_data(root)
    assert len(open_data(root, max_broken=0.5)) == 8


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.docx").write_text("x")
    with pytest.raises(
        DataError, match=r"holds no pictures \(found: 1 .docx; looked for: .*\.jpg.*class folders"
    ):
        open_data(tmp_path)
    with pytest.raises(DataError, match="no files at all"):
        open_data(tmp_path / "nothing" if (tmp_path / "nothing").mkdir() else tmp_path / "nothing")
    with pytest.raises(DataError, match="there is no"):
        open_data(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="type '.docx'"):
        open_data(tmp_path / "notes.docx")


def test_not_in_memory_gives_the_same_samples(photo_folder):
    root = photo_folder(6, ("a", "b"), broken=True)
    held, lazy = open_data(root, max_broken=0.5), open_data(root, max_broken=0.5, cache="never", workers=0)
    assert held.in_memory and not lazy.in_memory and len(held) == len(lazy) == 12
    one, other = everything(held), everything(lazy)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert held.skipped == lazy.skipped


def test_memory_is_used_only_as_far_as_it_goes(photo_folder, monkeypatch):
    root = photo_folder(8)
    monkeypatch.setattr("pretask.data.images.memory_budget", lambda: 1000)
    dataset = open_data(root)
    assert not dataset.in_memory and "would be too much to keep" in dataset.describe()["memory"]
    assert open_data(root, cache="memory").in_memory
    assert decode_module.memory_budget() > 1 << 20
    alone = decode_module.memory_budget()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert decode_module.memory_budget() < alone / 4


def test_a_file_that_breaks_during_a_run_gives_way_to_another(photo_folder):
    root = photo_folder(10)
    dataset = open_data(root, cache="never", workers=0)
    before = everything(dataset)["image"]
    (root / "4.jpg").write_bytes(b"")
    batch = dataset.batch([3, 4, 5, 4])
    stand_in = batch["index"][1].item()
    assert batch["index"].tolist() == [3, stand_in, 5, stand_in] and stand_in != 4
    assert torch.equal(batch["image"], before[batch["index"]])
    assert [tuple(item) for item in dataset.skipped] == [("4.jpg", "empty file")]
    assert torch.equal(dataset.batch([4])["index"], batch["index"][1:2])  # always the same, recorded once
    assert len(dataset.skipped) == 1
    for number in (0, 1, 2):
        (root / f"{number}.jpg").unlink()
    with pytest.raises(DataError, match="max_broken"):
        everything(dataset)


def test_a_split_is_not_repaired_with_another_split(photo_folder):
    root = photo_folder(4, splits=("train", "test"))
    dataset = open_data(root, cache="never", workers=0, max_broken=0.9)
    test = dataset.split("test")
    (root / "test" / "0.jpg").write_bytes(b"")
    whole = everything(open_data(root, cache="never", max_broken=0.9))["image"]
    replaced = test.batch([0])
    assert torch.equal(
        replaced["image"][0], whole[replaced["index"].item() - 1]
    )  # test's 1.jpg is row 0 there
    assert dataset.skipped == test.skipped != []


def test_the_canvas_follows_the_documented_rule():
    assert [default_side(short, 100) for short in (8, 28, 32, 33, 64, 65, 120, 500)] == [
        16, 32, 32, 40, 64, 64, 112, 128,
    ]  # fmt: skip
    assert default_side(500, 10_000) == 224
    cifar = open_data(np.zeros((4, 32, 32, 3), np.uint8))
    assert cifar.image_size == 32 and cifar.batch([0])["image"].shape[-1] == 32
    large = np.zeros((2, 300, 400, 3), np.uint8)
    for asked, side in ((96, 124), (224, 288), (290, 300), (400, 400)):
        dataset = open_data(large, image_size=asked)
        assert dataset.image_size == asked and dataset.batch([0])["image"].shape[-1] == side
        assert dataset.batch([0])["size"].tolist() == [[300, 400]]


@pytest.mark.parametrize("kind", ["grey", "colour", "both", "alpha"])
def test_channels_are_what_the_pictures_have(tmp_path, kind):
    for number in range(4):
        image = Image.fromarray(photo(number, (32, 32)))
        if kind == "grey" or (kind == "both" and number % 2):
            image = image.convert("L")
        if kind == "alpha":
            image.putalpha(100)
        image.save(tmp_path / f"{number}.png")
    dataset = open_data(tmp_path)
    assert dataset.channels == dataset.batch([0])["image"].shape[1] == (1 if kind == "grey" else 3)
    assert open_data(tmp_path, channels=1).batch([0])["image"].shape[1] == 1
    assert open_data(tmp_path, channels=3).batch([0])["image"].shape[1] == 3


def test_pictures_of_many_bands_and_16_bits(tmp_path):
    import tifffile

    for number in range(4):
        bands = np.random.default_rng(number).integers(0, 65536, (5, 40, 40), dtype=np.uint16)
        tifffile.imwrite(tmp_path / f"{number}.tif", bands, photometric="minisblack")
    Image.fromarray(photo(0, (40, 40))).save(tmp_path / "colour.png")
    with pytest.raises(DataError, match="3 channels where 5 are wanted"):
        open_data(tmp_path, max_broken=0.1)
    dataset = open_data(tmp_path, max_broken=0.3)
    image = everything(dataset)["image"]
    assert dataset.channels == 5 and image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1
    assert image.mean().item() == pytest.approx(0.5, abs=0.02) and len(dataset) == 4


def test_subset_limit_and_passing_a_data_set_through(embedded):
    part = embedded.subset([5, 3, 7])
    assert torch.equal(part.batch([1])["image"], embedded.batch([3])["image"]) and len(part) == 3
    assert (
        part.labels.tolist() == embedded.labels[[5, 3, 7]].tolist() and part.batch([2])["index"].item() == 2
    )
    assert open_data(embedded) is embedded and len(open_data(embedded, limit=10)) == 10
    assert len(open_data(embedded, split="test")) == len(embedded.split("test"))
    with pytest.raises(DataError, match="graph data are asked for"):
        open_data("digits", modality="graph")


def test_channel_statistics_are_those_of_the_pixels():
    image = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3)).astype(np.uint8)
    image[..., 2] = 7
    mean, std = open_data(image).channel_stats()
    flat = image.reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, flat.mean(0), atol=1e-6)
    np.testing.assert_allclose(std[:2], flat.std(0)[:2], atol=1e-6)
    assert std[2] == pytest.approx(1 / 255)  # never zero


def test_a_hundred_thousand_names_are_listed_once_and_pickled_small(tmp_path):
    from pretask.data.find import from_folder

    for folder in range(10):
        (tmp_path / f"{folder}").mkdir()
    for number in range(20_000):
        (tmp_path / f"{number % 10}" / f"{number:06d}.jpg").touch()
    found = from_folder(tmp_path)
    assert len(found.store.names) == 20_000 and len(found.classes) == 10
    assert len(pickle.dumps(found.store)) < 20_000 * 24


def test_real_data_sets_are_read_as_their_authors_split_them(real_data):
    cifar = open_data(real_data("cifar10_subset") / "cifar10_subset.zip", split="test")
    assert len(cifar) == 2000 and cifar.image_size == 32 and not cifar.skipped
    assert torch.bincount(cifar.labels).tolist() == [200] * 10
    clothing = open_data(real_data("clothing_small") / "images.zip")
    assert [len(clothing.split(name)) for name in ("train", "val", "test")] == [1435, 341, 372]
    assert len(clothing.classes) == 10
    xray = open_data(real_data("chest_xray_covid") / "images.zip")
    assert xray.channels == 1 and xray.labels is None and len(xray) == 243
    fashion = open_data(real_data("fashion_mnist_900") / "fashion_mnist_900.npz")
    assert torch.bincount(fashion.labels).tolist() == [90] * 10


def test_a_list_beside_a_folder_gives_labels(real_data, tmp_path):
    folder = real_data("real_vs_ai_images")
    zipfile.ZipFile(folder / "images.zip").extractall(tmp_path)
    with open(folder / "labels.csv") as file:
        first = next(csv.DictReader(file))
    (tmp_path / "labels.csv").write_bytes((folder / "labels.csv").read_bytes())
    dataset = open_data(tmp_path / "labels.csv")
    assert (
        len(dataset) == 100
        and sorted(dataset.classes) == ["ai", "real"]
        and first["label"] in dataset.classes
    )


def test_nothing_warns_on_a_healthy_folder(photo_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_data(photo_folder(4))


def test_every_error_is_one_a_user_can_act_on(tmp_path):
    break_some(tmp_path)
    for source in (tmp_path, "no/such", {"a": 1}, 5, np.zeros((3, 3)), iter([1])):
        with pytest.raises(PretaskError):
            open_data(source)
