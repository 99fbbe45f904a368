"""Puzzles: what is cut, asked and paid, held to loops, to Pillow and to what can go wrong."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from pretask.data.films import look_at
from pretask.errors import DataError, PretaskError, UsageError
from pretask.puzzles.clips import (
    PIXELS,
    clip_frames,
    clip_plan,
    clip_ranges,
    frame_size,
    sized,
    split_spatially,
)
from pretask.puzzles.depth import depth_points
from pretask.puzzles.makers import VisualJigsawMaker
from pretask.puzzles.numbers import draw_markers, take_out
from pretask.puzzles.pictures import to_picture, to_tensor
from pretask.puzzles.sources import fetch, scenes
from pretask.puzzles.tiles import centre_crop, slice_tiles
from pretask.puzzles.visual_jigsaw import depth_puzzle, gap_puzzle, image_puzzle, video_puzzle
from pretask.puzzles.write import write_puzzles

PHOTO = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 50, 71), dtype=np.uint8))


class TestTiles:
    @pytest.mark.parametrize(("rows", "columns"), [(3, 3), (1, 4), (7, 2), (1, 1)])
    def test_together_they_are_the_picture(self, rows, columns):
        tiles = slice_tiles(PHOTO, rows, columns)
        assert len(tiles) == rows * columns
        lines = [torch.cat(tiles[row * columns : (row + 1) * columns], dim=2) for row in range(rows)]
        assert torch.equal(torch.cat(lines, dim=1), PHOTO)

    def test_what_is_left_over_goes_to_the_first(self):
        assert [tuple(tile.shape[1:]) for tile in slice_tiles(PHOTO, 3, 3)] == [
            (17, 24), (17, 24), (17, 23), (17, 24), (17, 24), (17, 23), (16, 24), (16, 24), (16, 23),
        ]  # fmt: skip

    def test_more_parts_than_pixels(self):
        with pytest.raises(UsageError, match="50 pixels"):
            slice_tiles(PHOTO, 51, 1)

    @pytest.mark.parametrize(("height", "width"), [(50, 71), (20, 30), (21, 70), (60, 71), (61, 90)])
    def test_centre_crop_is_pillows(self, height, width):
        left, top = (71 - width) // 2, (50 - height) // 2
        expected = to_picture(PHOTO).crop((left, top, left + width, top + height))
        assert torch.equal(centre_crop(PHOTO, height, width), to_tensor(expected))


class TestClips:
    def test_ranges_by_hand(self):
        """100 frames, 6 clips trimmed by a tenth: a multiple of 60 is 60, so 40 frames are skipped."""
        assert clip_ranges(100, 6, 0.1) == [(41, 49), (51, 59), (61, 69), (71, 79), (81, 89), (91, 99)]
        assert clip_ranges(125, 6, 0.05) == [(6 + 20 * i, 24 + 20 * i) for i in range(6)]
        assert clip_ranges(23, 1, 0.1) == [(2, 21)], "a single clip skips nothing"

    @pytest.mark.parametrize(
        ("frames", "clips", "trim"), [(600, 6, 0.1), (777, 4, 0.05), (90, 2, 0.0), (91, 3, 1 / 3)]
    )
    def test_clips_are_equal_and_do_not_touch(self, frames, clips, trim):
        found = clip_ranges(frames, clips, trim)
        assert len({end - start for start, end in found}) == 1 and found[-1][1] <= frames
        for (first, end), (start, _) in zip(found, found[1:], strict=False):
            cut = (start - end) / 2
            assert cut == pytest.approx(trim * (end - first + 2 * cut)), "exactly the share"

    def test_too_short(self):
        for frames, trim in ((59, 0.1), (600, 0.5), (600, -0.1)):
            with pytest.raises(UsageError):
                clip_ranges(frames, 6, trim)

    @pytest.mark.parametrize(
        ("start", "end", "fps", "count"),
        [(10, 250, 30.0, 12), (0, 100, 30.0, 6), (0, 10, 30.0, 2), (5, 8, 1.0, 2), (0, 110, 30.0, 6)],
    )
    def test_frames(self, start, end, fps, count):
        """Two a second, an even number of at least two and at most twelve, from the first to the last."""
        found = clip_frames(start, end, fps)
        assert len(found) == count and found[0] == start and found[-1] == end - 1
        expected = [start + round((end - 1 - start) * i / (count - 1)) for i in range(count)]
        assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 1

    def test_plan(self):
        plan = clip_plan(600, 25.0, 6, most=8)
        assert len(plan) == 6 and {len(clip) for clip in plan} == {6}
        with pytest.raises(UsageError, match="frames"):
            clip_frames(0, 1, 25.0)

    def test_spatial_tiles(self):
        clip = PHOTO[None].repeat(2, 1, 1, 1)
        tiles = split_spatially(clip[..., :48, :70], 3, 2)
        assert torch.equal(
            torch.cat([torch.cat(tiles[i : i + 2], 3) for i in (0, 2, 4)], 2), clip[..., :48, :70]
        )
        tiles = split_spatially(clip, 3, 2)  # 50 x 71 is enlarged to 51 x 72
        assert len(tiles) == 6 and {tuple(tile.shape) for tile in tiles} == {(2, 3, 17, 36)}
        assert tiles[0].is_floating_point()

    @pytest.mark.parametrize(
        ("height", "width", "expected"),
        [
            (240, 320, (280, 392)),  # enlarged
            (1080, 1920, (224, 420)),
            (308, 308, (336, 336)),  # 308 x 308 are too few
            (6, 8, (280, 392)),
            (224, 448, (224, 448)),  # as many as asked for
            (276, 552, (224, 448)),  # shrunk to whole units, exactly
            (50, 2000, (28, 1988)),  # a side is one unit at least
        ],
    )
    def test_frame_sizes(self, height, width, expected):
        smart = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl").smart_resize
        assert frame_size(height, width) == smart(height, width, 28, PIXELS, PIXELS) == expected

    def test_frames_grow_and_shrink(self):
        clip = PHOTO[None].repeat(2, 1, 1, 1) / 255
        small = sized(clip, 28 * 28)
        assert small.shape == (2, 3, 28, 28) and small.min() >= 0 and small.max() <= 1
        large = sized(clip, 16 * 28 * 28)
        assert large.shape == (2, 3, 112, 140) and float(large.mean()) == pytest.approx(
            float(clip.mean()), abs=0.01
        )


def hills() -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(120.0), torch.arange(160.0), indexing="ij")
    depth = 1 + x / 40 + (y / 25).sin()
    depth[:30] = 0  # not known
    depth[-10:] = 12  # too far
    return depth


class TestPoints:
    def test_points_keep_their_distances(self):
        depth = hills()
        for seed in range(10):
            points = depth_points(depth, 5, torch.Generator().manual_seed(seed), apart=25)
            metres = [float(depth[y, x]) for y, x in points.tolist()]
            assert metres == sorted(metres) and metres[0] >= 0.1 and metres[-1] <= 10
            for i in range(5):
                for j in range(i):
                    assert (points[i] - points[j]).double().norm() >= 25
                    assert metres[i] - metres[j] >= 0.2 - 1e-6

    def test_the_seed_decides(self):
        draws = [depth_points(hills(), 4, torch.Generator().manual_seed(seed)).tolist() for seed in (0, 0, 1)]
        assert draws[0] == draws[1] != draws[2]

    def test_there_may_be_none(self):
        with pytest.raises(DataError, match="6 points"):
            depth_points(torch.full((90, 90), 2.0), 6, torch.Generator())

    def test_markers(self):
        image = Image.new("RGB", (100, 80), (10, 200, 30))
        drawn = np.asarray(draw_markers(image, [(40, 30), (40, 75)], radius=15, alpha=120)).astype(int)
        assert (np.asarray(image) == (10, 200, 30)).all(), "the picture is left as it was"
        assert drawn[40, 15].tolist() == [255, 0, 0], "the rim"
        mixed = [
            round(c * (1 - 120 / 255) + r * 120 / 255)
            for c, r in zip((10, 200, 30), (255, 0, 0), strict=True)
        ]
        assert np.abs(drawn[52, 30] - mixed).max() <= 1, "the disc lets through what is below"
        assert drawn[:, 53].tolist() == [[10, 200, 30]] * 80, "and nothing else is touched"
        for x in (30, 75):
            assert (drawn[30:50, x - 8 : x + 8].min(-1) > 200).any(), "a white number"

    def test_numbers_follow_the_order_and_points_do_not(self):
        points = torch.tensor([[20, 20], [20, 60], [60, 40]])
        image = torch.zeros(3, 80, 80, dtype=torch.uint8)
        puzzle = depth_puzzle(image, points, torch.tensor([1, 2, 0]), wrapper="none")
        # number 1 is on the second point, 2 on the third, 3 on the first
        expected = draw_markers(to_picture(image), [(20, 60), (60, 40), (20, 20)])
        assert torch.equal(puzzle.pictures[0], to_tensor(expected))
        assert puzzle.answer == [3, 1, 2]
        small = depth_puzzle(image, points, torch.tensor([1, 2, 0]), size=(40, 40)).pictures[0]
        assert torch.equal(small, to_tensor(expected.resize((40, 40)))), "resampled after drawing"


class TestGaps:
    def test_gaps(self):
        picture = to_picture(PHOTO)
        masked, taken = take_out(picture, 2, 3, [1, 5])
        found, whole = np.asarray(masked).astype(int), np.asarray(picture).astype(int)
        assert [tile.size for tile in taken] == [(23, 25), (24, 25)]
        assert (np.asarray(taken[0]) == whole[:25, 24:47]).all()
        changed = (found != whole).any(-1)
        inside = np.zeros_like(changed)
        inside[:26, 24:48] = inside[25:, 47:] = True  # Pillow's rectangles include their end
        assert not changed[~inside].any() and changed[inside].mean() > 0.9
        assert found[2, 30].tolist() == [255, 255, 255], "the frame"

    def test_puzzle(self):
        puzzle = gap_puzzle(PHOTO, torch.tensor([0, 4, 8]), torch.tensor([1, 2, 0]), wrapper="none")
        assert len(puzzle.pictures) == 4 and puzzle.answer == [3, 1, 2]
        assert torch.equal(puzzle.pictures[3], PHOTO[:, :17, :24]), "the first gap's tile is displayed third"


class TestPuzzles:
    def test_tiles_in_the_order_of_the_answer_are_the_picture(self):
        order = torch.tensor([4, 0, 8, 2, 6, 1, 3, 7, 5])
        puzzle = image_puzzle(PHOTO, order)
        restored = [puzzle.pictures[number - 1] for number in puzzle.answer]
        for tile, expected in zip(restored, slice_tiles(PHOTO, 3, 3), strict=True):
            assert torch.equal(tile, expected)
        content = puzzle.prompt[0]["content"]
        assert [part["text"] for part in content[:3]] == ["Tile 1:", None, "Tile 2:"]
        assert sum(part["type"] == "image" for part in content) == 9
        assert "3 rows and 3 columns" in content[-1]["text"] and "\\boxed{" in content[-1]["text"]

    def test_clips(self):
        clips = [torch.full((4, 3, 6, 8), float(i) / 10) for i in range(3)]
        puzzle = video_puzzle(clips, torch.tensor([1, 2, 0]), wrapper="answer")
        assert puzzle.answer == [3, 1, 2] and len(puzzle.pictures) == 12
        assert [float(frame.mean()) for frame in puzzle.pictures[::4]] == pytest.approx([0.1, 0.2, 0.0])
        assert "3 clips" in puzzle.parts[-1] and "<answer>" in puzzle.parts[-1]
        tiled = video_puzzle(clips, torch.arange(12), grid=(2, 2))
        assert len(tiled.pictures) == 48 and tiled.pictures[0].shape == (3, 280, 392)

    def test_tiles_of_bytes_that_have_to_be_enlarged_keep_their_brightness(self):
        clips = [torch.full((2, 3, 7, 9), 51 * (i + 1), dtype=torch.uint8) for i in range(2)]
        puzzle = video_puzzle(clips, torch.arange(8), grid=(2, 2), pixels=784)
        found = [float(frame.mean()) for frame in puzzle.pictures]
        assert found == pytest.approx([0.2] * 8 + [0.4] * 8, abs=1e-3)

    def test_an_order_of_other_pieces(self):
        with pytest.raises(UsageError, match="9 pieces"):
            image_puzzle(PHOTO, torch.tensor([0, 1, 2]))
        with pytest.raises(UsageError, match="no order"):
            video_puzzle([PHOTO[None]] * 2, torch.tensor([1, 1]))


def write_scene(folder, name: str, size=(120, 160)) -> None:
    depth = hills()[: size[0], : size[1]]
    Image.fromarray((depth * 1000).round().numpy().astype(np.uint16)).save(folder / f"{name}.depth.png")
    Image.new("RGB", (160, 120), (90, 90, 200)).save(folder / f"{name}.color.jpg")


class TestMakers:
    def test_pictures(self, photo_folder):
        made = list(VisualJigsawMaker(smallest=40, grid=(2, 2), wrapper="none")(photo_folder(4)))
        assert [name for name, _ in made] == [f"{i}.jpg" for i in range(4)]
        assert len({tuple(puzzle.answer) for _, puzzle in made}) > 1, "each has an order of its own"
        again = list(VisualJigsawMaker(smallest=40, grid=(2, 2), wrapper="none")(photo_folder(4)))
        assert [p.answer for _, p in again] == [p.answer for _, p in made]
        other = list(VisualJigsawMaker(smallest=40)(photo_folder(4), seed=1, limit=2))
        assert len(other) == 2

    def test_small_and_broken_pictures_are_left_out(self, photo_folder):
        maker = VisualJigsawMaker(smallest=62)
        made = list(maker(photo_folder(5, broken=True)))
        reasons = {entry.path: entry.reason for entry in maker.skipped}
        assert "a side of 53" in reasons["2.jpg"] and "truncated" in reasons["truncated.jpg"]
        assert len(made) + len(maker.skipped) == 9

    def test_smaller_ones_are_taken_where_there_are_no_others(self, photo_folder):
        assert len(list(VisualJigsawMaker()(photo_folder(3)))) == 3

    def test_resized_and_cropped_first(self, photo_folder):
        ((_, puzzle), *_) = VisualJigsawMaker(resize=(40, 60), crop=(30, 30), grid=(2, 2))(photo_folder(1))
        assert [tuple(tile.shape) for tile in puzzle.pictures] == [(3, 15, 15)] * 4

    def test_copies_differ(self, photo_folder):
        made = list(VisualJigsawMaker(copies=3, gaps=4)(photo_folder(1)))
        assert (
            len(made) == 3
            and len({str(puzzle.answer) + str(puzzle.pictures[0].sum()) for _, puzzle in made}) > 1
        )
        assert len(made[0][1].pictures) == 5

    def test_scenes(self, tmp_path):
        write_scene(tmp_path, "a")
        write_scene(tmp_path, "b", (100, 160))
        (tmp_path / "c.color.jpg").write_bytes(b"no")
        (tmp_path / "c.depth.png").write_bytes(b"no")
        maker = VisualJigsawMaker(kind="depth", points=4, apart=20.0)
        ((name, puzzle),) = maker(tmp_path)
        assert name == "a.color.jpg" and sorted(puzzle.answer) == [1, 2, 3, 4]
        assert {entry.path for entry in maker.skipped} == {"b.color.jpg", "c.color.jpg"}

    def test_scenes_in_a_zip_and_in_folders(self, tmp_path):
        write_scene(tmp_path, "a")
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            archive.write(tmp_path / "a.color.jpg", "x/color/7.jpg")
            archive.write(tmp_path / "a.depth.png", "x/depth/7.png")
        ((name, image, depth),) = scenes(tmp_path / "all.zip", None, [])
        assert name == "x/color/7.jpg" and image.shape == (3, 120, 160)
        assert torch.allclose(depth, hills().float(), atol=6e-4)

    def test_nothing_there(self, tmp_path):
        for kind in ("video", "depth"):
            with pytest.raises(DataError, match="holds no"):
                list(VisualJigsawMaker(kind=kind)(tmp_path))

    def test_real_scenes(self, real_data):
        maker = VisualJigsawMaker(kind="depth")
        made = list(maker(real_data("rgbd_7scenes"), limit=6))
        assert len(made) + len({entry.path for entry in maker.skipped}) == 6 and len(made) >= 3
        assert made[0][1].pictures[0].shape == (3, 240, 320)

    def test_real_videos(self, real_data):
        pytest.importorskip("av")
        path = real_data("video_clips") / "ucf101_BaseballPitch.mp4"
        video = look_at(path)
        maker = VisualJigsawMaker(kind="video", shortest=1.0, clips=3)
        ((_, puzzle),) = maker(path)
        assert video.seconds > 1 and len(puzzle.pictures) % 3 == 0 and sorted(puzzle.answer) == [1, 2, 3]
        late = fetch(path, [[0, 1], [video.frames - 1, video.frames // 2]])
        assert not torch.equal(late[0][0], late[1][0])
        short = VisualJigsawMaker(kind="video")
        assert not list(short(path)) and "seconds" in short.skipped[0].reason


class TestWrite:
    def test_trl_can_read_it(self, photo_folder, tmp_path):
        datasets = pytest.importorskip("datasets")
        written = write_puzzles("visual-jigsaw", photo_folder(3), tmp_path / "out", options={"copies": "2"})
        assert written.puzzles == 6 and len(written.files) == 1
        read = datasets.Dataset.from_parquet(str(written.files[0]), cache_dir=str(tmp_path / "cache"))
        assert set(read.column_names) == {"prompt", "images", "answer", "wrapper", "source"}
        maker = VisualJigsawMaker(copies=2)
        for row, (name, puzzle) in zip(read, maker(written.folder.parent / "photos0"), strict=True):
            assert row["answer"] == puzzle.answer and row["source"] == name and row["prompt"] == puzzle.prompt
            for image, picture in zip(row["images"], puzzle.pictures, strict=True):
                assert torch.equal(to_tensor(image), picture)
        card = (written.folder / "README.md").read_text()
        assert "import reward" in card and 'lr_scheduler_type="constant"' in card

    def test_refusals(self, photo_folder, tmp_path):
        folder = photo_folder(2)
        with pytest.raises(UsageError, match="not empty"):
            write_puzzles("visual-jigsaw", folder, folder)
        with pytest.raises(UsageError, match="poses no puzzles"):
            write_puzzles("rotation", folder, tmp_path / "out")
        with pytest.raises(UsageError, match="no option 'gird'"):
            write_puzzles("visual-jigsaw", folder, tmp_path / "out", options={"gird": "2,2"})
        with pytest.raises(UsageError, match="--data"):
            write_puzzles("visual-jigsaw", None, tmp_path / "out")
        with pytest.raises(DataError, match="no puzzle"):
            write_puzzles("visual-jigsaw", folder, tmp_path / "out", options={"smallest": 999})
        assert not (tmp_path / "out").exists()

    def test_pictures_of_other_channels(self):
        with pytest.raises(PretaskError, match="5 channels"):
            to_picture(torch.zeros(5, 4, 4))
        assert to_picture(torch.zeros(1, 4, 4)).mode == "L"
        buffer = io.BytesIO()
        to_picture(torch.rand(3, 4, 4)).save(buffer, "png")
