"""VALOR: what each task sees and learns; retrieval and captions."""

import math

import numpy as np
import pytest
import torch

from pretask import open_data
from pretask.data.audiovisual import open_films
from pretask.data.moving import MOTIONS
from pretask.data.sounding import NOTES, SoundingDigits, melody
from pretask.encoders.valor import build
from pretask.errors import DataError, UsageError
from pretask.evaluation.films import audiovisual, captions, hits, share
from pretask.methods.multimodal.valor import Valor, read_tasks
from pretask.objectives.fine import fine_similarity
from pretask.pretexts.text import Text
from pretask.task import Step

TINY = "valor:width=24,depth=1,heads=2,text_width=32,text_depth=2,embed=16,frames=2,slices=2,patch=8"


@pytest.fixture(scope="module")
def films():
    return open_films("sounding-digits", max_length=16)


def task(films, name: str = TINY, **options) -> Valor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Valor(build(name, **films.inputs), **options)


def test_captioning_is_causal_looks_at_all_tokens_and_contrast_at_neither(films):
    encoder = task(films).encoder.eval()
    text = encoder.read(films.batch(range(2)))
    other = Text(text.tokens.clone(), text.attention)
    other.tokens[:, 5] = 9
    seen = torch.randn(2, 7, 32)
    with torch.no_grad():
        moved = (encoder.bert(text, seen) - encoder.bert(other, seen)).abs().amax((0, 2)) > 1e-6
        assert not moved[:5].any() and moved[5:10].all(), "a word sees itself and those before it"
        free = (encoder.bert(text) - encoder.bert(other)).abs().amax((0, 2)) > 1e-6
        assert free[:10].all(), "in the contrast every word sees every other"
        seen[:, 6] += 1
        far = seen.clone()
        far[:, 6] -= 1
        assert (encoder.bert(text, seen) - encoder.bert(text, far)).abs().amax((0, 2))[:10].min() > 1e-7


def test_the_decoder_sees_all_tokens_with_their_place_and_kind(films):
    encoder = task(films).encoder.eval()
    batch = films.batch(range(2))
    v, a = encoder.frames(batch), encoder.sounds(batch)
    assert v.shape == (2, 2, 1 + 16, 24) and a.shape == (2, 2, 1 + 4 * 4, 24)
    looked = encoder.looked_at("va", {"v": v, "a": a})
    assert looked.shape == (2, 2 * 17 + 2 * 17, 32)
    model = encoder.model
    expected = model.fit["v"](v[:, 1, 3]) + model.places["v"][1] + model.kinds["v"]
    assert torch.allclose(looked[:, 17 + 3], expected, atol=1e-6)
    same = build(TINY.replace("text_width=32", "text_width=24"), **films.inputs)
    assert isinstance(same.model.fit["v"], torch.nn.Identity), "fitted only where widths differ"


def test_losses_are_means_over_groups(films):
    method, batch = task(films).eval(), films.batch(range(6))
    whole = method.loss(batch, Step.at())
    alone = [
        task(films, tasks=f"contra%{g}_caption%{g}").eval().loss(batch, Step.at())
        for g in ("tva", "tv", "ta")
    ]
    for name in ("contrast", "caption"):
        assert float(whole[name]) == pytest.approx(np.mean([float(x[name]) for x in alone]), rel=1e-4)
    assert float(method.total(whole)) == pytest.approx(
        1.5 * float(whole["contrast"]) + float(whole["caption"])
    )
    text = method.encoder.read(batch)
    masked = method.hide(text, Step.at())
    seen = method.encoder.looked_at("v", method.tokens(batch, Step.at()))
    logits = method.encoder.logits(method.encoder.bert(masked.text, seen)).log_softmax(2)
    places = masked.hidden.nonzero().tolist()
    naive = -np.mean([float(logits[b, i, text.tokens[b, i]]) for b, i in places])
    assert float(alone[1]["caption"]) == pytest.approx(naive, rel=1e-4), "at their own places, not shifted"


def test_any_subset_of_kinds_trains_what_it_can(films):
    method, batch = task(films).eval(), films.batch(range(4))
    silent = {key: value for key, value in batch.items() if key != "audio"}
    only = task(films, tasks="contra%tv_caption%tv").eval()
    assert float(method.loss(silent, Step.at())["contrast"]) == pytest.approx(
        float(only.loss(batch, Step.at())["contrast"])
    )
    dark = {key: value for key, value in batch.items() if key not in ("video", "size")}
    assert method.loss(dark, Step.at())["caption"].isfinite()
    mute = batch["audio"].clone()
    mute[1] = 0
    heard, some = (method.encoder.spectrogram(audio) for audio in (batch["audio"], mute))
    assert some[1].eq(0).all(), "what is missing is zero behind the normalisation, in fillers too"
    assert torch.equal(some[[0, 2, 3]], heard[[0, 2, 3]]) and heard[1].abs().min() > 0
    assert method.loss({**batch, "audio": mute}, Step.at())["contrast"].isfinite()
    with pytest.raises(UsageError, match="too little"):
        method.loss({key: dark[key] for key in ("tokens", "attention")}, Step.at())


def test_tasks_train_their_own(films):
    method = task(films, tasks="caption%tva")
    assert set(method.loss(films.batch(range(2)), Step.at())) == {"caption"}
    assert not method.encoder.model.temperature.requires_grad
    assert read_tasks("contra%tv%ta") == {"contra": ["tv", "ta"]}
    for wrong in ("contrast%tv", "contra", "contra%tx", "contra%tv_contra%ta"):
        with pytest.raises(UsageError, match="written like"):
            read_tasks(wrong)


def test_the_contrast_end_to_end_against_loops(films):
    """From the tokens on: heads without bias, unit vectors, weights told from these, one softmax a sample over all
    parts of a group, the learned temperature; fillers of captions count as likeness 0."""
    method = task(films).eval()
    method.encoder.model.temperature.data.fill_(0.2)
    batch = films.batch(range(4))
    text, tokens = method.encoder.read(batch), method.tokens(batch, Step.at())
    with torch.no_grad():
        words = method.encoder.bert(text).double()
        groups = ("va", "v", "a")
        found = {group: float(method.contrast(text, tokens, [group], Step.at())) for group in groups}
    p = {name: value.detach().double() for name, value in method.encoder.model.named_parameters()}

    def parts(key, features):
        unit, weight = [], []
        for x in features:
            x = p[f"heads.{key}.weight"] @ x
            x = x / x.norm()
            hidden = (p[f"weighers.{key}.0.weight"] @ x + p[f"weighers.{key}.0.bias"]).clamp(min=0)
            unit.append(x)
            weight.append(float(p[f"weighers.{key}.2.weight"][0] @ hidden + p[f"weighers.{key}.2.bias"]))
        return unit, weight

    def share(weight):
        exps = [math.exp(w) for w in weight]
        return [e / sum(exps) for e in exps]

    shown = {key: x[:, :, 0].detach().double() for key, x in tokens.items()}  # class tokens alone
    for group in groups:
        score = np.zeros((4, 4))
        for i in range(4):
            length = int(text.attention[i].sum())
            said, told = parts("t", words[i, :length])
            for j in range(4):
                each = [parts(key, shown[key][j]) for key in group]
                seen, weight = sum((own[0] for own in each), []), sum((own[1] for own in each), [])
                alike = np.array([[float(a @ b) for b in seen] for a in said])
                best = alike.max(0) if length == text.tokens.shape[1] else np.maximum(alike.max(0), 0)
                score[i, j] = (share(told) @ alike.max(1) + share(weight) @ best) / 2
        logits, naive = score / 0.2, 0.0
        for line in (logits, logits.T):
            naive -= sum(line[i, i] - math.log(np.exp(line[i]).sum()) for i in range(4)) / 8
        assert found[group] == pytest.approx(naive, rel=1e-4), group


def test_frames_are_seen_whole(films):
    """Squashed, as on their canvas, whatever their true sides; not the middle square."""
    encoder, batch = task(films).encoder.eval(), films.batch(range(2))
    wide = {**batch, "size": torch.tensor([[32, 64], [64, 32]])}
    assert torch.equal(encoder.frames(wide), encoder.frames(batch))
    side, seen = encoder.image_size, []
    encoder.model.vision.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    encoder.frames({"video": torch.linspace(0, 1, 3 * side).expand(2, 3, 8, 2 * side, -1)})
    assert seen[0].shape[-2:] == (side, side)
    assert seen[0][..., 0].max() < 0.02 and seen[0][..., -1].min() > 0.98, "from one edge to the other"


def test_coarse_comparison_is_the_cosine_of_means_before_the_heads(films):
    encoder = task(films, TINY + ",compare=coarse").encoder.eval()
    batch = films.batch(range(3))
    text = encoder.read(batch)
    t = encoder.parts("t", encoder.bert(text), text.attention)
    seen = {"v": encoder.frames(batch)[:, :, 0], "a": encoder.sounds(batch)[:, :, 0]}
    v, a = (encoder.parts(key, x) for key, x in seen.items())
    heads, unit = encoder.model.heads, torch.nn.functional.normalize
    first = heads["t"](encoder.bert(text)[:, 0])  # a text's first token stands for it
    both = encoder.model.both(
        torch.cat([unit(heads[key](x.mean(1)), dim=1) for key, x in seen.items()], dim=1)
    )
    expected = torch.nn.functional.cosine_similarity(first[:, None], both[None], dim=2)
    assert torch.allclose(fine_similarity(t, encoder.group({"v": v, "a": a})), expected, atol=1e-5)
    assert task(films, TINY + ",compare=coarse").loss(batch, Step.at())["contrast"].isfinite()


def test_sound_follows_motion_and_captions_tell_both(films):
    samples = films.samples
    for name in MOTIONS:
        notes = melody(name, 60.0, 1.0)
        pitch, loud = [n.pitch for n in notes], [n.loud for n in notes]
        assert len(notes) == NOTES and notes[-1].start + notes[-1].length == pytest.approx(1.0)
        assert (pitch[-1] - pitch[0] > 6) == (name == "up") and (pitch[0] - pitch[-1] > 6) == (name == "down")
        assert (loud[-1] - loud[0] > 0.5) == (name == "growing")
    words = [samples.caption(row).split() for row in range(50)]
    assert {len(line) for line in words} == {10}, "a word's place tells what it is about"
    again = SoundingDigits(32, 8, 1.28, 16000).sound(7)
    assert np.allclose(films.batch([7])["audio"][0], again, atol=1e-4)
    train = {samples.scenes.digit[row, 0].item() for row in range(2000)}
    assert not train & {samples.scenes.digit[row, 0].item() for row in range(2000, 2400)}


def write_film(path, pitch: float) -> None:
    """Two seconds of grey that gets brighter, and a tone."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=16000)
        audio.layout = "mono"
        for number in range(20):
            picture = np.full((32, 32, 3), 10 * number, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        sound = 0.5 * np.sin(2 * np.pi * pitch * np.arange(32000) / 16000)
        for start in range(0, 32000, 1024):
            piece = sound[None, start : start + 1024].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(audio.encode(frame))
        container.mux(audio.encode())


def test_a_table_of_films_some_of_them_silent(tmp_path):
    for number in range(4):
        write_film(tmp_path / f"{number}.mp4", 400.0 + 200 * number)
    lines = ["video,audio,caption,start"]
    lines += [f"{n}.mp4,{'' if n == 2 else f'{n}.mp4'},film {n} gets brighter,0.5" for n in range(4)]
    (tmp_path / "films.csv").write_text("\n".join(lines))
    data = open_data(tmp_path / "films.csv", modality="film", frames=4, image_size=32, seconds=1.0)
    batch = data.batch(range(4))
    assert data.modality == "film" and len(data) == 4 and not data.skipped
    assert batch["video"].shape == (4, 3, 4, 32, 32) and batch["audio"].shape == (4, 16000)
    assert batch["audio"][2].abs().max() == 0, "what is missing is silence"
    heard = torch.fft.rfft(batch["audio"][[0, 1, 3]]).abs().argmax(1).tolist()
    assert heard == pytest.approx([400, 600, 1000], abs=2)
    with torch.random.fork_rng():
        method = Valor(build(TINY, **data.inputs)).eval()
    assert all(value.isfinite() for value in method.loss(batch, Step.at()).values())
    (tmp_path / "mute.csv").write_text("video\n0.mp4\n1.mp4\n")
    with pytest.raises(DataError, match="no captions"):
        open_data(tmp_path / "mute.csv", modality="film")


def test_retrieval_and_captions_are_scored(films):
    test = films.split("test").subset(range(20))
    scores = {score.metric: score for score in audiovisual(task(films).encoder, films, test)}
    assert set(scores) == {f"t-{g} recall@{k}" for g in ("v", "a", "va") for k in (1, 5, 10)}
    assert all(0 <= score.value <= 1 and len(score.items) == 20 for score in scores.values())
    score, same = torch.eye(4).roll(1, 1), torch.eye(4).bool()
    assert hits(score, same, 1).sum() == 0 and hits(score, same, 4).sum() == 4
    same[0, 1] = True  # another film with the very same caption
    assert hits(score, same, 1).tolist() == [1, 0, 0, 0]
    told = captions(task(films).encoder, films, test)
    assert [score.metric for score in told] == ["words v", "words a", "words va"]
    assert share(["a", "red", "two"], ["a", "red", "three", "x"]) == 0.5
    with pytest.raises(UsageError, match="valor does"):
        audiovisual(build("raw", **films.inputs), films, test)


def test_captions_are_told_word_by_word(films):
    """Each word is the likeliest at a mask behind those before it; more beginnings find likelier captions."""
    encoder = task(films).encoder.eval()
    batch = films.batch(range(3))
    seen = encoder.looked_at("va", {"v": encoder.frames(batch), "a": encoder.sounds(batch)})
    known = encoder.vocabulary

    def likelihoods(row: int, before: torch.Tensor) -> torch.Tensor:
        asked = torch.cat([before, torch.tensor([known.mask])])[None]
        feature = encoder.bert(Text(asked, torch.ones_like(asked).bool()), seen[row : row + 1])
        return encoder.logits(feature[0, -1]).log_softmax(0).detach()

    def whole(row: int, said: torch.Tensor) -> float:
        total = 0.0
        for place in range(1, len(said)):
            if known.eos in said[:place].tolist():
                assert said[place] == known.pad, "nothing is said behind the end"
            else:
                total += float(likelihoods(row, said[:place])[said[place]])
        return total

    plain, kept = (encoder.caption(batch, "va", 5, beams=beams) for beams in (1, 4))
    for row in range(3):
        for place in range(1, 5):
            if known.eos not in plain[row, :place].tolist():
                assert int(likelihoods(row, plain[row, :place]).argmax()) == int(plain[row, place])
        assert whole(row, kept[row]) >= whole(row, plain[row]) - 1e-5
    two = encoder.caption(batch, "v", 3, beams=known.size)[0]
    looked = encoder.looked_at("v", {"v": encoder.frames(batch)})
    seen = looked
    best = max(
        (
            float(
                first[word]
                + (0 if word == known.eos else likelihoods(0, torch.tensor([known.bos, word])).max())
            ),
            word,
        )
        for first in [likelihoods(0, torch.tensor([known.bos]))]
        for word in range(known.size)
    )
    assert int(two[1]) == best[1], "with all beginnings kept it is the likeliest of all"


def test_errors_say_what_to_do(films):
    with pytest.raises(UsageError, match="must divide"):
        build(TINY + ",slice=60", **films.inputs)
    with pytest.raises(UsageError, match="read by valor"):
        build("resnet18", **films.inputs)
    with pytest.raises(UsageError, match="fine or coarse"):
        build(TINY + ",compare=rough", **films.inputs)
    with pytest.raises(UsageError, match="captions of 16"):
        task(films).encoder.read({"tokens": torch.zeros(1, 30).long()})
    with pytest.raises(UsageError, match="mask_rate"):
        task(films, mask_rate=0.0)
    with pytest.raises(UsageError, match="trains a 'valor'"):
        Valor(build("raw", **films.inputs))
