"""Volumes as data: orientation, spacing, windows, segmentations beside files, broken files, arrays, phantoms; and the
networks that read them, and the linear read-out of segmentations."""

import gzip
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from pretask import open_data
from pretask.data.formats import Broken
from pretask.data.phantoms import KINDS, SEGMENTS, phantom
from pretask.data.volume_files import pair
from pretask.data.voxels import Reading, Scan, box, centred, resampled, scaled
from pretask.encoders import build_encoder
from pretask.encoders.volume import build
from pretask.encoders.weights import read_encoder, save_encoder
from pretask.errors import DataError, UsageError
from pretask.evaluation.segmentation import carried, dice, segmentation

nibabel = pytest.importorskip("nibabel")


def write(path, values, codes="RAS", spacing=(1.0, 1.0, 1.0)):
    """A NIfTI file of an array whose axes run right, to the front and up, stored as `codes` say."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = nibabel.Nifti1Image(values, np.diag([*spacing, 1.0]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
    )
    nibabel.save(plain.as_reoriented(turn), path)


def ramp(size=(6, 8, 10), axis=0):
    shape = [1, 1, 1]
    shape[axis] = size[axis]
    return np.broadcast_to(np.arange(size[axis], dtype=np.float32).reshape(shape), size).copy()


class TestFiles:
    @pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "IAL"])
    def test_axes_run_right_to_the_front_and_up(self, tmp_path, codes):
        rng = np.random.default_rng(0)
        values = rng.integers(0, 200, (6, 8, 10)).astype(np.int16)
        write(tmp_path / "a.nii.gz", values, codes, (1, 2, 3))
        dataset = open_data(tmp_path / "a.nii.gz", size=[6, 8, 10], window=[0, 200])
        assert dataset.modality == "volume" and "1 x 2 x 3" in dataset.describe()["spacing (mm)"]
        batch = dataset.batch([0])
        assert np.allclose(batch["volume"][0, 0] * 200, values, atol=1e-4) and batch["size"].tolist() == [
            [6, 8, 10]
        ]

    def test_spacing_is_honoured(self, tmp_path):
        """A body of 24 mm in files of different spacing has equally many voxels."""
        for number, spacing in enumerate([(1, 1, 1), (2, 2, 2), (1, 2, 4)]):
            shape = tuple(48 // step for step in spacing)
            values = np.zeros(shape, np.float32)
            values[tuple(slice(side // 4, side * 3 // 4) for side in shape)] = 1
            write(tmp_path / f"{number}.nii", values, spacing=spacing)
        read = open_data(tmp_path, spacing=2, size=32, window=[0, 1]).batch([0, 1, 2])["volume"]
        assert read.shape == (3, 1, 32, 32, 32)
        assert torch.allclose(read.sum((1, 2, 3, 4)), torch.full((3,), 12.0**3), rtol=0.25)
        assert open_data(tmp_path, spacing=[2, 2, 4]).inputs["size"] == [24, 24, 16], (
            "12 voxels, in steps of 8"
        )
        stretched = open_data(tmp_path, size=[16, 16, 16], window=[0, 1]).batch([0, 1, 2])["volume"]
        assert (stretched.mean((1, 2, 3, 4)) - 1 / 8).abs().max() < 0.05

    def test_segmentations_labels_and_splits_by_name(self):
        images, masks = pair(
            [
                "imagesTr/a_0000.nii.gz", "imagesTr/b.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz",
                "x/c.nii", "x/c_seg.nii", "x/d.nii.gz", "x/d-mask.nii.gz", "x/e_seg-manual.nii.gz", "x/e.nii.gz",
                "alone_labels.nii.gz", "x/unmasked.nii",
            ]
        )  # fmt: skip
        assert images == [
            "imagesTr/a_0000.nii.gz", "imagesTr/b.nii.gz", "x/c.nii", "x/d.nii.gz", "x/e.nii.gz", "x/unmasked.nii",
        ]  # fmt: skip
        assert masks == {
            "imagesTr/a_0000.nii.gz": "labelsTr/a.nii.gz", "imagesTr/b.nii.gz": "labelsTr/b.nii.gz",
            "x/c.nii": "x/c_seg.nii", "x/d.nii.gz": "x/d-mask.nii.gz", "x/e.nii.gz": "x/e_seg-manual.nii.gz",
        }  # fmt: skip

    def test_a_decathlon_folder(self, tmp_path):
        mask = (ramp() > 2).astype(np.uint8)
        for number in range(3):
            write(tmp_path / f"imagesTr/{number}.nii.gz", ramp(), "LPS")
            write(tmp_path / f"labelsTr/{number}.nii.gz", mask, "RAS")
        write(tmp_path / "imagesTs/9.nii.gz", ramp())
        names = {"labels": {"0": "background", "1": "right half"}}
        (tmp_path / "dataset.json").write_text(json.dumps(names))
        dataset = open_data(tmp_path, size=[6, 8, 10])
        assert dataset.describe()["splits"] == {"train": 3, "test": 1}
        assert dataset.facts["segmentations"] == "background, right half"
        batch = dataset.batch([0, 1, 2, 3])
        assert np.array_equal(batch["segmentation"][2], mask) and (batch["segmentation"][3] == -1).all()

    def test_classes_and_broken_files(self, tmp_path):
        for kind in ("healthy", "ill"):
            for number in range(4):
                write(tmp_path / kind / f"{number}.nii.gz", ramp())
        good = (tmp_path / "ill/0.nii.gz").read_bytes()
        (tmp_path / "ill/cut.nii.gz").write_bytes(good[: len(good) // 2])
        (tmp_path / "ill/empty.nii.gz").write_bytes(b"")
        (tmp_path / "ill/text.nii.gz").write_bytes(gzip.compress(b"no volume" * 100))
        write(tmp_path / "ill/void.nii", np.full((6, 8, 10), np.nan, np.float32))
        write(tmp_path / "ill/slice.nii", np.zeros((6, 8), np.float32))
        write(tmp_path / "ill/colour.nii", np.zeros((6, 8, 10, 3), np.float32))
        write(tmp_path / "ill/5.nii", ramp())
        write(tmp_path / "ill/5_seg.nii", ramp((3, 3, 3)))
        dataset = open_data(tmp_path, max_broken=0.6)
        assert len(dataset) == 8 and dataset.classes == ["healthy", "ill"]
        reasons = {item.path.split("/")[-1]: item.reason for item in dataset.skipped}
        assert reasons.keys() == {
            "cut.nii.gz", "empty.nii.gz", "text.nii.gz", "void.nii", "slice.nii", "colour.nii", "5.nii",
        }  # fmt: skip
        assert "finite" in reasons["void.nii"] and "3 channels" in reasons["colour.nii"]
        assert "segmentation" in reasons["5.nii"] and reasons["empty.nii.gz"] == "empty file"
        with pytest.raises(DataError, match="max_broken"):
            open_data(tmp_path)
        lazy = open_data(tmp_path, max_broken=0.6, cache="never")
        assert not lazy.in_memory and lazy.batch([0])["volume"].shape[1] == 1

    def test_arrays(self, tmp_path):
        rng = np.random.default_rng(0)
        stack = rng.integers(0, 255, (6, 8, 8, 8), dtype=np.uint8)
        label = np.array([0, 1] * 3)[:, None]
        np.savez(
            tmp_path / "m.npz", train_images=stack[:4], train_labels=label[:4], test_images=stack[4:],
            test_labels=label[4:],
        )  # fmt: skip
        dataset = open_data(tmp_path / "m.npz", modality="volume", window=[0, 255])
        assert (
            dataset.describe()["splits"] == {"train": 4, "test": 2} and dataset.labels.tolist() == [0, 1] * 3
        )
        assert torch.allclose(dataset.batch([5])["volume"][0, 0] * 255, torch.from_numpy(stack[5]).float())
        np.save(tmp_path / "a.npy", stack)
        assert len(open_data(tmp_path / "a.npy", modality="volume")) == 6
        assert len(open_data((stack, label), modality="volume").classes) == 2
        folder = tmp_path / "folder"
        folder.mkdir()
        for number in range(2):
            mask = (stack[number] > 9).astype(np.uint8)
            np.savez(folder / f"{number}.npz", volume=np.stack([stack[number]] * 2), segmentation=mask)
        batch = open_data(folder, modality="volume").batch([0, 1])
        assert batch["volume"].shape == (2, 2, 8, 8, 8) and batch["segmentation"].float().mean() > 0.9

    def test_errors_say_what_to_do(self, tmp_path):
        write(tmp_path / "a.nii", ramp())
        for setting, value in (("spacing", 0), ("size", [8, 8]), ("size", 7.5), ("window", [3, 1])):
            with pytest.raises(UsageError, match=setting):
                open_data(tmp_path, **{setting: value})
        with pytest.raises(UsageError, match="no split"):
            open_data(tmp_path, split="test")
        with pytest.raises(DataError, match="there is no"):
            open_data(tmp_path / "missing", modality="volume")
        with pytest.raises(DataError, match="is expected|are expected"):
            open_data(np.zeros((3, 3)), modality="volume")

    def test_real_volumes(self, real_data):
        dataset = open_data(real_data("hippocampus_mri"), limit=6)
        batch = dataset.batch(range(6))
        assert dataset.modality == "volume" and batch["volume"].shape == batch["segmentation"][:, None].shape
        assert set(batch["segmentation"].unique().tolist()) == {0, 1, 2}
        brains = open_data(real_data("brain_volumes"))
        assert len(brains) == 5 and brains.describe()["other files"] and not brains.skipped


class TestReading:
    def test_windows_and_percentiles(self):
        values = np.array([-1000, -175, 37.5, 250, 3000], np.float32).reshape(1, 5, 1, 1)
        assert scaled(values, (-175, 250)).ravel().tolist() == pytest.approx([0, 0, 0.5, 1, 1])
        noise = np.random.default_rng(0).normal(50, 10, (2, 20, 20, 20))
        found = scaled(noise, None)
        for channel, own in zip(found, noise, strict=True):
            low, high = np.percentile(own, (0.5, 99.5))
            assert np.allclose(channel, np.clip((own - low) / (high - low), 0, 1), atol=1e-5)
        assert not scaled(np.full((1, 2, 2, 2), 7.0), None).any()
        holes = noise.copy()
        holes[0, 0] = np.nan
        assert np.isfinite(scaled(holes, None)).all() and not scaled(holes, None)[0, 0].any()

    def test_the_box_of_what_is_bright(self):
        values = np.zeros((1, 8, 8, 8))
        values[0, 2, 3:6, 4] = values[0, 5, 3, 7] = 1
        assert box(values, 0.3) == (slice(2, 6), slice(3, 6), slice(4, 8))
        assert values[(0, *box(values, 2.0))].shape == (8, 8, 8)
        columns = Reading((4, 3, 4), foreground=0.3, window=(0, 1)).columns(Scan(values))
        assert torch.equal(columns["volume"][0], torch.from_numpy(values[0, 2:6, 3:6, 4:8]).float())

    def test_stretching(self):
        line = torch.arange(9.0).view(1, 9, 1, 1)
        assert torch.allclose(resampled(line, (5, 1, 1)).flatten(), torch.linspace(0, 8, 5))
        assert resampled(line, (3, 1, 1)).flatten().tolist() == pytest.approx([1, 4, 7]), (
            "thirds are averaged"
        )
        whole = torch.tensor([5, 5, 9, 9], dtype=torch.int16).view(1, 4, 1, 1)
        assert resampled(whole, (8, 1, 1)).flatten().tolist() == [5] * 4 + [9] * 4

    def test_cutting_and_filling_up(self):
        values = torch.arange(4.0).view(1, 4, 1, 1)
        assert centred(values, (2, 1, 1), 0).flatten().tolist() == [1, 2]
        assert centred(values, (7, 1, 1), -1).flatten().tolist() == [-1, 0, 1, 2, 3, -1, -1]

    def test_channels_and_segmentations_must_fit(self):
        with pytest.raises(Broken, match="2 channels where 1"):
            Reading((4, 4, 4)).columns(Scan(np.zeros((2, 4, 4, 4))))


class TestPhantoms:
    def test_organs_lie_where_they_belong(self):
        scan = phantom("ordinary", np.random.default_rng(0))
        middle = {
            name: np.argwhere(scan.segments == number).mean(0)
            for number, name in enumerate(SEGMENTS)
            if number
        }
        assert middle["liver"][0] > middle["spine"][0] > middle["spleen"][0], "the liver is on the right"
        assert middle["spine"][1] < middle["aorta"][1] < middle["stomach"][1], "the spine is behind"
        assert scan.segments.max() == 7 and 0.1 < (scan.segments > 0).mean() < 0.4

    def test_kinds_differ_and_bodies_too(self):
        scans = {kind: phantom(kind, np.random.default_rng(1)) for kind in KINDS}
        size = {kind: np.bincount(scan.segments.ravel(), minlength=8) for kind, scan in scans.items()}
        assert size["large liver"][1] > 1.4 * size["ordinary"][1]
        assert size["large spleen"][2] > 2 * size["ordinary"][2] and size["one kidney"][5] == 0
        other = phantom("ordinary", np.random.default_rng(2))
        assert not np.array_equal(other.segments, scans["ordinary"].segments)
        again = phantom("ordinary", np.random.default_rng(1))
        assert np.array_equal(again.values, scans["ordinary"].values)

    def test_the_set(self):
        dataset = open_data("phantoms", limit=8)
        assert dataset.modality == "volume" and dataset.classes == list(KINDS)
        assert set(dataset.part_names) == {"train", "test"} and dataset.inputs == {
            "in_chans": 1,
            "size": [64, 64, 16],
        }


class TestEncoders:
    @pytest.mark.parametrize("name", ["resnet:width=8", "segresnet:width=8", "raw"])
    def test_levels_pooled_and_maps(self, name, tmp_path):
        encoder = build_encoder(name, "volume", seed=0, in_chans=2, size=[16, 24, 16]).eval()
        volume = torch.rand(2, 2, 16, 24, 16, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            features, maps = encoder(volume), encoder.maps({"volume": volume})
        assert features.pooled.shape == (2, encoder.dim)
        assert features.tokens.shape[1] == np.prod(features.grid)
        if name == "raw":
            assert torch.equal(maps, volume)
            return
        levels = encoder.levels(volume)
        assert torch.allclose(
            features.pooled, torch.cat([level.mean((2, 3, 4)) for level in levels], 1), atol=1e-6
        )
        assert maps.shape == (2, encoder.dim, 8, 12, 8)
        save_encoder(encoder, tmp_path / "encoder.safetensors")
        again = read_encoder(tmp_path / "encoder.safetensors").eval()
        assert torch.equal(again(volume).pooled, features.pooled)
        assert encoder(volume[:, :, :9, :, :11]).pooled.isfinite().all(), "odd sizes are stretched"

    def test_swin_unetr_is_monais_encoder(self):
        """Its parts under MONAI's names, and their outputs what MONAI's forward pass makes of them."""
        nets = pytest.importorskip("monai.networks.nets")
        encoder = build("swin_unetr:width=12", size=(64, 32, 32)).eval()
        theirs = nets.SwinUNETR(1, 2, feature_size=12, use_v2=True).eval()
        missing, unexpected = theirs.load_state_dict(encoder.model.state_dict(), strict=False)
        assert not unexpected and all(name.startswith(("decoder", "out")) for name in missing)
        seen = {}
        for name in ("encoder1", "encoder2", "encoder3", "encoder4", "encoder10"):
            getattr(theirs, name).register_forward_hook(
                lambda _, __, out, name=name: seen.update({name: out})
            )
        volume = torch.rand(1, 1, 64, 32, 32)
        with torch.no_grad():
            theirs(volume)
            pooled = encoder(volume).pooled
        assert torch.allclose(pooled, torch.cat([out.mean((2, 3, 4)) for out in seen.values()], 1), atol=1e-5)
        assert encoder.dim == pooled.shape[1] == 12 * 24, "1152 at the paper's 48"

    def test_errors_say_what_to_do(self):
        for name in ("vit", "resnet:depth=3", "resnet:width=9", "swin_unetr:width=16"):
            with pytest.raises(UsageError, match="resnet|width"):
                build(name)


class Oracle(torch.nn.Module):
    """Says what is where, and noise beside it."""

    def maps(self, batch):
        truth = batch["segmentation"].long().clamp(min=0)
        return F.one_hot(truth, 8).movedim(-1, 1).float()


class TestSegmentation:
    def test_dice_against_sets(self):
        generator = torch.Generator().manual_seed(0)
        answer, truth = (torch.randint(0, 4, (3, 4, 5, 6), generator=generator) for _ in range(2))
        truth[0, 0], truth[1][truth[1] == 2], answer[1][answer[1] == 2] = -1, 0, 0
        found = dice(answer, truth, 4)
        for row in range(3):
            known = {tuple(place) for place in (truth[row] >= 0).nonzero().tolist()}
            for number in range(1, 4):
                a = {tuple(place) for place in (answer[row] == number).nonzero().tolist()} & known
                b = {tuple(place) for place in (truth[row] == number).nonzero().tolist()}
                if not a and not b:
                    assert found[row, number - 1].isnan() and (row, number) == (1, 2)
                else:
                    assert float(found[row, number - 1]) == pytest.approx(2 * len(a & b) / (len(a) + len(b)))

    @pytest.mark.parametrize(("grid", "size"), [((3, 4), (9, 7)), ((3, 4, 2), (6, 9, 5))])
    def test_places_are_carried_as_whole_maps_are(self, grid, size):
        maps = torch.randn(2, 5, *grid, generator=torch.Generator().manual_seed(0))
        mode = "bilinear" if len(size) == 2 else "trilinear"
        whole = F.interpolate(maps, size, mode=mode, align_corners=False).flatten(2).transpose(1, 2)
        asked = torch.randint(whole.shape[1], (2, 30), generator=torch.Generator().manual_seed(1))
        assert torch.allclose(
            carried(maps, asked, size), whole.gather(1, asked[..., None].expand(-1, -1, 5)), atol=1e-5
        )

    def test_who_knows_is_right(self):
        data = open_data("phantoms", size=[16, 16, 8], limit=24)
        train, test = data.split("train"), data.split("test")
        (score,) = segmentation(Oracle(), train, test, places=3000)
        assert score.value > 0.99 and score.n == len(test) and set(score.detail["by class"]) <= set("1234567")
        (raw,) = segmentation(build("raw", size=(16, 16, 8)), train, test, places=3000)
        assert raw.value < 0.6 and raw.low < raw.value < raw.high

    def test_errors_say_what_to_do(self):
        plain = open_data(np.random.default_rng(0).random((4, 8, 8, 8)), modality="volume")
        with pytest.raises(UsageError, match="put masks beside"):
            segmentation(build("raw", size=(8, 8, 8)), plain, plain)


def test_tiny_volumes_are_what_a_reader_gives():
    assert tiny.volumes(2)["volume"].shape == (2, 1, 16, 16, 8)
