"""What folder names say: splits, classes, and that nothing is invented."""

import os

import pytest

from pretask.data.layout import encode_labels, read_layout, walk
from pretask.data.shards import expand, key_and_extension
from pretask.data.stores import Names


def read(*names: str):
    found = read_layout(sorted(names))
    labels = None if found.targets is None else [
        None if target < 0 else found.classes[target] for target in found.targets.tolist()
    ]  # fmt: skip
    parts = None if found.parts is None else [
        None if part < 0 else found.part_names[part] for part in found.parts.tolist()
    ]  # fmt: skip
    return labels, parts


def test_class_folders():
    assert read("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/deep/er/2.jpg") == (
        ["cat"] * 2 + ["dog"] * 2,
        None,
    )


def test_a_folder_around_everything_is_ignored():
    assert read("set/v1/cat/1.jpg", "set/v1/cat/2.jpg", "set/v1/dog/1.jpg", "set/v1/dog/2.jpg")[0] == [
        "cat", "cat", "dog", "dog",
    ]  # fmt: skip


def test_flat_folders_have_no_classes():
    assert read("1.jpg", "2.jpg", "3.jpg") == (None, None)


def test_one_class_is_none():
    assert read("all/1.jpg", "all/2.jpg", "all/3.jpg") == (None, None)


def test_a_folder_for_every_picture_is_no_class():
    assert read("a/1.jpg", "b/1.jpg", "c/1.jpg", "d/1.jpg") == (None, None)


def test_a_stray_picture_is_unlabelled():
    assert read("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg", "stray.jpg")[0] == ["a", "a", "b", "b", None]


def test_splits_and_classes():
    names = [
        f"{split}/{name}/{i}.jpg"
        for split in ("test", "train", "Validation")
        for name in "ab"
        for i in (1, 2)
    ]
    labels, parts = read(*names)
    assert labels == ["a", "a", "b", "b"] * 3
    assert parts == ["val"] * 4 + ["test"] * 4 + ["train"] * 4  # capital letters sort first


def test_splits_without_classes_and_beside_other_folders():
    labels, parts = read("extra/1.jpg", "test/1.jpg", "train/1.jpg", "train/2.jpg")
    assert (labels, parts) == (None, [None, "test", "train", "train"])


def test_a_class_called_like_a_split_is_a_class():
    labels, parts = read("car/1.jpg", "car/2.jpg", "train/1.jpg", "train/2.jpg")
    assert (labels, parts) == (["car", "car", "train", "train"], None)


def test_only_a_training_split():
    labels, parts = read("train/a/1.jpg", "train/a/2.jpg", "train/b/1.jpg", "train/b/2.jpg")
    assert (labels, parts) == (["a", "a", "b", "b"], ["train"] * 4)


def test_unlabelled_beside_labelled_splits():
    labels, parts = read("test/a/1.jpg", "test/a/2.jpg", "test/b/1.jpg", "test/b/2.jpg", "train/1.jpg")
    assert labels == ["a", "a", "b", "b", None] and parts == ["test"] * 4 + ["train"]


def test_labels_are_ordered_by_value_if_they_are_numbers():
    targets, classes = encode_labels(["10", "9", "", "10", None])
    assert classes == ["9", "10"] and targets.tolist() == [1, 0, -1, 1, -1]
    assert encode_labels(["b", "a"])[1] == ["a", "b"]
    assert encode_labels([None, ""]) == (None, None)


def test_names_are_kept_without_an_object_each():
    names = ["a.jpg", "", "ordner/ä ö.png", os.fsdecode(b"bad\xff.jpg")]
    packed = Names(names)
    assert list(packed) == names and packed[-1] == names[-1] and len(packed) == 4
    with pytest.raises(IndexError):
        packed[4]


def test_walking_follows_links_once_and_leaves_out_what_is_hidden(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    for name in ("a/1.jpg", ".hidden/2.jpg", "a/._1.jpg", "__MACOSX/3.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    elsewhere = tmp_path.parent / f"{tmp_path.name}_elsewhere"
    elsewhere.mkdir()
    (elsewhere / "4.jpg").write_bytes(b"x")
    (tmp_path / "link").symlink_to(elsewhere)
    assert sorted(walk(tmp_path)) == ["a/1.jpg", "link/4.jpg"]


def test_addresses_and_members_of_shards(tmp_path):
    assert expand("s3://b/x-{008..010}.tar") == [f"s3://b/x-0{n}.tar" for n in ("08", "09", "10")]
    assert expand("a{0..1}-{0..1}.tar") == ["a0-0.tar", "a0-1.tar", "a1-0.tar", "a1-1.tar"]
    for name in ("b.tar", "a.tar"):
        (tmp_path / name).touch()
    assert expand(f"{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    assert key_and_extension("x.y/a.b.PNG") == ("x.y/a", ".b.png")
    assert key_and_extension("plain") == ("plain", "")
