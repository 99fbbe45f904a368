"""Point clouds of every format, and files that are none."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from pretask.data import open_data
from pretask.data.clouds import Cloud, decode
from pretask.data.formats import Broken, reasons
from pretask.data.scans import Reading
from pretask.data.solids import KINDS
from pretask.errors import DataError, UsageError

RNG = np.random.default_rng(0)
PLACES = RNG.normal(size=(40, 3)).astype(np.float32)
NORMALS = PLACES / np.linalg.norm(PLACES, axis=1, keepdims=True)
COLOURS = RNG.integers(0, 256, (40, 3))


def ply(form: str, normals: bool = False, colours: bool = False) -> bytes:
    names = ["x", "y", "z"] + ["nx", "ny", "nz"] * normals
    columns = np.concatenate([PLACES, NORMALS], axis=1) if normals else PLACES
    header = [f"ply\nformat {form} 1.0\ncomment made for a test\nelement vertex {len(columns)}"]
    header += [f"property float {name}" for name in names]
    header += [f"property uchar {name}" for name in ("red", "green", "blue")] if colours else []
    head = "\n".join([*header, "end_header\n"]).encode()
    rows = [(*map(float, row), *(map(int, COLOURS[i]) if colours else ())) for i, row in enumerate(columns)]
    if form == "ascii":
        return head + b"".join(" ".join(map(str, row)).encode() + b"\n" for row in rows)
    pattern = ("<" if "little" in form else ">") + f"{len(names)}f" + "3B" * colours
    return head + b"".join(struct.pack(pattern, *row) for row in rows)


def encoded(save, *arrays, **named) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *arrays, **named)
    return buffer.getvalue()


def opened(raw: bytes, name: str) -> Cloud:
    with reasons():
        return decode(raw, name)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("normals", [False, True])
@pytest.mark.parametrize("colours", [False, True])
def test_ply(form, normals, colours):
    cloud = opened(ply(form, normals, colours), "a.PLY")
    np.testing.assert_allclose(cloud.places, PLACES, rtol=1e-6)
    assert (cloud.normals is not None) == normals
    if normals:
        np.testing.assert_allclose(cloud.normals, NORMALS, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cloud.features, COLOURS / 255 if colours else np.empty((40, 0)), atol=1e-6)


def test_columns_by_place():
    rows = np.concatenate([PLACES, COLOURS], axis=1)
    for raw, name in (
        (encoded(np.savetxt, rows), "a.xyz"),
        (encoded(np.savetxt, rows, delimiter=","), "a.xyz"),
        (b"40\n" + encoded(np.savetxt, rows), "a.pts"),
        (b"# x y z r g b\n\n" + encoded(np.savetxt, rows), "a.xyz"),
        (encoded(np.save, rows), "a.npy"),
        (encoded(np.savez, points=rows), "a.npz"),
        (encoded(np.savez, xyz=PLACES, rgb=COLOURS), "a.npz"),
    ):
        cloud = opened(raw, name)
        np.testing.assert_allclose(cloud.places, PLACES, rtol=1e-6)
        np.testing.assert_allclose(cloud.features, COLOURS)
        assert cloud.normals is None


def test_columns_of_length_1_are_normals():
    rows = np.concatenate([PLACES, NORMALS, COLOURS[:, :1]], axis=1)
    for raw, name in (
        (encoded(np.save, rows), "a.npy"),
        (encoded(np.savez, points=np.delete(rows, [3, 4, 5], axis=1), normals=2 * NORMALS), "a.npz"),
    ):
        cloud = opened(raw, name)
        np.testing.assert_allclose(cloud.normals, NORMALS, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(cloud.features, COLOURS[:, :1])


def test_kitti_and_nuscenes_bins():
    kitti = np.concatenate([PLACES, RNG.uniform(size=(40, 1))], axis=1).astype("<f4")
    beam = np.arange(40)[:, None] % 32
    nuscenes = np.concatenate([PLACES, RNG.uniform(0, 255, (40, 1)), beam], axis=1).astype("<f4")
    for rows in (kitti, nuscenes):
        cloud = opened(rows.tobytes(), "000000.bin")
        np.testing.assert_array_equal(cloud.places, rows[:, :3])
        np.testing.assert_array_equal(cloud.features, rows[:, 3:])


@pytest.mark.parametrize("kind", ["off", "stl", "obj", "ply"])
def test_meshes_are_sampled_evenly_with_their_faces_normals(kind):
    mesh = trimesh.creation.box((2, 1, 1))
    raw = mesh.export(file_type=kind)
    shape = opened(raw.encode() if isinstance(raw, str) else raw, f"box.{kind}")
    found = Reading(4000, scale="none").columns(shape, 0, [0])
    places, normals = found["points"][0], found["normals"][0]
    assert found["oriented"].all() and places.shape == (4000, 3)
    half = np.array([1, 0.5, 0.5])
    axis, side = np.abs(normals).argmax(1), np.sign(normals[np.arange(4000), np.abs(normals).argmax(1)])
    np.testing.assert_allclose(places[np.arange(4000), axis], side * half[axis], atol=1e-6)
    shares = np.bincount(axis, minlength=3) / 4000
    np.testing.assert_allclose(shares, [0.2, 0.4, 0.4], atol=0.04)
    assert np.median(found["variation"]) < 1e-6, "a box is flat but for its edges"


def test_off_as_modelnet_writes_it():
    """Some of its files have no line break behind OFF."""
    plain = trimesh.creation.icosahedron().export(file_type="off")
    glued = plain.replace("OFF\n", "OFF", 1)
    np.testing.assert_array_equal(
        opened(glued.encode(), "a.off").vertices, opened(plain.encode(), "a.off").vertices
    )


BROKEN = {
    "truncated.ply": (ply("binary_little_endian")[:-9], "length"),
    "short.ply": (ply("ascii").rsplit(b"\n", 3)[0], "truncated"),
    "bomb.ply": (ply("binary_little_endian").replace(b"vertex 40", b"vertex 40000000000"), "length"),
    "text.ply": (b"this is no cloud\n" * 20, "ply"),
    "empty.ply": (b"", "ply"),
    "short.off": (b"OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n", "truncated"),
    "wrong.off": (b"OFF\n4 1 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 9\n", "outside"),
    "flat.off": (b"OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n", "area"),
    "odd.bin": (b"\0" * 23, "multiple"),
    "odd.xyz": (b"1 2 3\n4 5\n", "different numbers"),
    "words.xyz": (b"one two three\n" * 9, "convert"),
    "two.xyz": (b"1 2\n" * 9, "3 or more"),
    "few.xyz": (b"1 2 3\n" * 5, "usable"),
    "nan.npy": (encoded(np.save, np.full((20, 3), np.nan)), "usable"),
    "object.npy": (encoded(np.save, np.array([{}, 1], dtype=object)), "pickle"),
    "other.npz": (encoded(np.savez, weights=PLACES), "points"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_files_say_why(name):
    raw, word = BROKEN[name]
    with pytest.raises(Broken, match=word):
        opened(raw, name)


def test_an_archive_is_not_unpacked_where_it_would_be_too_large(monkeypatch):
    monkeypatch.setattr("pretask.data.formats.MAX_BYTES", 10_000)
    raw = encoded(np.savez_compressed, points=np.zeros((5000, 3)))
    assert len(raw) < 1000
    with pytest.raises(Broken, match="large"):
        opened(raw, "bomb.npz")


def test_points_that_are_not_finite_are_left_out():
    rows = PLACES.copy()
    rows[3], rows[8] = np.nan, np.inf
    cloud = opened(encoded(np.save, rows), "a.npy")
    np.testing.assert_array_equal(cloud.places, np.delete(rows, [3, 8], axis=0))


# ---- sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes in two splits, a file of each kind, and a broken one."""
    for split in ("train", "test"):
        for name in ("boxes", "balls"):
            below = tmp_path / split / name
            below.mkdir(parents=True)
            (below / "0.ply").write_bytes(ply("ascii"))
            (below / "1.ply").write_bytes(ply("binary_big_endian"))
            (below / "2.npy").write_bytes(encoded(np.save, PLACES))
            (below / "3.xyz").write_bytes(encoded(np.savetxt, PLACES))
    (tmp_path / "train" / "boxes" / "broken.ply").write_bytes(b"ply\n")
    (tmp_path / "train" / "notes.txt").write_text("not a cloud")
    return tmp_path


@pytest.mark.parametrize("cache", ["memory", "never"])
def test_a_folder_with_classes_and_splits(folder, cache):
    data = open_data(folder, points=16, cache=cache, workers=0)
    batch = data.batch(torch.arange(len(data)))
    assert data.modality == "points" and data.inputs == {"in_chans": 3}
    assert data.classes == ["balls", "boxes"] and data.part_names == ("train", "test")
    assert batch["points"].shape == (len(data), 16, 3) and batch["points"].isfinite().all()
    assert [skip.path for skip in data.skipped] == ["train/boxes/broken.ply"]
    assert data.facts["other files"] == {".txt": 1}
    assert len(data.split("test")) == 8 and set(data.split("test").labels.tolist()) == {0, 1}
    assert len(open_data(folder, points=16, split="test")) == 8
    with pytest.raises(UsageError, match="no split 'val'"):
        open_data(folder, split="val")


def test_lazy_and_in_memory_are_the_same(folder):
    memory, lazy = (open_data(folder, points=16, cache=c, scans=2, noise=0.1) for c in ("memory", "never"))
    lazy.batch(torch.arange(len(lazy)))
    names = {data.samples.name(int(row)): i for data in (lazy,) for i, row in enumerate(data.rows)}
    for i, row in enumerate(memory.rows):
        other = names[memory.samples.name(int(row))]
        for key in ("points", "normals", "variation"):
            assert torch.equal(memory.batch([i])[key], lazy.batch([other])[key])
    pickle.loads(pickle.dumps(lazy)).batch(torch.arange(2))  # as worker processes get it


def test_a_zip(folder, tmp_path):
    path = tmp_path / "clouds.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((folder / "train").rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    data = open_data(path, modality="points", points=16)
    assert len(data) == 8 and len(data.skipped) == 1 and data.classes == ["balls", "boxes"]


def test_too_much_broken_is_said(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.ply").write_bytes(ply("ascii") if i == 0 else b"ply\n")
    with pytest.raises(DataError, match="3 of 4"):
        open_data(tmp_path)
    assert len(open_data(tmp_path, max_broken=0.8, points=8)) == 1


def test_nothing_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="holds no point clouds"):
        open_data(tmp_path, modality="points")
    with pytest.raises(DataError, match="there is no"):
        open_data(tmp_path / "nowhere", modality="points")
    with pytest.raises(UsageError, match="points"):
        open_data("solids", points=0)


def test_features_are_what_all_have(tmp_path):
    (tmp_path / "a.npy").write_bytes(encoded(np.save, np.concatenate([PLACES, COLOURS], axis=1)))
    (tmp_path / "b.npy").write_bytes(encoded(np.save, np.concatenate([PLACES, COLOURS[:, :1]], axis=1)))
    data = open_data(tmp_path, modality="points", points=16)
    assert data.inputs == {"in_chans": 4} and data.batch([0])["points"].shape == (1, 16, 4)
    wide = open_data(tmp_path, modality="points", points=16, features=3, max_broken=0.5)
    assert len(wide) == 1 and "carry 1 numbers" in wide.skipped[0].reason


def test_stacks(tmp_path):
    stack = RNG.normal(size=(6, 30, 3)).astype(np.float32)
    path = tmp_path / "stack.npz"
    np.savez(path, points=stack, label=[0, 1, 0, 1, 0, 1], class_names=["cat", "dog"])
    data = open_data(path, modality="points", points=10, scale="none")
    assert data.classes == ["cat", "dog"] and data.labels.tolist() == [0, 1, 0, 1, 0, 1]
    chosen = data.batch([2])["points"][0]
    assert all((stack[2] == row.numpy()).all(1).any() for row in chosen)
    np.savez(
        path, train_points=stack[:4], train_labels=[0, 1, 0, 1], test_points=stack[4:], test_labels=[1, 0]
    )
    data = open_data(path, modality="points", points=10)
    assert data.part_names == ("train", "test") and data.split("test").labels.tolist() == [1, 0]
    assert len(open_data((stack, [0, 0, 1, 1, 2, 2]), modality="points", points=10).classes) == 3
    ragged = open_data([stack[0], stack[1, :20]], modality="points", points=10)
    assert len(ragged) == 2 and ragged.facts["points a cloud"].startswith("20 to 30")
    with pytest.raises(DataError, match="shape"):
        open_data(stack[0], modality="points")
    np.savez(path, points=stack, label=[0, 1])
    with pytest.raises(DataError, match="not equally many"):
        open_data(path, modality="points")


def test_recordings_become_windows(tmp_path):
    """Two recordings of 5 and 4 frames, two points a frame: windows of two frames that never straddle."""
    frames = np.arange(9)
    points = np.repeat(frames, 8)[:, None] + np.zeros((72, 3))
    points[:, 1:] += RNG.normal(size=(72, 2))
    np.savez(
        tmp_path / "r.npz", points=points, frame_start=8 * np.arange(10), label=[3, 7], is_test=[False, True],
        frame_recording=[0] * 5 + [1] * 4,
    )  # fmt: skip
    data = open_data(tmp_path / "r.npz", modality="points", points=16, scale="none", window=2)
    assert len(data) == 4 and data.inputs == {"in_chans": 4}
    batch = data.batch(torch.arange(4))
    assert [sorted(set(b[:, 0].tolist())) for b in batch["points"]] == [[0, 1], [2, 3], [5, 6], [7, 8]]
    first = torch.tensor([0.0, 2, 5, 7]).view(4, 1)
    torch.testing.assert_close(batch["points"][..., 3], (batch["points"][..., 0] - first) / 2, msg="time")
    assert data.labels.tolist() == [0, 0, 1, 1] and len(data.split("test")) == 2
    with pytest.raises(DataError, match="smaller window"):
        open_data(tmp_path / "r.npz", modality="points", window=6)


def test_solids_are_embedded():
    data = open_data("solids", limit=40, points=64)
    batch = data.batch(torch.arange(40))
    assert data.classes == sorted(KINDS) and data.labels.bincount().tolist() == [4] * 10
    assert batch["oriented"].all() and len(data.split("test")) == 8
    assert torch.equal(
        batch["points"], open_data("solids", limit=40, points=64).batch(torch.arange(40))["points"]
    )


# ---- real data


def test_object_shapes(real_data):
    data = open_data(real_data("object_shapes"), modality="points", points=256, scans=4, turn="y", limit=112)
    assert len(data.classes) == 56 and data.batch([0, 1])["oriented"].all()
    batch = data.batch(torch.arange(112))
    assert batch["points"].norm(dim=-1).max() <= 1 + 1e-5
    assert (batch["variation"] >= 0).all() and (batch["variation"] <= 1 / 3).all()
    assert len(open_data(real_data("object_shapes"), modality="points", points=64)) == 56


def test_kitti(real_data):
    data = open_data(real_data("kitti_lidar_sample"), points=512, scale="none")
    assert data.modality == "points" and len(data) == 5 and data.inputs == {"in_chans": 4}
    batch = data.batch(torch.arange(5))
    assert not batch["oriented"].any() and not data.skipped
    ground = batch["variation"][1:3] < 0.02  # of the sweeps, streets lie flat and face upwards
    up = batch["normals"][1:3, :, 2].abs()[ground.squeeze(-1)]
    assert up.median() > 0.9


def test_radhar(real_data):
    data = open_data(real_data("radhar_pointcloud_actions"), modality="points", points=128, limit=30)
    assert data.classes == ["boxing", "jack", "jump", "squats", "walk"] and data.inputs == {"in_chans": 6}
    assert data.part_names == ("train", "test")
