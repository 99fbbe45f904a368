"""Sound: readers, made-up music, and the blocks of pitch against loops."""

import wave
import zipfile

import numpy as np
import pytest
import torch

from pretask import open_data
from pretask.data.midi import read_notes
from pretask.data.music import KEYS, Note, Timbre, Tracks, render
from pretask.data.sounds import measure, read_part
from pretask.errors import DataError, UsageError
from pretask.pretexts.audio import (
    constant_q,
    constant_q_kernels,
    crop_bins,
    decibels,
    excerpts,
    octave_pooled,
    peak_normalised,
)

RATE = 8000


def tone(seconds: float, frequency: float = 440.0, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def write_wav(path, sound: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if sound.ndim == 1 else len(sound))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound.T * 32767).astype("<i2").tobytes())


@pytest.fixture
def folder(tmp_path):
    """Two classes, four recordings each, at two rates; in one a stereo one; and three that are broken."""
    for name in ("high", "low"):
        for number in range(4):
            rate = 8000 if number % 2 else 16000
            write_wav(
                tmp_path / name / f"{number}.wav", tone(1.0, 880 if name == "high" else 220, rate), rate
            )
    write_wav(tmp_path / "low" / "0.wav", np.stack([tone(1.0, 220), 0 * tone(1.0, 220)]))
    whole = (tmp_path / "low" / "1.wav").read_bytes()
    (tmp_path / "low" / "empty.wav").write_bytes(b"")
    (tmp_path / "low" / "text.wav").write_text("no sound at all\n" * 9)
    (tmp_path / "low" / "header.wav").write_bytes(whole[:30])
    np.save(tmp_path / "low" / "wrong.npy", np.full(RATE, np.nan))
    return tmp_path


def test_a_folder_with_broken_files(folder):
    dataset = open_data(folder, modality="audio", rate=RATE, max_broken=0.5)
    assert len(dataset) == 8 and dataset.classes == ["high", "low"]
    assert sorted(item.path for item in dataset.skipped) == [
        "low/empty.wav", "low/header.wav", "low/text.wav", "low/wrong.npy"
    ]  # fmt: skip
    assert not any("BytesIO" in item.reason for item in dataset.skipped)
    reasons = {item.path: item.reason for item in dataset.skipped}
    assert reasons["low/empty.wav"] == "empty file" and "finite" in reasons["low/wrong.npy"]
    batch = dataset.batch(range(8))
    assert batch["audio"].shape == (8, RATE) and batch["audio"].dtype == torch.float32
    loudest = torch.fft.rfft(batch["audio"][:, 1000:7000]).abs().argmax(1) * RATE / 6000
    assert torch.allclose(loudest, torch.tensor([880.0, 220.0])[batch["label"]], atol=2), (
        "resampled, not stretched"
    )
    stereo = next(row for row in range(8) if dataset.samples.name(int(dataset.rows[row])) == "low/0.wav")
    assert batch["audio"][stereo].abs().max() == pytest.approx(0.25, abs=0.01), "the mean of both channels"
    with pytest.raises(DataError, match="3 of 12"):
        open_data(folder, modality="audio", max_broken=0.1)


def test_what_is_kept_is_what_is_decoded(folder):
    kept, lazy = (
        open_data(folder, modality="audio", rate=RATE, max_broken=0.5, cache=cache)
        for cache in ("memory", "never")
    )
    assert kept.in_memory and not lazy.in_memory and len(lazy) == 9, "what breaks late is found late"
    rows = [row for row in range(9) if "wrong" not in lazy.samples.name(row)]
    assert torch.allclose(kept.batch(range(8))["audio"], lazy.batch(rows)["audio"], atol=2 / 32768)
    assert torch.isfinite(lazy.batch(range(9))["audio"]).all() and len(lazy.skipped) == 4


def test_long_recordings_make_several_pieces(tmp_path):
    ramp = np.linspace(0, 0.9, 5 * RATE)
    write_wav(tmp_path / "long.wav", ramp)
    write_wav(tmp_path / "short.wav", tone(0.5))
    dataset = open_data(tmp_path, modality="audio", rate=RATE, seconds=2.0)
    assert [dataset.samples.name(row) for row in range(3)] == ["long.wav", "long.wav from 2 s", "short.wav"]
    sound = dataset.batch(range(3))["audio"].numpy()
    assert np.allclose(sound[1], ramp[2 * RATE : 4 * RATE], atol=1e-4)
    assert np.abs(sound[2, RATE // 2 + 9 :]).max() == 0 and np.abs(sound[2, : RATE // 2]).max() > 0.4


def test_pieces_of_a_recording_stay_on_one_side(tmp_path):
    for name in ("a", "b"):
        for number in range(5):
            write_wav(tmp_path / name / f"{number}.wav", tone(4.0))
    dataset = open_data(tmp_path, modality="audio", rate=RATE, seconds=1.0)
    assert [len(dataset.split(part)) for part in ("train", "test")] == [32, 8]
    of = [{dataset.samples.name(int(row))[:7] for row in dataset.split(p).rows} for p in ("train", "test")]
    assert not of[0] & of[1] and of[1] == {"a/4.wav", "b/4.wav"}
    few = open_data(tmp_path, modality="audio", rate=RATE, seconds=1.0, pieces=2)
    assert [few.samples.name(row) for row in (0, 1)] == ["a/0.wav", "a/0.wav from 3 s"]
    alone = open_data(tmp_path, modality="audio", rate=RATE, pieces=1)
    assert alone.part_names == (), "one piece each: nothing to keep together"


def midi(events: list[bytes], division: int = 480) -> bytes:
    track = b"".join(events) + b"\x00\xff\x2f\x00"
    head = b"MThd" + (6).to_bytes(4, "big") + bytes([0, 0, 0, 1]) + division.to_bytes(2, "big")
    return head + b"MTrk" + len(track).to_bytes(4, "big") + track


def test_midi_is_read_and_played(tmp_path):
    """Running status, an end by loudness 0, a change of tempo in the midst of a note, drums left out."""
    raw = midi([
        b"\x00\x90\x45\x7f", b"\x83\x60\x45\x00",  # A4 for 480 ticks: half a second
        b"\x00\x99\x24\x7f", b"\x00\xc0\x05", b"\x00\x90\x51\x40",  # a drum, an instrument, A5
        b"\x83\x60\xff\x51\x03\x07\xa1\x20" b"\x00\xff\x51\x03\x0f\x42\x40",  # half as fast from here
        b"\x83\x60\x80\x51\x40",
    ])  # fmt: skip
    notes = read_notes(raw)
    assert [(n.pitch, n.start, n.length) for n in notes] == [(69, 0.0, 0.5), (81, 0.5, 1.5)]
    assert notes[1].loud == pytest.approx(64 / 127)
    assert measure(raw, RATE).seconds == 2.0
    (tmp_path / "tune.mid").write_bytes(raw)
    (tmp_path / "cut.mid").write_bytes(raw[:-9])
    dataset = open_data(tmp_path, rate=RATE, max_broken=0.6)
    assert dataset.modality == "audio" and dataset.skipped[0].reason == "a track is cut short"
    sound = dataset.batch([0])["audio"][0]
    for part, pitch in ((sound[:3000], 440), (sound[5000:11000], 880)):
        spectrum = torch.fft.rfft(part * torch.hann_window(len(part))).abs()
        near = [round(f * pitch * len(part) / RATE) for f in (1, 2, 3)]
        assert int(spectrum.argmax()) in {p + d for p in near for d in range(-8, 9)}


def test_real_tunes(real_data):
    dataset = open_data(
        real_data("nottingham_midi"), modality="audio", label="key", rate=RATE, seconds=4, limit=6
    )
    assert "Am" in dataset.classes and not dataset.skipped
    assert dataset.batch(range(6))["audio"].std(1).min() > 0.01


def test_tables_archives_and_arrays(tmp_path):
    for number in range(6):
        write_wav(tmp_path / "audio" / f"{number}.wav", tone(0.5))
    lines = [f"{number}.wav,{'AB'[number % 2]},{number % 3}" for number in range(5)]
    (tmp_path / "about.csv").write_text("file,label,kind\n" + "\n".join(lines))
    whole = open_data(tmp_path, modality="audio")
    assert len(whole) == 6 and whole.labels is None and whole.targets.tolist() == [0, 1, 0, 1, 0, -1]
    table = open_data(tmp_path / "about.csv", modality="audio", label="kind")
    assert len(table) == 5 and table.labels.tolist() == [0, 1, 2, 0, 1]
    with pytest.raises(DataError, match="'nothing'"):
        open_data(tmp_path, modality="audio", label="nothing")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number in range(4):
            archive.write(tmp_path / "audio" / f"{number}.wav", f"{'ab'[number // 2]}/{number}.wav")
    packed = open_data(tmp_path / "all.zip", modality="audio")
    assert packed.labels.tolist() == [0, 0, 1, 1]
    sound = np.stack([tone(0.2), -tone(0.2)])
    np.savez(tmp_path / "stack.npz", audio=(sound * 32767).astype(np.int16), label=np.array(["x", "y"]))
    for source in (tmp_path / "stack.npz", (sound, ["x", "y"])):
        stack = open_data(source, modality="audio", rate=RATE)
        assert stack.classes == ["x", "y"] and np.allclose(stack.batch([0, 1])["audio"], sound, atol=1e-4)
    with pytest.raises(DataError, match="holds no recordings"):
        open_data(np.zeros((2, 3, 4)), modality="audio")
    with pytest.raises(DataError, match="divide them"):
        open_data(9 * sound, modality="audio")
    with pytest.raises(UsageError, match="rate must be"):
        open_data("cadences", rate=3)


def test_real_recordings(real_data):
    dataset = open_data(real_data("audio_music_clips"), rate=16000, label="kind", seconds=20.0)
    assert dataset.modality == "audio" and not dataset.skipped and "speech" in dataset.classes
    assert dataset.batch([0, 5])["audio"].std(1).min() > 1e-3
    path = real_data("audio_music_clips") / "audio" / "trumpet.ogg"
    whole = read_part(path.read_bytes(), 0, 5.0, 16000)
    assert np.allclose(read_part(path.read_bytes(), 2.0, 1.0, 16000), whole[32000:48000], atol=1e-3)


def test_made_up_music_is_in_its_key():
    """The notes of a key's scale sound, others hardly do; each piece is the same whoever asks first."""
    kernels = constant_q_kernels(16000, 99)
    tracks = Tracks(24, 4.0, 16000)
    sound = tracks.get(torch.arange(24))[0]["audio"]
    assert torch.equal(Tracks(24, 4.0, 16000).get(torch.tensor([7, 3]))[0]["audio"], sound[[7, 3]])
    energy = octave_pooled(constant_q(sound, kernels, 512)[:, :96].square()).mean(2)
    for row, name in enumerate(KEYS):
        scale = (0, 2, 4, 5, 7, 9, 11) if "major" in name else (0, 2, 3, 5, 7, 8, 10)
        inside = [(row % 12 + step + 3) % 12 for step in scale]  # bin 0 is an A
        assert energy[row, inside].sum() > 0.65 * energy[row].sum(), name
    assert tracks.name(13) == "C# minor, 0" and len(open_data("cadences", limit=3).classes) == 24


def test_no_harmonic_beyond_half_the_rate():
    timbre = Timbre(np.ones(8))
    sound = render([Note(69 + 24, 0.0, 1.0, 1.0)], timbre, RATE, RATE, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(sound * np.hanning(RATE))) ** 2
    assert power[[1760, 3520]].min() > 100 * power[[880, 2500, 3000, 3900]].max()


def naive_constant_q(sound: np.ndarray, rate: int, frequency: float, hop: int) -> list[float]:
    """One bin, a sample at a time, in float64."""
    size = int(np.ceil(rate / frequency / (2 ** (1 / 12) - 1)))
    window = [0.5 - 0.5 * np.cos(2 * np.pi * n / size) for n in range(size)]
    found = []
    for frame in range(len(sound) // hop + 1):
        total = 0j
        for n in range(size):
            place = frame * hop + n - size // 2
            place = -place if place < 0 else place
            place = 2 * (len(sound) - 1) - place if place >= len(sound) else place
            total += sound[place] * window[n] * np.exp(2j * np.pi * frequency / rate * (n - size // 2))
        found.append(abs(total) / sum(window) * size**0.5)
    return found


def test_constant_q_against_loops():
    rng = np.random.default_rng(0)
    sound = rng.normal(size=(2, 1300)) * 0.3
    kernels = constant_q_kernels(RATE, 20, lowest=110.0)
    found = constant_q(torch.from_numpy(sound).float(), kernels, 100)
    assert found.shape == (2, 20, 14)
    for bin in (0, 1, 11, 12, 19):
        expected = naive_constant_q(sound[1], RATE, 110.0 * 2 ** (bin / 12), 100)
        assert np.allclose(found[1, bin], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="above half"):
        constant_q_kernels(RATE, 99)


def test_constant_q_is_near_librosas():
    librosa = pytest.importorskip("librosa")
    sound = (0.5 * tone(2.0, 440) + 0.3 * tone(2.0, 311.1)).astype(np.float32)
    ours = constant_q(torch.from_numpy(sound)[None], constant_q_kernels(RATE, 60, 55.0), 128)[0, :, 60]
    theirs = np.abs(librosa.vqt(sound, sr=RATE, hop_length=128, fmin=55.0, n_bins=60, gamma=0))[:, 60]
    assert ours.argmax() == 36 and np.allclose(ours[[36, 30]], theirs[[36, 30]], rtol=0.05)


def test_transposed_music_is_a_shifted_spectrum():
    notes = [Note(60, 0, 1.5, 1.0), Note(67, 0, 1.5, 0.7)]
    up = [note._replace(pitch=note.pitch + 3) for note in notes]
    timbre = Timbre(np.array([1.0, 0.5, 0.2]), decay=5.0)
    sound = np.stack([render(n, timbre, 16000, 24000, np.random.default_rng(0)) for n in (notes, up)])
    level = constant_q(torch.from_numpy(sound).float(), constant_q_kernels(16000, 99), 512)
    still, higher = crop_bins(level, torch.tensor([2, 5]), 84)[:, 24:72, 10:36]
    gap, apart = (still - higher).abs().mean(), (level[0] - level[1])[26:74, 10:36].abs().mean()
    assert gap < 0.1 * apart, "starting three bins higher undoes three semitones"


def test_decibels_crops_and_pitch_classes_against_loops():
    torch.manual_seed(0)
    level = torch.rand(3, 27, 4).double() ** 30
    found = decibels(level)
    for item in range(3):
        top = max(10 * np.log10(max(float(v), 1e-10)) for v in level[item].flatten())
        for bin in range(27):
            expected = [max(10 * np.log10(max(float(v), 1e-10)), top - 80) for v in level[item, bin]]
            assert np.allclose(found[item, bin], expected)
    start = torch.tensor([0, 3, 2])
    cropped = crop_bins(level, start, 24)
    for item in range(3):
        for bin in range(24):
            assert torch.equal(cropped[item, bin], level[item, start[item] + bin])
    pooled = octave_pooled(cropped)
    for item in range(3):
        for pitch in range(12):
            assert torch.allclose(pooled[item, pitch], (cropped[item, pitch] + cropped[item, pitch + 12]) / 2)


def test_excerpts_do_not_overlap_and_reach_everywhere():
    audio = torch.arange(20).float().repeat(500, 1)
    unit = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
    first, second = excerpts(audio, unit, 8)
    assert (first[:, 1:] - first[:, :-1] == 1).all() and (second[:, 0] > first[:, -1]).all()
    assert first[:, 0].min() == 0 and second[:, -1].max() == 19 and first[:, 0].max() == 4
    both = excerpts(audio, unit, 10)
    assert torch.equal(torch.cat(both, dim=1), audio), "nothing to spare: the two halves"
    assert torch.equal(
        peak_normalised(torch.tensor([[0.1, -0.2], [0, 0]])), torch.tensor([[0.5, -1], [0, 0]])
    )
