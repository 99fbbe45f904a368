"""Skeletons as data: BVH files, folders, stacks, windows, puppets."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pretask import open_data
from pretask.data.kinematics import about, forward, read_bvh
from pretask.data.puppets import ACTIONS, LEFT_ELBOW, PARENTS, puppets
from pretask.errors import DataError, UsageError

BVH = """HIERARCHY
ROOT hips
{
  OFFSET 0 1 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT knee
  {
    OFFSET 0 -2 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 0 0 1
    }
  }
  JOINT chest
  {
    OFFSET 0 3 0
    CHANNELS 3 Yrotation Xrotation Zrotation
  }
}
MOTION
Frames: 2
Frame Time: 0.033
0 0 0 0 0 0 0 0 0 0 0 0
1 2 3 10 20 30 40 50 60 70 80 90
"""


def test_bvh_against_scipy(tmp_path):
    (tmp_path / "a.bvh").write_text(BVH)
    found = read_bvh(tmp_path / "a.bvh")
    assert np.allclose(found[0], [[0, 1, 0], [0, -1, 0], [0, -1, 1], [0, 4, 0]])
    hips = Rotation.from_euler("ZXY", [10, 20, 30], degrees=True).as_matrix()
    knee = hips @ Rotation.from_euler("ZXY", [40, 50, 60], degrees=True).as_matrix()
    root = np.array([1, 3, 3])
    first = root + hips @ [0, -2, 0]
    assert np.allclose(found[1], [root, first, first + knee @ [0, 0, 1], root + hips @ [0, 3, 0]])
    for broken in (BVH[:-6], BVH.replace("OFFSET 0 3 0", "OFFSET 0 3"), BVH.replace("MOTION", ""), "}{"):
        (tmp_path / "a.bvh").write_text(broken)
        with pytest.raises(ValueError):
            read_bvh(tmp_path / "a.bvh")


def test_turns_about_axes():
    for axis, name in enumerate("xyz"):
        assert np.allclose(about(axis, 0.7), Rotation.from_euler(name, 0.7).as_matrix())
    straight = forward([-1, 0, 1], np.array([[1.0, 0, 0]] * 3), np.stack([about(2, np.pi / 2)] * 3))
    assert np.allclose(straight, [[1, 0, 0], [1, 1, 0], [0, 1, 0]])


def test_folders_with_broken_files(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("train/run/a", "train/run/b", "train/walk/c", "test/walk/d", "test/run/e"):
        file = tmp_path / f"{name}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(file, np.c_[np.arange(30), rng.normal(size=(30, 12))], delimiter=",")
    (tmp_path / "train" / "walk" / "broken.csv").write_text("1,2,three,4\n")
    (tmp_path / "train" / "walk" / "broken.bvh").write_text("HIERARCHY")
    np.save(tmp_path / "train" / "walk" / "other.npy", rng.normal(size=(30, 7, 3)))
    with pytest.raises(DataError, match="max_broken"):
        open_data(tmp_path, modality="pose")
    data = open_data(tmp_path, modality="pose", max_broken=0.5, window=20, hop=10, centre=2)
    reasons = {item.path.split("/")[-1]: item.reason for item in data.skipped}
    assert reasons.keys() == {"broken.csv", "broken.bvh", "other.npy"} and "(1, 4)" in reasons["other.npy"]
    assert data.classes == ["run", "walk"] and len(data.split("train")) == 6 and len(data.split("test")) == 4
    batch = data.batch(range(10))
    assert batch["pose"].shape == (10, 20, 4, 3) and (batch["frames"] == 20).all()
    assert (batch["pose"][:, 0, 2] == 0).all(), "each sample begins at its own middle"
    assert data.inputs == {"joints": 4, "persons": 1}


def test_windows_cover_a_sequence(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(25.0)[:, None, None] * np.ones((1, 2, 3)))
    data = open_data(tmp_path / "a.npy", modality="pose", window=10, hop=6, centre=-1)
    firsts = [
        (int(batch["pose"][0, 0, 0, 0]), int(batch["frames"]))
        for batch in (data.batch([row]) for row in range(len(data)))
    ]
    assert firsts == [(0, 10), (6, 10), (12, 10), (15, 10)], "the last ends with the sequence"
    halves = open_data(tmp_path / "a.npy", modality="pose", every=2, centre=-1).batch([0])
    assert halves["pose"][0, :, 0, 0].tolist() == list(range(0, 25, 2))


def test_stacks_of_the_usual_shapes(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3, 20, 25, 2)).astype(np.float32)
    x[1, :, 12:] = 0
    x[2, ..., 1] = 0
    np.savez(tmp_path / "five.npz", data=x, label=[0, 1, 1, 0], split=["train", "train", "test", "test"])
    data = open_data(tmp_path / "five.npz", modality="pose", centre=-1)
    batch = data.batch(range(4))
    assert batch["frames"].tolist() == [20, 12, 20, 20] and data.inputs == {"joints": 25, "persons": 2}
    assert torch.equal(batch["pose"][0, 5, 25 + 3], torch.from_numpy(x[0, :, 5, 3, 1]))
    assert len(data.split("train")) == 2
    centred = open_data(tmp_path / "five.npz", modality="pose", centre=1).batch(range(4))["pose"]
    assert not centred[2, :, 25:].any() and not centred[:, 0, 1].any(), "an absent person stays absent"
    flat = x.transpose(0, 2, 4, 3, 1).reshape(4, 20, 150)
    np.savez(
        tmp_path / "ntu.npz",
        x_train=flat[:3],
        y_train=np.eye(3)[[0, 2, 1]],
        x_test=flat[3:],
        y_test=np.eye(3)[[2]],
    )
    ntu = open_data(tmp_path / "ntu.npz", modality="pose", centre=-1)
    assert torch.equal(ntu.batch(range(4))["pose"], batch["pose"]) and ntu.labels.tolist() == [0, 2, 1, 2]
    np.savez(tmp_path / "nothing.npz", z=x)
    with pytest.raises(DataError, match="neither"):
        open_data(tmp_path / "nothing.npz", modality="pose")


def test_a_header_orders_columns(tmp_path):
    rows = np.arange(12.0).reshape(2, 6)
    (tmp_path / "a.csv").write_text(
        "time,aX,bX,aY,bY,aZ,bZ\n" + "\n".join("9," + ",".join(map(str, r)) for r in rows)
    )
    pose = open_data(tmp_path / "a.csv", modality="pose", centre=-1).batch([0])["pose"]
    assert pose[0, 0].tolist() == [[0, 2, 4], [1, 3, 5]]


def test_spread_and_new_splits():
    data = open_data("puppets", modality="pose", spread_to=0.9)
    plain = open_data("puppets", modality="pose")
    batch = data.batch(range(600))
    ratio = data.batch([5])["pose"] / plain.batch([5])["pose"]
    assert ratio[ratio.isfinite()].std() < 1e-3, "one factor for all"
    middles = [
        pose[:n] - pose[:n].mean(1, keepdim=True)
        for pose, n in zip(batch["pose"], batch["frames"], strict=True)
    ]
    assert torch.cat(middles).square().sum(2).mean().sqrt() == pytest.approx(0.9, rel=1e-3)
    some = open_data("puppets", modality="pose", test_each=3, without="walking,flying")
    assert "walking" not in some.classes and len(some.classes) == len(ACTIONS) - 1
    counts = [part.labels.bincount() for part in (some.split("train"), some.split("test"))]
    assert (counts[1] == (counts[0] + counts[1]) // 3).all()
    with pytest.raises(UsageError, match="joints from 0"):
        open_data("puppets", modality="pose", centre=16)
    with pytest.raises(UsageError, match="positive"):
        open_data("puppets", modality="pose", hop=0)


def test_puppets_keep_their_bones_and_differ_by_action():
    made = puppets(60, seed=3)
    again = puppets(60, seed=3)
    assert np.array_equal(made.joints, again.joints)
    row = made.joints[0, : made.frames[0]]
    for joint, parent in enumerate(PARENTS[1:], start=1):
        length = np.linalg.norm(row[:, joint] - row[:, parent], axis=1)
        assert length.std() < 0.02, "bones are stiff but for the noise"
    assert not made.joints[0, made.frames[0] :].any()
    moved = {
        name: np.abs(np.diff(made.joints[made.action == k][:, :72, LEFT_ELBOW], axis=1)).mean()
        for k, name in enumerate(ACTIONS)
    }
    assert moved["running"] > 2 * moved["squatting"]


def test_real_motion_capture(real_data):
    data = open_data(real_data("cmu_mocap_actions"), modality="pose", spread_to=0.45, window=120)
    assert data.inputs == {"joints": 38, "persons": 1} and not data.skipped
    assert "jumping" in data.classes and set(data.part_names) == {"train", "test"}
    pose = data.batch([0])["pose"][0]
    height = pose[0, :, 1].max() - pose[0, :, 1].min()
    assert 1.2 < height < 2.2, "metres, y upwards"
