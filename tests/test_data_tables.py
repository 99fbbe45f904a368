"""Pictures from arrays, lists, archives, tables and other libraries' data sets."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import everything, jpeg, photo
from pretask.data import Dataset, open_data
from pretask.errors import DataError, UsageError


def test_npz_npy_arrays_and_tensors_agree(tmp_path):
    image = np.stack([photo(number, (32, 32)) for number in range(6)])
    label = np.array([3, 3, 7, 7, 7, 3])
    np.savez(tmp_path / "a.npz", image=image, label=label)
    np.savez(
        tmp_path / "b.npz", x=image.transpose(0, 3, 1, 2), y=label[:, None], class_names=list("abcdefgh")
    )
    np.save(tmp_path / "c.npy", image)
    expected = torch.from_numpy(image).permute(0, 3, 1, 2)
    for source in (
        tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "c.npy", image, expected, (image, label),
        (expected, torch.from_numpy(label)), list(image), [Image.fromarray(one) for one in image],
    ):  # fmt: skip
        dataset = open_data(source)
        assert torch.equal(everything(dataset)["image"], expected)
        if dataset.labels is not None:
            assert dataset.labels.tolist() == [0, 0, 1, 1, 1, 0]
    assert open_data(tmp_path / "a.npz").classes == ["3", "7"]
    assert open_data(tmp_path / "b.npz").classes == ["d", "h"]
    lazy = open_data(tmp_path / "c.npy", cache="never")
    assert torch.equal(everything(lazy)["image"], expected)


def test_npz_with_splits_and_without_pictures(tmp_path):
    image = np.zeros((6, 16, 16), np.uint8)
    np.savez(tmp_path / "s.npz", train_images=image, train_labels=np.arange(6) % 2, test_images=image[:2])
    dataset = open_data(tmp_path / "s.npz")
    assert dataset.part_names == ("train", "test") and len(dataset.split("test")) == 2
    assert dataset.split("train").labels is not None and dataset.labels is None
    np.savez(tmp_path / "n.npz", weights=image)
    with pytest.raises(DataError, match="holds weights; pictures are looked for as image"):
        open_data(tmp_path / "n.npz")
    np.savez(tmp_path / "p.npz", image=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="cannot be read"):
        open_data(tmp_path / "p.npz")
    with pytest.raises(DataError, match="channels may be second or last"):
        open_data(np.zeros((2, 5, 9, 5), np.uint8))
    assert open_data(np.zeros((2, 9, 9, 200), np.uint8), channels=200).channels == 200


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "bool", "int16"])
def test_arrays_of_every_type_lie_in_the_unit_interval(dtype):
    unit = np.random.default_rng(0).random((5, 20, 20))
    top = {"uint8": 255, "uint16": 65535, "int16": 3000}.get(dtype, 1)
    image = (
        (unit * top).round().astype(dtype)
        if top > 1
        else (unit > 0.5 if dtype == "bool" else unit).astype(dtype)
    )
    dataset = open_data(image, image_size=20)
    held = everything(dataset)["image"]
    assert held.dtype == (torch.uint8 if dtype in ("uint8", "bool") else torch.float32)
    scaled = held.float() / (255 if held.dtype == torch.uint8 else 1)
    low, high = (image.min(), image.max()) if dtype == "int16" else (0, top)
    np.testing.assert_allclose(scaled[:, 0].numpy(), (image.astype(float) - low) / (high - low), atol=1e-6)
    lazy = open_data(image, image_size=20, cache="never", workers=0)
    torch.testing.assert_close(everything(lazy)["image"], held)


def test_rows_that_are_not_finite_are_skipped():
    image = np.random.default_rng(0).random((10, 8, 8)).astype(np.float32)
    image[3, 0, 0] = np.nan
    dataset = open_data(image)
    assert len(dataset) == 9 and dataset.skipped[0] == ("3", "holds values that are not finite")
    assert everything(dataset)["image"].isfinite().all()


def test_lists_of_paths(photo_folder, tmp_path):
    root = photo_folder(4)
    names = sorted(path.name for path in root.iterdir())

    def write(name: str, text: str) -> Dataset:
        (root / name).write_text(text)
        return open_data(root / name, max_broken=0.3)

    assert len(write("a.txt", "\n".join(names))) == 4
    assert (
        write("b.txt", "".join(f"{name} {i % 2}\n" for i, name in enumerate(names))).labels.tolist()
        == [0, 1] * 2
    )
    assert write("c.txt", "".join(f"{name}\tk{i // 2}\n" for i, name in enumerate(names))).classes == [
        "k0",
        "k1",
    ]
    assert write("d.csv", "".join(f"{name},k{i // 2}\n" for i, name in enumerate(names))).classes == [
        "k0",
        "k1",
    ]
    rows = "label,split,file\n" + "".join(
        f"k{i % 2},{'train' if i else 'test'},{n}\n" for i, n in enumerate(names)
    )
    dataset = write("e.csv", rows)
    assert dataset.labels.tolist() == [0, 1, 0, 1] and len(dataset.split("train")) == 3
    missing = write("f.txt", "\n".join([*names, "gone.jpg"]))
    assert missing.skipped == [("gone.jpg", "no such file")]
    with pytest.raises(DataError, match="neither a picture's path nor a header"):
        write("g.csv", "a,b\n1,2\n")
    with pytest.raises(DataError, match="is empty"):
        write("h.txt", "\n")


def test_zip_archives_are_read_without_unpacking(photo_folder, tmp_path):
    root = photo_folder(3, ("a", "b"), ("train", "test"))
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.jpg")):
            archive.write(file, f"set/{file.relative_to(root)}")
        archive.writestr("__MACOSX/set/._0.jpg", "x")
        archive.writestr("readme.txt", "x")
    one, other = open_data(path), open_data(root)
    assert torch.equal(everything(one)["image"], everything(other)["image"])
    assert torch.equal(one.labels, other.labels) and one.part_names == other.part_names
    assert one.describe()["other files"] == {".txt": 1}
    lazy = pickle.loads(pickle.dumps(open_data(path, cache="never", workers=0)))
    assert torch.equal(everything(lazy)["image"], everything(other)["image"])
    (tmp_path / "bad.zip").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="cannot be read"):
        open_data(tmp_path / "bad.zip")


def tables(folder, count: int = 6):
    pa = pytest.importorskip("pyarrow")
    rows = [{"bytes": jpeg(number), "path": f"{number}.jpg"} for number in range(count)]
    rows[2] = {"bytes": b"no picture", "path": "2.jpg"}
    info = {"info": {"features": {"label": {"names": ["cat", "dog", "eel"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": rows, "label": [0, 1, 0, 1, 0, 1][:count]})
    return table.replace_schema_metadata({"huggingface": json.dumps(info)})


def test_parquet_and_arrow_as_hugging_face_lays_them_out(tmp_path):
    table = tables(tmp_path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = tmp_path / "data"
    data.mkdir()
    pq.write_table(table, data / "train-00000-of-00001.parquet", row_group_size=2)
    pq.write_table(table.slice(3), data / "test-00000-of-00001.parquet")
    dataset = open_data(tmp_path, max_broken=0.3)
    assert dataset.classes == ["cat", "dog"] and dataset.part_names == ("train", "test")
    assert len(dataset) == 8 and dataset.split("train").labels.tolist() == [0, 1, 1, 0, 1]
    assert dataset.skipped[0].path == "train-00000-of-00001.parquet:2"
    with (
        pa.OSFile(str(tmp_path / "one.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=4)
    with pa.OSFile(str(tmp_path / "two.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    expected = everything(dataset.split("train"))["image"]
    for name in ("one.arrow", "two.arrow", "data/train-00000-of-00001.parquet"):
        held, lazy = (open_data(tmp_path / name, max_broken=0.3, cache=c) for c in ("memory", "never"))
        assert torch.equal(everything(held)["image"], expected)
        assert torch.equal(everything(pickle.loads(pickle.dumps(lazy)))["image"], expected)
    pq.write_table(table.select(["label"]), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="has the columns label; pictures are looked for as image"):
        open_data(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read"):
        open_data(tmp_path / "bad.parquet")


def test_data_sets_of_torch_and_hugging_face():
    image = [Image.fromarray(photo(number, (32, 32))) for number in range(6)]
    expected = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in image])

    class Pairs(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, row):
            return image[row], row % 2

    dataset = open_data(Pairs())
    assert torch.equal(everything(dataset)["image"], expected) and dataset.labels.tolist() == [0, 1] * 3
    tensors = torch.utils.data.TensorDataset(expected.float() / 255, torch.arange(6) % 3)
    dataset = open_data(tensors)
    torch.testing.assert_close(everything(dataset)["image"], expected.float() / 255)
    assert dataset.labels.tolist() == [0, 1, 2] * 2
    hf = pytest.importorskip("datasets")
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["x", "y"])})
    table = hf.Dataset.from_dict({"image": image, "label": [0, 1] * 3}, features=features)
    dataset = open_data(table)
    assert torch.equal(everything(dataset)["image"], expected)
    assert dataset.classes == ["x", "y"] and dataset.labels.tolist() == [0, 1] * 3


def test_torchvision_sets_whose_files_are_there(tmp_path):
    with pytest.raises(DataError, match="torchvision finds no CIFAR10 below"):
        open_data(f"torchvision:CIFAR10@{tmp_path}")
    with pytest.raises(UsageError, match="not torchvision:NAME@ROOT"):
        open_data("torchvision:NoSuchSet@here")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 5), ("t10k", 3)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = np.array([2051, count, 28, 28], ">u4").tobytes()
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = (np.arange(count) % 2).astype(np.uint8)
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(
            np.array([2049, count], ">u4").tobytes() + labels.tobytes()
        )
    dataset = open_data(f"torchvision:MNIST@{tmp_path}", image_size=28)
    assert len(dataset.split("train")) == 5 and len(dataset.split("test")) == 3
    assert dataset.labels.tolist() == [0, 1, 0, 1, 0, 0, 1, 0] and dataset.classes[0].startswith("0")
    assert torch.equal(everything(dataset.split("test"))["image"][:, 0], torch.from_numpy(pixels))
