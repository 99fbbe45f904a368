"""The stream of batches: stateless, complete, shared among processes and workers."""

import io
import tarfile
from collections import Counter
from itertools import islice

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from conftest import photo
from pretask.data import open_data
from pretask.data import stream as stream_module
from pretask.data.loader import Fetch, batches, steps_per_epoch
from pretask.errors import DataError, UsageError

COUNT = 23
NO_PICTURE = "not a picture, whatever its name says"


@pytest.fixture
def numbers():
    """Every sample's first pixel is its number."""
    image = np.zeros((COUNT, 16, 16), np.uint8)
    image[:, 0, 0] = np.arange(COUNT)
    return open_data((image, np.arange(COUNT) % 3), image_size=16)


def indices(dataset, size, **how) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches(dataset, size, **{"seed": 0, "start": 0, **how})]


def test_an_epoch_holds_every_sample_at_most_once_and_another_order_follows(numbers):
    steps = steps_per_epoch(numbers, 5)
    first, second = (indices(numbers, 5, start=epoch * steps, stop=(epoch + 1) * steps) for epoch in (0, 1))
    assert steps == 4 and len(sum(first, [])) == len(set(sum(first, []))) == 20
    assert sum(first, []) != sum(second, [])
    left_out = Counter(i for e in range(40) for i in set(range(COUNT)) - set(sum(
        indices(numbers, 5, start=e * steps, stop=(e + 1) * steps), [])))  # fmt: skip
    assert len(left_out) == COUNT  # no sample is left out for ever


def test_batches_hold_what_their_index_says(numbers):
    for batch in batches(numbers, 5, seed=1, stop=6):
        assert torch.equal(batch["image"][:, 0, 0, 0].long(), batch["index"])
        assert torch.equal(batch["label"], batch["index"] % 3)


def test_a_resumed_stream_goes_on_where_it_was(numbers):
    whole = indices(numbers, 5, stop=14)
    assert indices(numbers, 5, start=9, stop=14) == whole[9:]
    assert indices(numbers, 5, stop=14) == whole
    assert indices(numbers, 5, stop=14, seed=1) != whole


@pytest.mark.parametrize("world", [2, 3])
def test_joined_batches_of_processes_are_the_single_process_batch(numbers, world):
    whole = indices(numbers, 6, stop=8)
    parts = [indices(numbers, 6, stop=8, rank=rank, world=world) for rank in range(world)]
    assert [sum(rows, []) for rows in zip(*parts, strict=True)] == whole
    with pytest.raises(UsageError, match="cannot be shared evenly by 4"):
        indices(numbers, 6, stop=1, world=4)


def test_fewer_samples_than_a_batch_are_repeated_and_said(numbers):
    few = numbers.subset(range(3))
    with pytest.warns(UserWarning, match="3 samples, fewer than a batch of 8"):
        given = indices(few, 8, stop=4)
    assert steps_per_epoch(few, 8) == 1 and all(len(batch) == 8 for batch in given)
    assert all(max(Counter(batch).values()) - min(Counter(batch).values()) <= 1 for batch in given)
    assert len({tuple(batch) for batch in given}) > 1


def test_workers_give_the_same_batches_and_report_what_broke(photo_folder):
    root = photo_folder(12)
    dataset = open_data(root, cache="never", workers=2)
    alone = list(batches(dataset, 4, seed=0, stop=5, workers=0))
    shared = list(batches(dataset, 4, seed=0, stop=5))
    for one, other in zip(alone, shared, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    (root / "7.jpg").write_bytes(b"")
    (root / "8.jpg").write_text("x")
    again = list(batches(dataset, 4, seed=0, stop=6, workers=2))
    assert {item.path for item in dataset.skipped} == {"7.jpg", "8.jpg"}
    gone = {row for row in range(12) if dataset.samples.name(row) in ("7.jpg", "8.jpg")}
    assert all(not set(batch["index"].tolist()) & gone for batch in again)


def test_workers_may_be_spawned(photo_folder):
    dataset = open_data(photo_folder(6), cache="never", workers=1)
    expected = dataset.batch([4, 1])
    loader = torch.utils.data.DataLoader(
        Fetch(dataset), sampler=[torch.tensor([4, 1])], batch_size=None, num_workers=1,
        multiprocessing_context="spawn",
    )  # fmt: skip
    ((batch, broken),) = loader
    assert not broken and torch.equal(batch["image"], expected["image"])


def shard(names: list[str], path: str, labels: bool = True) -> None:
    """A shard of small pictures whose first pixel tells the number in their name."""
    with fsspec.open(path, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:

        def add(name: str, content: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        for name in names:
            picture = photo(int(name), (20, 20)).copy()
            picture[:10, :10] = int(name)
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "PNG")
            add(f"set/{name}.json", b"{}")
            add(f"set/{name}.png", b"no picture" if int(name) == 13 else buffer.getvalue())
            if labels:
                add(f"set/{name}.cls", str(int(name) % 2).encode())


def shards(where: str, count: int = 4, each: int = 6) -> str:
    for number in range(count):
        shard([f"{number * each + i:04d}" for i in range(each)], f"{where}/part-{number:03d}.tar")
    return f"{where}/part-{{000..{count - 1:03d}}}.tar"


def test_shards_on_this_machine_are_a_data_set_like_any(tmp_path):
    pattern = shards(str(tmp_path))
    for source in (pattern, str(tmp_path / "*.tar"), tmp_path):
        dataset = open_data(source, image_size=20)
        assert len(dataset) == 23 and dataset.skipped == [
            ("part-002.tar/set/0013.png", "not a picture, whatever its name says")
        ]
        numbers = [n for n in range(24) if n != 13]
        assert dataset.batch(range(23))["image"][:, 0, 0, 0].tolist() == numbers
        assert dataset.labels.tolist() == [n % 2 for n in numbers]
    lazy = open_data(tmp_path / "part-001.tar", cache="never", workers=1, image_size=20)
    assert [b["image"][0, 0, 0, 0].item() for b in batches(lazy, 1, seed=0, stop=6)] != []
    (tmp_path / "bad.tar").write_bytes(b"x" * 3000)
    with pytest.raises(DataError, match="cannot be read"):
        open_data(tmp_path / "bad.tar")


def seen(batch) -> list[int]:
    return batch["image"][:, 0, 0, 0].tolist()


@pytest.fixture
def small_buffer(monkeypatch):
    monkeypatch.setattr(stream_module, "BUFFER", 5)


def test_shards_at_an_address_are_streamed(small_buffer):
    dataset = open_data(shards("memory://streamed"), image_size=20, workers=0)
    assert dataset.stream and dataset.labels is None and dataset.split("train") is None
    with pytest.raises(TypeError, match="streamed"):
        len(dataset)
    with pytest.raises(UsageError, match="say how many steps"):
        steps_per_epoch(dataset, 4)
    assert dataset.describe()["count"] == 23 and "streamed from 4 shards" in dataset.describe()["memory"]
    assert dataset.batch([0, 1])["image"].shape == (2, 3, 20, 20)  # of the head, for previews
    given = list(batches(dataset, 4, seed=0, stop=30))
    assert all(set(batch) == {"image", "size", "label"} for batch in given)
    assert all(
        number % 2 == label for b in given for number, label in zip(seen(b), b["label"].tolist(), strict=True)
    )
    counts = Counter(sum(map(seen, given), []))
    assert set(counts) == set(range(24)) - {13} and max(counts.values()) <= 9
    assert {item.path for item in dataset.skipped} == {"memory://streamed/part-002.tar/set/0013.png"}
    resumed = list(batches(dataset, 4, seed=0, start=17, stop=30))
    assert [seen(b) for b in resumed] == [seen(b) for b in given[17:]]


def test_a_stream_is_shared_by_processes_and_workers(small_buffer):
    dataset = open_data(shards("memory://shared"), image_size=20, workers=0)
    first = stream_module.Part(dataset.addresses, dataset.canvas, 2, 0, 0, 0, 2)
    epoch = [s.name for s in islice(first.endless(0, 2, {}), 12)]
    apart = [s.name for s in islice(first.endless(1, 2, {}), 12)]
    assert len(set(epoch) | set(apart)) == 24 and not set(epoch) & set(apart)
    many = [{s.name for s in islice(first.endless(slot, 8, {}), 3)} for slot in range(8)]
    assert len(set().union(*many)) == 24


def test_streaming_workers_resume_with_the_same_batches(tmp_path, small_buffer):
    dataset = open_data("file://" + shards(str(tmp_path)), image_size=20, workers=2)
    whole = [seen(b) for b in batches(dataset, 4, seed=0, stop=9)]
    assert [seen(b) for b in batches(dataset, 4, seed=0, start=3, stop=9)] == whole[3:]


def test_of_a_stream_the_first_samples_may_be_taken():
    dataset = open_data(shards("memory://first"), limit=9)
    assert len(dataset) == 9 and not dataset.stream and dataset.classes == ["0", "1"]
    with pytest.raises(DataError, match="cannot be read"):
        open_data("memory://nothing/here.tar")


def test_a_batch_in_memory_is_one_gather(embedded, monkeypatch):
    calls = []
    gather = torch.Tensor.index_select
    monkeypatch.setattr(torch.Tensor, "index_select", lambda *a: calls.append(1) or gather(*a))
    embedded.batch(torch.arange(64))
    assert len(calls) == len(embedded.samples.columns)
