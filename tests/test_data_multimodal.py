"""Tables of videos, sounds and texts: what makes a sample, spans of timed words, what is missing or broken."""

import json

import numpy as np
import pytest
import torch

from pretask import open_data
from pretask.data.manifest import Piece, joined, piece_of, read_manifest, segments
from pretask.data.moving import COLOURS, MOTIONS, draw_scenes, sprites
from pretask.data.narration import NUMBERS, SAYINGS, narrate
from pretask.data.pictures import Canvas
from pretask.data.tokens import tokenizer_of
from pretask.encoders.towers import build
from pretask.encoders.weights import read_encoder, save_encoder
from pretask.errors import DataError, UsageError
from pretask.evaluation.crossmodal import crossmodal, rank_of_own
from test_data_video import decoded, write_video

TOWERS = (
    "video=space_time_vit:embed_dim=16,depth=1,num_heads=2,frames=4,patch=8;"
    "text=distilbert:dim=16,n_layers=1,n_heads=2,hidden_dim=32"
)


def write_lines(path, lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def spoken(dataset, batch, row):
    tokenizer = tokenizer_of(dataset.inputs["tokenizer"])
    texts = batch["script"][row] if "script" in batch else batch["tokens"][row][None]
    return [tokenizer.decode(text) for text in texts]


def test_lines_of_a_table(tmp_path):
    line = piece_of(
        {"Path": "a.mp4", "caption": "hello", "begin": "1.5", "stop": 3, "class": 4, "set": "validation"}
    )
    assert line == Piece("a.mp4", None, ("hello",), 1.5, 3.0, "4", "val")
    words = piece_of(
        {"video": "a.mp4", "words": [["so", 1], {"word": "then", "start": 2.5}, ["end", 3, 3.2]]}
    ).words
    assert words == (("so", 1.0), ("then", 2.5), ("end", 3.0))
    table = write_lines(
        tmp_path / "a.jsonl", [{"video": "a.mp4", "text": "x"}, "no json", {"video": "a", "start": "now"}]
    )
    found, skipped = read_manifest(table)
    assert len(found) == 1 and [item.path for item in skipped] == ["a.jsonl, line 2", "a.jsonl, line 3"]
    (tmp_path / "a.tsv").write_text("video\ttext\na.mp4\thello, you\n")
    assert read_manifest(tmp_path / "a.tsv")[0] == [Piece("a.mp4", None, ("hello, you",))]
    with pytest.raises(DataError, match="names no video, audio or text"):
        read_manifest(write_lines(tmp_path / "b.jsonl", [{"colour": "red"}]))


def test_lines_that_follow_each_other_are_joined():
    lines = [Piece("a", None, (f"a{i}",), i, i + 1.0) for i in range(5)]
    lines += [Piece("b", None, (f"b{i}",), i, i + 1.0) for i in range(2)]
    lines += [Piece("c", None, ("c0",), 0, 1.0)]
    found, skipped = joined(lines, 2)
    assert [(p.video, p.texts, p.start, p.end) for p in found] == [
        ("a", ("a0", "a1"), 0, 2.0), ("a", ("a2", "a3"), 2, 4.0), ("b", ("b0", "b1"), 0, 2.0),
    ]  # fmt: skip
    assert [item.path for item in skipped] == ["c"] and joined(lines, 1)[0] == lines


def test_spans_of_timed_words():
    words = tuple((f"w{i}", i / 2) for i in range(240))  # two minutes, two words a second
    found = segments(Piece("a", words=words), 4, np.random.default_rng(0))
    assert len(found) == 6, "119.5 seconds hold six usual parts of 19"
    units = set()
    for piece in found:
        length = piece.end - piece.start
        unit = (length - 3) / 4
        units.add(round(unit, 6))
        assert piece.start >= 0 and piece.end <= 119.5 and piece.words == ()
        for i, text in enumerate(piece.texts):
            begin = piece.start + i * (unit + 1)
            assert text.split() == [word for word, time in words if begin < time < begin + unit]
    assert units <= {3, 4, 5} and len(units) > 1
    (short,) = segments(Piece("a", words=words[:20], start=1.0), 4, np.random.default_rng(0))
    assert (short.start, short.end) == (1.0, 9.5), "spans of (8.5 - 3) / 4 seconds fill what there is"
    for i, text in enumerate(short.texts):
        begin = 1 + i * (1.375 + 1)
        assert text.split() == [word for word, time in words if begin < time < begin + 1.375]
    assert joined([Piece("a", words=words[:7])], 4)[1][0].reason.startswith("is too short"), "all gaps"
    assert joined([Piece("a", words=words)], 4) == joined([Piece("a", words=words)], 4), "the same each time"


def test_a_table_of_videos_and_texts(tmp_path):
    for number in range(6):
        write_video(tmp_path / "clips" / f"{number}.mp4", 40, number=number)
    (tmp_path / "clips" / "5.mp4").write_bytes(b"broken")
    lines = [
        {"video": f"clips/{n}.mp4", "text": f"part {part} of video {n}", "start": 1.0 * part, "end": part + 1.0}
        for n in range(6) for part in range(4)
    ]  # fmt: skip
    table = write_lines(tmp_path / "table.jsonl", lines)
    for cache in ("memory", "never"):
        data = open_data(
            table, modality="multimodal", frames=5, image_size=32, max_broken=0.3, cache=cache, workers=0
        )
        assert len(data) == 20 and len(data.skipped) == 4 and data.inputs["image_size"] == 32
        batch = data.batch([6])
        assert spoken(data, batch, 0) == ["part 2 of video 1"]

        every, canvas = decoded(tmp_path / "clips" / "1.mp4"), Canvas(batch["video"].shape[-1], 3)
        for place, number in enumerate((21, 23, 25, 27, 29)):  # ten frames a second, two for each of five
            expected = canvas.decode(np.ascontiguousarray(every[number]))[0]
            assert np.array_equal(batch["video"][0, :, place], expected)
    story = open_data(table, modality="multimodal", spans=4, image_size=32, max_broken=0.3)
    batch = story.batch(range(5))
    assert batch["script"].shape[:2] == (5, 4) and batch["video"].shape[:3] == (5, 3, 32)
    assert spoken(story, batch, 3) == [f"part {part} of video 3" for part in range(4)]
    assert [len(story.split(part)) for part in ("train", "test")] == [4, 1], "whole files are held out"


def test_sound_and_any_subset_of_columns(tmp_path):
    from scipy.io import wavfile

    for number in range(3):
        wave = np.sin(2 * np.pi * 200 * (number + 1) * np.arange(16000) / 8000)
        wavfile.write(tmp_path / f"{number}.wav", 8000, (wave * 20000).astype(np.int16))
    lines = [{"audio": f"{n}.wav", "text": f"tone {n}", "start": 0.5, "label": n % 2} for n in range(3)]
    data = open_data(write_lines(tmp_path / "a.jsonl", lines), modality="multimodal", rate=8000, seconds=1.0)
    batch = data.batch([0, 2])
    assert set(batch) == {"audio", "tokens", "attention", "index", "label"} and batch["audio"].shape == (
        2,
        8000,
    )
    assert torch.fft.rfft(batch["audio"]).abs().argmax(1).tolist() == [200, 600]
    lines[1].pop("text")
    partly = open_data(
        write_lines(tmp_path / "b.jsonl", lines),
        modality="multimodal",
        rate=8000,
        seconds=1.0,
        max_broken=0.5,
    )
    assert len(partly) == 2 and partly.skipped[0].reason == "has no text"
    alone = [{"text": f"only {n} words"} for n in range(4)]
    assert set(open_data(write_lines(tmp_path / "c.jsonl", alone), modality="multimodal").batch([0])) == {
        "tokens", "attention", "index",
    }  # fmt: skip


def test_what_cannot_be_is_explained(tmp_path):
    with pytest.raises(DataError, match="no table"):
        open_data(tmp_path / "none.jsonl", modality="multimodal")
    for wrong in ({"frames": 0}, {"max_length": 3}, {"label": "colour"}, {"spans": 3}, {"channels": 1}):
        with pytest.raises(UsageError):
            open_data("narrated-digits", **wrong)
    missing = write_lines(tmp_path / "a.jsonl", [{"video": "gone.mp4", "text": "x"}])
    with pytest.raises(DataError, match="no such file|No such file"):
        open_data(missing, modality="multimodal")


def test_the_narrated_set_says_what_is_seen():
    data = open_data("narrated-digits")
    assert (
        data.modality == "multimodal" and len(data.split("train")) == 3000 and len(data.split("test")) == 500
    )
    scenes, _ = draw_scenes(4, 1, 3000, 500)
    told, names = narrate(scenes, 1), list(COLOURS)
    kept = 0
    for row in range(200):
        for event, text in enumerate(told[row]):
            words = text.split()
            numbers = [word for word in words if word in NUMBERS]
            colours = [word for word in words if word in names]
            assert numbers in ([], [NUMBERS[sprites()[1][scenes.digit[row, event]]]])
            assert colours in ([], [names[scenes.colour[row, event]]])
            said = {word for saying in SAYINGS[MOTIONS[scenes.motion[row, event]]] for word in saying.split()}
            assert set(words) - {"the", *numbers, *colours, "now", "so", "okay", "then", "you", "see", "well", "and",
                                 "here", "number", "digit", "figure"} <= said  # fmt: skip
            kept += len(numbers)
    assert 0.75 < kept / 800 < 0.85, "a fifth of the words is lost"
    batch = data.batch([5])
    said = [text.split() for text in spoken(data, batch, 0)]
    assert said == [text.split() for text in told[5]]
    by_texture = open_data("narrated-digits", label="texture")
    assert len(by_texture.classes) == 8 and torch.equal(by_texture.batch([5])["video"], batch["video"])


def test_towers_are_kept_and_found_again(tmp_path):
    data = open_data("narrated-digits", image_size=16, frames=8, limit=12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        towers = build(TOWERS, **data.inputs).eval()
    batch = data.batch(range(12))
    save_encoder(towers, tmp_path / "e.safetensors")
    again = read_encoder(tmp_path / "e.safetensors").eval()
    with torch.no_grad():
        for kind in ("video", "text"):
            assert torch.equal(towers.embed(batch, kind), again.embed(batch, kind))
        reader, sides = towers.tower("text"), ("script", "script_attention")
        each = [reader(*(batch[key][:, place] for key in sides)).prefix[:, 0] for place in range(4)]
        expected = torch.stack([towers.shared("text", whole) for whole in each]).mean(0)
        assert torch.allclose(towers.embed(batch, "text"), expected, atol=1e-5)
        assert torch.equal(towers.encode(batch).pooled, towers.tower("video").encode(batch).pooled)
    assert again.reading == towers.reading and set(towers.reading) == {
        "image_size",
        "channels",
        "tokenizer",
        "max_length",
    }
    scores = {score.metric: score for score in crossmodal(towers, data, data)}
    seen, told = (towers.embed(batch, kind).detach() for kind in ("video", "text"))
    similar = torch.nn.functional.cosine_similarity(told[:, None], seen[None], dim=2)
    right = (similar.argmax(1) == torch.arange(12)).double().mean()
    assert scores["text to video recall@1"].value == pytest.approx(float(right), abs=0.01)
    assert build("raw", **data.inputs).encode(batch).pooled.shape[0] == 12
    for wrong, why in (
        ("distilbert", "KIND=ENCODER"),
        ("audio=chromanet", "no audio"),
        ("video=nothing", "videos are read"),
    ):
        with pytest.raises(UsageError, match=why):
            build(wrong, **data.inputs)
    with pytest.raises(UsageError, match="no text beside"):
        crossmodal(build("raw", **data.inputs), data, data)


def test_ranks_count_ties_against_the_query():
    near = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert rank_of_own(near, near).tolist() == [0, 0, 0]
    assert rank_of_own(near, torch.ones(3, 2)).tolist() == [2, 2, 2]
