"""CLIP's loss against loops in float64, and pictures with captions as data."""

import math

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import tiny
from pretask.data import open_data
from pretask.data.tokens import tokenizer_of
from pretask.encoders.towers import PictureTowers
from pretask.errors import DataError, UsageError
from pretask.evaluation.crossmodal import crossmodal
from pretask.evaluation.zero_shot import class_vectors, zero_shot
from pretask.methods.multimodal.clip import CLIP
from pretask.task import Step


@pytest.fixture
def task() -> CLIP:
    torch.manual_seed(0)
    return CLIP(tiny.OWN_ENCODERS["captioned"]())


def naive(seen, told, scale):
    """Equation by equation, as in figure 3 of the paper."""
    total = 0
    for a, b in ((seen, told), (told, seen)):
        for i in range(len(a)):
            logits = torch.stack([scale * F.cosine_similarity(a[i], x, dim=0) for x in b])
            total = total - logits.log_softmax(0)[i] / len(a)
    return total / 2


def test_the_loss_is_symmetric_and_its_temperature_learns(task, monkeypatch):
    task.double()
    seen, told = (torch.randn(6, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    monkeypatch.setattr(task, "pictures", lambda view: seen)
    monkeypatch.setattr(task, "captions", lambda batch: told)
    loss = task(tiny.captioned(6), Step.at())["clip"]
    expected = naive(seen, told, task.log_scale.exp())
    torch.testing.assert_close(loss, expected)
    wanted = (seen, told, task.log_scale)
    ours = torch.autograd.grad(loss, wanted)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, wanted))
    assert task.log_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_similarities_are_multiplied_by_1_to_100(task):
    for value, kept in ((9.0, math.log(100)), (-1.0, 0.0), (2.0, 2.0)):
        with torch.no_grad():
            task.log_scale.fill_(value)
        task.after_step(Step.at())
        assert task.log_scale.item() == pytest.approx(kept)


def test_heads_are_linear_maps_without_bias(task):
    encoder = task.encoder
    assert isinstance(encoder, PictureTowers) and encoder.dim == encoder.tower("image").dim
    for kind in ("image", "text"):
        pooled = torch.randn(3, encoder.tower(kind).dim)
        weight = encoder.model["heads"][kind].weight
        torch.testing.assert_close(encoder.shared(kind, pooled), pooled @ weight.T)


def test_towers_of_both_kinds_are_wanted():
    with pytest.raises(UsageError, match="image"):
        CLIP(tiny.OWN_ENCODERS["multimodal"]())


def test_captions_find_pictures_after_a_little_training(task):
    batch = tiny.captioned(24)
    optimiser = torch.optim.Adam(task.parameters(), lr=2e-3)
    for index in range(60):
        loss = task(batch, Step.at(index % 3))["clip"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        task.after_step(Step.at())
    part = tiny.album().subset(torch.arange(24))
    scores = {score.metric: score.value for score in crossmodal(task.encoder, part, part)}
    assert scores["text to image recall@10"] > 0.7 and scores["image to text recall@10"] > 0.7


def test_zero_shot_names_classes_by_the_nearest_sentence(task, monkeypatch):
    """With a picture's vector in place of its label's name, every picture is named right, and none with the next."""
    data = open_data("captioned-digits", limit=40)
    towers = task.encoder
    names = class_vectors(towers, data.classes)
    assert names.shape == (10, 256) and torch.allclose(names.norm(dim=1), torch.ones(10))
    said = tiny.album().batch(range(1))
    own = towers.embed({key: said[key] for key in ("tokens", "attention")}, "text")
    assert not torch.allclose(own[0], names[0])
    embed = towers.embed
    for shift, expected in ((0, 1.0), (1, 0.0)):

        def told(batch, kind, shift=shift):
            return names[(batch["label"] + shift) % 10] if kind == "image" else embed(batch, kind)

        monkeypatch.setattr(towers, "embed", told)
        (score,) = zero_shot(towers, data, data)
        assert score.value == expected and score.detail["chance"] == 0.1
    with pytest.raises(UsageError, match="zero-shot needs"):
        zero_shot(tiny.encoder("grid"), data, data)


def test_the_embedded_captions_say_what_is_seen():
    data = open_data("captioned-digits")
    assert data.modality == "captioned" and (len(data.split("train")), len(data.split("test"))) == (
        4000,
        1000,
    )
    spell = tokenizer_of(data.inputs["tokenizer"])
    batch = data.batch(range(200))
    said = [spell.decode(text) for text in batch["tokens"]]
    assert all(f" {data.classes[label]}" in text for label, text in zip(batch["label"], said, strict=True))
    colours = open_data("captioned-digits", label="colour")
    named = [
        text
        for text, c in zip(said, colours.batch(range(200))["label"], strict=True)
        if colours.classes[c] in text
    ]
    assert 0.6 < len(named) / 200 < 0.8
    assert torch.equal(colours.batch([5])["image"], data.batch([5])["image"])
    with pytest.raises(UsageError, match="texture"):
        open_data("captioned-digits", label="size")


def write_table(folder, lines, header="image,caption,label,split"):
    for number in range(4):
        Image.new("RGB", (40, 30), (number * 60, 0, 0)).save(folder / f"{number}.png")
    table = folder / "table.csv"
    table.write_text("\n".join([header, *lines]) + "\n")
    return table


def test_a_table_of_files_and_texts(tmp_path):
    lines = ['0.png,"a dark one, nearly black",dark,train', "1.png,a dim one,dark,train", "2.png,,light,train",
             "3.png,a light one,light,test", "broken.png,nothing,light,test"]  # fmt: skip
    table = write_table(tmp_path, lines)
    data = open_data(table, modality="captioned", max_broken=0.5, image_size=32)
    assert len(data) == 3 and {skip.reason for skip in data.skipped} >= {"has no caption"}
    assert len(data.skipped) == 2 and data.classes == ["dark", "light"]
    spell = tokenizer_of(data.inputs["tokenizer"])
    batch = data.batch([0, 2])
    assert [spell.decode(text) for text in batch["tokens"]] == [
        "a dark one, nearly black",
        spell.decode(batch["tokens"][1]),
    ]
    assert batch["image"].shape == (2, 3, 32, 32) and batch["size"].tolist() == [[30, 40]] * 2
    assert (
        len(data.split("test")) == 1
        and len(open_data(table, modality="captioned", split="train", max_broken=0.5)) == 2
    )
    with pytest.raises(DataError):
        open_data(table, modality="captioned", max_broken=0.1)


def test_what_is_no_table_of_captions_is_explained(tmp_path):
    table = write_table(tmp_path, ["0.png,dark"], "image,label")
    with pytest.raises(DataError, match="caption"):
        open_data(table, modality="captioned")
    with pytest.raises(DataError, match="no table"):
        open_data(tmp_path, modality="captioned")
