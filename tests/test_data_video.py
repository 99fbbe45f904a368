"""Videos as data: files cut into clips against a plain decoder, arrays of every layout, what is broken, and the
embedded set."""

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import photo
from pretask import open_data
from pretask.data.films import Film, look_at, read_frames
from pretask.data.formats import Broken
from pretask.data.images import Wishes
from pretask.data.moving import MOTIONS, draw_scenes, event_at, render, sprites
from pretask.data.pictures import Canvas, Facts
from pretask.data.video import Found, Window, clips_of
from pretask.errors import DataError, UsageError

av = pytest.importorskip("av")


def write_video(path, count=20, size=(48, 64), codec="libx264", rate=10, number=0, **options):
    """A window that moves over a real photograph."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ground = photo(number, (size[0] + count, size[1] + count))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for step in range(count):
            frame = np.ascontiguousarray(ground[step : step + size[0], step : step + size[1]])
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def decoded(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


FORMATS = [("mp4", "libx264"), ("mkv", "libx264"), ("mov", "mpeg4"), ("avi", "mpeg4"), ("webm", "libvpx")]


@pytest.mark.parametrize(("suffix", "codec"), FORMATS)
def test_frames_by_number_are_those_a_plain_decoder_counts(tmp_path, suffix, codec):
    path = write_video(tmp_path / f"a.{suffix}", 25, codec=codec, **({"g": "8"} if codec != "libvpx" else {}))
    every, film = decoded(path), look_at(path)
    assert (film.frames, film.fps, film.facts.size) == (25, 10, (48, 64)) and film.seconds == 2.5
    found = dict(read_frames(path, [24, 3, 17]))
    assert sorted(found) == [3, 17, 24]
    assert all(np.array_equal(frame, every[number]) for number, frame in found.items())
    with pytest.raises(Broken, match="breaks off"):
        list(read_frames(path, [24, 25]))


@pytest.mark.parametrize("cache", ["memory", "never"])
def test_clips_of_a_folder(tmp_path, cache):
    for number, name in enumerate(("wave/a", "wave/b", "jump/c", "jump/d")):
        write_video(tmp_path / f"{name}.mp4", 20 if name != "jump/d" else 11, number=number)
    dataset = open_data(tmp_path, frames=4, stride=2, hop=5, image_size=32, cache=cache, workers=0)
    assert dataset.modality == "video" and dataset.inputs == {"in_chans": 3, "image_size": 32}
    starts = [0, 5, 10] * 3 + [0]  # the shortest reaches 7 frames from 0 and not from 5
    assert len(dataset) == 10 and sorted(dataset.classes) == ["jump", "wave"]
    batch = dataset.batch(range(10))
    assert batch["video"].shape == (10, 3, 4, 40, 40)
    assert batch["video"].dtype == torch.uint8 and batch["size"].tolist() == [[48, 64]] * 10
    names = ["jump/c", "jump/d", "wave/a", "wave/b"]
    rows = [
        (name, start)
        for name in names
        for start in (
            starts[:3]
            if name != "jump/d"
            else [
                0,
            ]
        )
    ]

    canvas = Canvas(batch["video"].shape[-1], 3)
    for row, (name, start) in enumerate(rows):
        every = decoded(tmp_path / f"{name}.mp4")
        for place in range(4):
            expected, _ = canvas.decode(np.ascontiguousarray(every[start + 2 * place]))
            assert np.array_equal(batch["video"][row, :, place], expected)
        assert dataset.classes[int(batch["label"][row])] == name.split("/")[0]


def test_broken_and_short_files_are_named(tmp_path):
    for number in range(8):
        write_video(tmp_path / f"{number}.mp4", number=number)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.avi").write_text("no video at all\n" * 50)
    write_video(tmp_path / "short.mp4", 3)
    dataset = open_data(tmp_path, frames=16, max_broken=0.5)
    why = {item.path: item.reason for item in dataset.skipped}
    assert len(dataset) == 8 and sorted(why) == ["empty.mp4", "short.mp4", "text.avi"]
    assert "3 frames, fewer than the 16" in why["short.mp4"]
    assert dataset.describe()["broken"] == 3
    with pytest.raises(DataError, match="3 of 11 files"):
        open_data(tmp_path, frames=16)
    with pytest.raises(DataError, match="fewer than"):
        open_data(tmp_path, frames=160, max_broken=1.0)


def test_a_file_that_breaks_off_gives_what_there_is(tmp_path):
    path = write_video(tmp_path / "a.mkv", 40, g="4")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    write_video(tmp_path / "b.mkv", 40, g="4")
    there = len(decoded_until_it_breaks(path))
    assert 8 < there < 40
    held = open_data(tmp_path, frames=4, max_broken=0.5, cache="memory")
    assert {held.samples.name(int(row)) for row in held.rows} == {"a.mkv", "b.mkv"}
    assert 10 + there // 4 - 1 <= len(held) <= 10 + there // 4


def decoded_until_it_breaks(path):
    found = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                found.append(frame)
    except av.FFmpegError:
        pass
    return found


class Breaking:
    """Videos of twelve frames, whatever their headers say: the second has five, the third none."""

    names = ("whole", "five", "none")
    there = (12, 5, 0)

    def look(self, row):
        return Film(12, 25.0, Facts((8, 8), 3))

    def read(self, row, wanted):
        for number in sorted(set(wanted)):
            if number >= self.there[row]:
                raise Broken("breaks off")
            yield number, np.full((8, 8, 3), 10 * row + number, np.uint8)


def test_headers_may_promise_more_than_there_is():
    for cache, count in (("memory", 4), ("never", 9)):
        wishes = Wishes(8, 3, 0.7, cache, 0)
        dataset = clips_of(Found("films", Breaking()), Window(4, 1, 4), wishes, None, None)
        assert len(dataset) == count, "three of the first, one of the second; else nothing was decoded yet"
        video = dataset.batch(range(count))["video"]
        values = {tuple(clip[0, :, 0, 0].tolist()) for clip in video}
        assert values <= {(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11), (10, 11, 12, 13)}, "others stand in"
        assert {item.path for item in dataset.skipped} == (
            {"none"} if cache == "memory" else {"five", "none"}
        )
    with pytest.raises(DataError, match="breaks off"):
        clips_of(Found("films", Breaking()), Window(4, 1, 4), Wishes(8, 3, 0.2, "memory", 0), None, None)


def test_frames_in_folders(tmp_path):

    for kind in ("x", "y"):
        for video in ("1", "2"):
            (tmp_path / kind / video).mkdir(parents=True)
            for frame in range(9):
                picture = photo(frame, (32, 32))
                Image.fromarray(picture).save(tmp_path / kind / video / f"f{frame + 5}.png")
    dataset = open_data(tmp_path, modality="video", frames=3)
    assert len(dataset) == 12 and dataset.classes == ["x", "y"], "frames 5 to 13: 9 comes before 10"
    expected = torch.from_numpy(np.stack([photo(frame, (32, 32)) for frame in (3, 4, 5)]))
    assert torch.equal(dataset.batch([1])["video"][0], expected.permute(3, 0, 1, 2))


@pytest.mark.parametrize("order", ["nthwc", "ntchw", "ncthw"])
def test_arrays_in_every_layout(order, tmp_path):
    rng = np.random.default_rng(0)
    plain = rng.integers(0, 256, (6, 8, 3, 16, 16)).astype(np.uint8)  # n t c h w
    array = np.einsum(f"ntchw->{order}", plain)
    np.savez(tmp_path / "a.npz", videos=array, labels=np.arange(6) % 2)
    for source in (array, tmp_path / "a.npz"):
        dataset = open_data(source, modality="video", frames=4, image_size=16)
        video = dataset.batch(range(12))["video"]
        assert torch.equal(video, torch.from_numpy(plain).view(12, 4, 3, 16, 16).transpose(1, 2))
    assert dataset.labels.tolist() == [0, 0, 1, 1] * 3
    never = open_data(source, modality="video", frames=4, image_size=16, cache="never", workers=0)
    assert torch.equal(never.batch(range(12))["video"], video)


def test_samples_of_one_video_are_not_learned_from_and_judged_by():
    array = np.zeros((20, 8, 16, 16), np.uint8)
    dataset = open_data((array, np.arange(20) % 2), modality="video", frames=4)
    train, test = dataset.split("train"), dataset.split("test")
    films = [set(dataset.samples.film[part.rows].tolist()) for part in (train, test)]
    assert not films[0] & films[1] and len(films[1]) == 4 and test.labels.tolist() == [0, 0, 1, 1] * 2


def test_what_cannot_be_is_explained(tmp_path):
    for wrong in (
        {"frames": 0},
        {"stride": 0},
        {"hop": 0},
        {"label": "colour"},
        {"frames": 49},
        {"channels": 1},
    ):
        with pytest.raises(UsageError):
            open_data("moving-digits", **wrong)
    with pytest.raises(DataError, match="holds no videos"):
        open_data(tmp_path, modality="video")
    with pytest.raises(DataError, match="no set of videos"):
        (tmp_path / "a.txt").write_text("x")
        open_data(tmp_path / "a.txt", modality="video")
    with pytest.raises(DataError, match="holds no videos; it should be"):
        open_data(np.zeros((3, 4)), modality="video")
    with pytest.raises(UsageError, match="no split 'val'"):
        open_data("moving-digits", split="val")


def test_the_embedded_set():
    by_motion, by_digit = (open_data("moving-digits", label=label) for label in ("motion", "digit"))
    assert len(by_motion) == 1000 and by_motion.classes == list(MOTIONS) and len(by_digit.classes) == 10
    assert len(by_motion.split("train")) == 800 and len(by_motion.split("test")) == 200
    batch, again = by_motion.batch([3, 900]), by_digit.batch([3, 900])
    assert torch.equal(batch["video"], again["video"]) and batch["video"].shape == (2, 3, 48, 32, 32)
    short = open_data("moving-digits", frames=8, stride=2, hop=16)
    assert torch.equal(short.batch([10])["video"][0], batch["video"][0][:, 16:32:2]), "the second of video 3"
    scenes, parts = draw_scenes(1, 0)
    seen = [
        set(scenes.digit[[part == name for part in parts]].flatten().tolist()) for name in ("train", "test")
    ]
    assert not seen[0] & seen[1]


def middle_of_ink(video):
    """Where what is white on black lies, in half sides of the picture."""
    ink = video[:, 0].float()
    axis = (torch.arange(ink.shape[-1]) + 0.5) / ink.shape[-1] * 2 - 1
    total = ink.sum((2, 3))
    return (ink.sum(2) * axis).sum(2) / total, (ink.sum(3) * axis).sum(2) / total, total


def test_digits_move_as_they_are_labelled():
    scenes, _ = draw_scenes(1, 0)
    rows = torch.stack([(scenes.motion[:, 0] == motion).nonzero()[0, 0] for motion in range(10)])
    scenes = scenes.rows(rows)._replace(
        tint=torch.zeros(10, 3), colour=torch.zeros(10, 1, dtype=torch.long), place=torch.zeros(10, 1, 2)
    )
    assert event_at(scenes.motion, torch.zeros(10, 1))[0].flatten().tolist() == list(range(10))
    x, y, total = middle_of_ink(render(scenes, torch.linspace(0.3, 0.7, 9).expand(10, 9), 64))
    moved_x, moved_y = x[:, -1] - x[:, 0], y[:, -1] - y[:, 0]
    assert moved_x[0] < -0.2 < 0.2 < moved_x[1] and moved_y[2] < -0.2 < 0.2 < moved_y[3]
    # y points down: to the right on the upper half is to the right about
    assert ((x[5].diff() * -y[5, :-1] + y[5].diff() * x[5, :-1]) > 0).all()
    assert ((x[4].diff() * -y[4, :-1] + y[4].diff() * x[4, :-1]) < 0).all()
    assert total[8, -1] > 1.3 * total[8, 0] and total[9, -1] < total[9, 0] / 1.3
    assert moved_x[6:8].abs().max() < 0.1 and moved_y[6:8].abs().max() < 0.1


def test_turning_left_is_counter_clockwise():
    scenes, _ = draw_scenes(1, 0)
    scenes = scenes.rows((scenes.motion[:, 0] == 6).nonzero()[:1, 0])._replace(
        tint=torch.zeros(1, 3), colour=torch.zeros(1, 1, dtype=torch.long), place=torch.zeros(1, 1, 2),
        tilt=torch.zeros(1, 1), size=torch.full((1, 1), 0.7),
    )  # fmt: skip
    quarter = torch.pi / 2 / 1.5 / 2  # of the event: a turn of a quarter
    upright, turned = render(scenes, torch.tensor([[0.5, 0.5 + quarter]]), 64)[0, 0].float()
    apart = [float((torch.rot90(upright, times) - turned).abs().mean()) for times in range(4)]
    assert apart[1] == min(apart) and apart[1] < 0.2 * apart[3]
    assert len(sprites()[0]) == 1797


def test_real_videos(real_data):
    dataset = open_data(real_data("video_clips"), frames=32, image_size=64)
    assert dataset.modality == "video" and len({dataset.samples.name(int(row)) for row in dataset.rows}) == 13
    batch = dataset.batch([0, len(dataset) - 1])
    assert batch["video"].float().std() > 20 and batch["size"][1].tolist() == [240, 320]
