"""S-KEY: its loss against loops, the network's shape and symmetries, the pseudo-label, calibration and scores."""

import cmath
import math

import numpy as np
import pytest
import torch

import tiny
from pretask import open_data
from pretask.encoders.audio import HEIGHT, FrameNorm, ItemNorm, build
from pretask.errors import UsageError
from pretask.evaluation.key import calibrate, key, parse_key, signature_of, signature_score, weighted
from pretask.methods.audio.s_key import SKey
from pretask.objectives.phase import circle_point, turned_error
from pretask.pretexts.audio import crop_bins, octave_pooled
from pretask.task import Step

TINY = "chromanet:channels=[4,6,3],kernels=[5,3,3]"


def task(name: str = TINY, **options) -> SKey:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SKey(build(name, rate=16000), **options)


def profiles(modes: int = 2, batch: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, batch, 12 * modes, generator=generator).double().mul(2).softmax(2)


@pytest.mark.parametrize("frequency", [1, 7])
@pytest.mark.parametrize(("relative", "modes"), [(-3, 2), (3, 2), (-3, 1)])
def test_losses_against_loops(frequency, relative, modes):
    y, batch = profiles(modes), 5
    shift = torch.tensor([-5, 1, 11, -12 + 7, 3])
    chroma = torch.rand(batch, 12, generator=torch.Generator().manual_seed(1)).double()
    found = task(f"{TINY},modes={modes}", frequency=frequency, relative=relative).losses(y, shift, chroma)

    def z(view, item):
        total = 0j
        for q in range(12):
            s = sum(float(y[view, item, 12 * mode + q]) for mode in range(modes))
            total += s * cmath.exp(2j * math.pi * frequency * q / 12)
        return total

    def gap(a, b, item, steps):
        return (
            abs(cmath.exp(2j * math.pi * frequency * steps / 12) - z(a, item) * z(b, item).conjugate()) ** 2
        )

    items = range(batch)
    assert float(found["invariance"]) == pytest.approx(np.mean([gap(0, 1, i, 0) for i in items]))
    told = [np.mean([gap(view, 2, i, int(shift[i])) for i in items]) for view in (0, 1)]
    assert float(found["equivariance"]) == pytest.approx(sum(told))
    if modes == 1:
        assert set(found) == {"invariance", "equivariance"}
        return
    mode = 0.0
    for view in range(3):
        for i in items:
            s = [np.mean([float(y[v, i, q] + y[v, i, 12 + q]) for v in (0, 1)]) for q in range(12)]
            k = int(np.argmax(s))
            label = float(chroma[i, k] > chroma[i, (k + relative) % 12])
            m = float(y[view, i, :12].sum())
            mode -= (label * max(math.log(m), -100) + (1 - label) * max(math.log(1 - m), -100)) / batch
    assert float(found["mode"]) == pytest.approx(mode)
    p = np.mean([float(y[view, i, :12].sum()) for view in (0, 1) for i in items])
    assert float(found["balance"]) == pytest.approx((p - 0.5) * (0.5 - (1 - p)))


def test_the_views_tell_each_others_mode_as_in_stone():
    """With values and gradients as STONE's code computes them, targets' gradients included."""
    y = profiles().requires_grad_()
    method, shift = task(mode_from="views"), torch.tensor([-5, 1, 11, -12 + 7, 3])
    found = method.losses(y, shift, torch.rand(5, 12))
    assert set(found) == {"invariance", "equivariance", "mode"} and method.weights == {"mode": 1.5}
    a, b, c = y[:, :, :12].sum(2)
    expected = 0.0
    for told, said, weight in ((a, c, 1), (b, c, 0.5), (c, b, 0.5), (a, b, 1)):
        for i in range(5):
            cost = -told[i] * said[i].log() - (1 - told[i]) * (1 - said[i]).log()
            expected = expected + weight * cost / 5
    torch.testing.assert_close(found["mode"], expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, y)[0] for x in (found["mode"], expected)))
    certain = torch.zeros(3, 1, 24).index_fill_(2, torch.tensor(3), 1.0).requires_grad_()
    method.losses(certain, shift[:1], torch.rand(1, 12))["mode"].backward()
    assert certain.grad.isfinite().all()


def test_weights_are_the_codes():
    method = task()
    losses = {name: torch.tensor(1.0) for name in ("invariance", "equivariance", "mode", "balance")}
    assert float(method.total(losses)) == pytest.approx(1 + 1 + 1.5 + 20)
    assert task(f"{TINY},modes=1").weights == {}


def test_a_perfect_profile_costs_nothing_and_none_costs_three():
    sharp = torch.nn.functional.one_hot(torch.tensor([3, 3, 1]), 12).double()[:, None]
    z = [circle_point(view, 7) for view in sharp]
    assert turned_error(z[0], z[1], 0, 7, 12) < 1e-12
    assert turned_error(z[0], z[2], torch.tensor([2]), 7, 12) < 1e-12, "two bins higher: seen two lower"
    flat = circle_point(torch.full((1, 12), 1 / 12).double(), 7)
    assert float(turned_error(flat, flat, torch.tensor([5]), 7, 12)) == pytest.approx(1.0)


def test_views_are_crops_of_two_excerpts_with_the_shift_between_them():
    method, batch = task(excerpt=0.45), tiny.BATCHES["audio"](6)
    crops, shift, heard = method.views(batch, Step.at())
    assert crops.shape[:3] == (3, 6, HEIGHT) and heard.shape == (2, 6, 7200)
    spectrum = method.encoder.spectrum(heard[0])
    starts = []
    for item in range(6):
        start = next(s for s in range(16) if torch.equal(spectrum[item, s : s + HEIGHT], crops[0, item]))
        other = start + int(shift[item])
        assert torch.equal(spectrum[item, other : other + HEIGHT], crops[2, item])
        starts.append((start, other))
    one = tiny.BATCHES["audio"](1)
    many = [method.views(one, Step.at(n))[1].item() for n in range(40)]
    assert all(1 <= start <= 12 and 0 <= other <= 11 for start, other in starts)
    assert all(shift % 12 for shift in many) and len({shift % 12 for shift in many}) > 8


def test_the_spectrum_is_the_authors_front_end():
    encoder = build(TINY, rate=22050)
    sound = 0.1 * torch.sin(2 * math.pi * 440 * torch.arange(15 * 22050) / 22050)
    sound[200_000:] = 0
    level = encoder.spectrum(torch.stack([sound, 5 * sound]))
    assert level.shape == (2, 99, 646) and torch.allclose(level[0, 44:53], level[1, 44:53], atol=1e-3)
    assert int(level[0, :, 300].argmax()) == 48, "bin 0 is A0, 440 Hz four octaves above"
    assert float(level.max() - level.min()) == pytest.approx(1.0, abs=1e-4), "80 decibels, of magnitudes"
    size = math.ceil(22050 / 440 / (2 ** (1 / 12) - 1))
    assert float(level[0, 48, 300]) == pytest.approx(10 * math.log10(0.5 * size**0.5) / 80 + 1, abs=2e-3)
    assert build("raw", rate=8000).spectrum(torch.zeros(1, 100)).isfinite().all()


def test_the_network_has_the_papers_size():
    def count(name):
        return sum(p.numel() for p in build(name).parameters() if p.requires_grad)

    assert count("chromanet") == 47_284
    assert not any(p.ndim == 1 and "norm" in n for n, p in build("chromanet").model.named_parameters())
    assert any(isinstance(m, FrameNorm) for m in build("chromanet:modes=1").modules())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in build("chromanet:modes=1").modules())
    assert build("chromanet").spectrum(torch.rand(1, 66150)).shape[2] == 130
    assert build("chromanet")(torch.rand(2, 66150)).tokens.shape == (2, 1, 24)


def test_the_network_against_loops():
    """A stage and the head, a value at a time: which axes are normalised, halved, padded and pooled."""
    encoder = build("chromanet:channels=[2],kernels=[3]", rate=16000).double().eval()
    stage = encoder.model.stages[0]
    x = torch.rand(1, HEIGHT, 6).double()

    def normed(values):
        return (values - values.mean()) / np.sqrt(values.var() + 1e-5)

    def gelu(v):
        return 0.5 * v * (1 + math.erf(v / math.sqrt(2)))

    p = {name: value.detach().numpy() for name, value in stage.named_parameters()}
    before = normed(x.numpy())
    halved = np.zeros((2, HEIGHT, 3))
    for c in range(2):
        for f in range(HEIGHT):
            for t in range(3):
                pair = before[0, f, 2 * t : 2 * t + 2]
                halved[c, f, t] = gelu(float(p["halve.weight"][c, 0, 0] @ pair + p["halve.bias"][c]))
    deep = np.zeros_like(halved)
    for c in range(2):
        for f in range(HEIGHT):
            for t in range(3):
                around = [
                    [halved[c, min(max(f + i, 0), HEIGHT - 1), min(max(t + j, 0), 2)] for j in (-1, 0, 1)]
                    for i in (-1, 0, 1)
                ]
                deep[c, f, t] = (p["depthwise.weight"][c, 0] * np.array(around)).sum() + p["depthwise.bias"][
                    c
                ]
    deep = normed(deep)
    out = halved.copy()
    for f in range(HEIGHT):
        for t in range(3):
            wide = [gelu(float(v)) for v in p["wide.weight"] @ deep[:, f, t] + p["wide.bias"]]
            out[:, f, t] += (p["narrow.weight"] @ wide + p["narrow.bias"]) * p["scale"]
    assert np.allclose(stage(x[:, None], None)[0].detach(), out)
    head = encoder.model.head
    logits = np.zeros((2, 12))
    for pitch in range(12):
        place = np.mean([out[:, 12 * octave + pitch, t] for octave in range(7) for t in range(3)], axis=0)
        logits[:, pitch] = head.weight[:, :, 0, 0].detach().numpy() @ place + head.bias.detach().numpy()
    flat = logits.flatten() / math.sqrt(1 + 1e-5)  # batch normalisation that has seen nothing
    assert np.allclose(encoder.model(x)[0].detach(), np.exp(flat) / np.exp(flat).sum(), atol=1e-6)


def test_stones_network_against_loops():
    """One mode: frames are normalised over bins and channels, with a weight and a bias each; no statistics of a batch
    come between the head and the softmax, in training neither."""
    encoder = build("chromanet:channels=[2],kernels=[3],modes=1,drop_path=0", rate=16000).double().train()
    p = {}
    with torch.no_grad():
        for number, (name, parameter) in enumerate(encoder.model.named_parameters()):
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(0.3 * drawn)
            p[name.removeprefix("stages.0.")] = parameter.numpy().copy()
    crops = torch.rand(3, HEIGHT, 6, generator=torch.Generator().manual_seed(0)).double()

    def gelu(v):
        return 0.5 * v * (1 + math.erf(v / math.sqrt(2)))

    def normed(x, name):  # (chans, bins, frames), a frame at a time
        out = np.zeros_like(x)
        for t in range(x.shape[2]):
            mean = np.mean(x[:, :, t])
            deviation = math.sqrt(np.mean((x[:, :, t] - mean) ** 2) + 1e-5)
            for c in range(x.shape[0]):
                for f in range(HEIGHT):
                    scale, bias = p[f"{name}.norm.weight"][f, c], p[f"{name}.norm.bias"][f, c]
                    out[c, f, t] = (x[c, f, t] - mean) / deviation * scale + bias
        return out

    found = encoder.model(crops).detach().numpy()
    for item, crop in enumerate(crops.numpy()):
        before, x = normed(crop[None], "norm_before"), np.zeros((2, HEIGHT, 3))
        for c, f, t in np.ndindex(*x.shape):
            pair = before[0, f, 2 * t : 2 * t + 2]
            x[c, f, t] = gelu(float(p["halve.weight"][c, 0, 0] @ pair + p["halve.bias"][c]))
        deep = np.zeros_like(x)
        for c, f, t in np.ndindex(*x.shape):
            for i, j in np.ndindex(3, 3):
                at = x[c, min(max(f + i - 1, 0), HEIGHT - 1), min(max(t + j - 1, 0), 2)]
                deep[c, f, t] += p["depthwise.weight"][c, 0, i, j] * at
            deep[c, f, t] += p["depthwise.bias"][c]
        deep = normed(deep, "norm")
        for f, t in np.ndindex(HEIGHT, 3):
            wide = [gelu(float(v)) for v in p["wide.weight"] @ deep[:, f, t] + p["wide.bias"]]
            x[:, f, t] += (p["narrow.weight"] @ wide + p["narrow.bias"]) * p["scale"]
        logits = []
        for pitch in range(12):
            place = np.mean([x[:, 12 * octave + pitch, t] for octave in range(7) for t in range(3)], axis=0)
            logits.append(float(p["head.weight"][0, :, 0, 0] @ place + p["head.bias"][0]))
        exps = np.exp(logits)
        assert np.allclose(found[item], exps / exps.sum(), atol=1e-9)


def test_transposed_music_turns_the_profile():
    """Away from the borders a network without learned places is equivariant."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = build(TINY, rate=16000).eval()
    x = torch.zeros(1, 99, 32)
    x[:, 40:60] = torch.rand(1, 20, 32, generator=torch.Generator().manual_seed(0))
    low, high = (crop_bins(x, torch.tensor([start]), HEIGHT) for start in (2, 4))
    with torch.no_grad():
        a, b = (encoder.model(crop)[0].view(2, 12) for crop in (low, high))
    assert torch.allclose(a.roll(-2, 1), b, atol=1e-5) and not torch.allclose(a, b, atol=1e-4)


def test_batch_normalisation_keeps_both_modes():
    encoder = build(TINY, rate=16000).train()
    with torch.no_grad():
        encoder.model.head.bias += torch.tensor([50.0, -50.0])
    crop = torch.rand(4, HEIGHT, 16, generator=torch.Generator().manual_seed(0))
    assert 0.3 < float(encoder.model(crop)[:, :12].sum(1).mean()) < 0.7
    without = build(f"{TINY},batch_norm=false", rate=16000)
    with torch.no_grad():
        without.model.head.bias += torch.tensor([50.0, -50.0])
    assert float(without.model(crop)[:, :12].sum(1).mean()) > 0.99


def test_the_pseudo_label_tells_modes_where_the_signature_is_known():
    """With the signature placed at its major root, as the paper has it, the rule is right of most pieces; with
    the other sign it would compare the major root with its minor third."""
    batch = open_data("cadences", rate=16000, seconds=3.0).batch(range(72))
    level = build(TINY, rate=16000).spectrum(batch["audio"])[:, :HEIGHT].mean(2)
    chroma = octave_pooled(level[..., None]).squeeze(2)
    place = (signature_of(batch["label"]) + 3) % 12  # bin 0 is an A
    signature = torch.nn.functional.one_hot(place, 12).float()
    major = (batch["label"] < 12).float()
    paper, code = (
        float((task(relative=relative).pseudo_label(signature, chroma) == major).float().mean())
        for relative in (-3, 3)
    )
    assert paper > 0.8 and code < paper - 0.05


def test_labels_of_the_third_view_come_from_the_first_two():
    y = profiles()
    chroma = torch.rand(5, 12, generator=torch.Generator().manual_seed(1)).double()
    method, shift = task(), torch.ones(5).long()
    before = method.losses(y, shift, chroma)["mode"]
    turned = y.clone()
    turned[2] = y[2].view(5, 2, 12).roll(4, 2).flatten(1)
    assert float(method.losses(turned, shift, chroma)["mode"]) == pytest.approx(float(before))


def test_gradients_are_clipped_each_by_itself():
    method = task()
    for number, parameter in enumerate(method.parameters()):
        parameter.grad = torch.full_like(parameter, 100.0 if number % 2 else 1e-3)
    first, second, third = list(method.parameters())[:3]
    first.grad.view(-1)[0] = torch.nan
    second.grad.view(-1)[0], third.grad.view(-1)[1] = torch.inf, -torch.inf
    method.after_backward(Step.at())
    assert first.grad.view(-1)[0] == 0 and first.grad.view(-1)[1] == pytest.approx(1e-3)
    assert second.grad.eq(0).all() and third.grad.eq(0).all(), "an infinite norm leaves nothing"
    for number, parameter in enumerate(method.parameters()):
        if number % 2 and parameter is not second:
            assert float(parameter.grad.norm()) == pytest.approx(3.0, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("F# minor (title)", 18), ("Bb", 10), ("Am", 21), ("c", 12), ("G", 7), ("A flat major", 8), ("C:min", 12),
     ("B minor", 23), ("dog", None), ("Bach", None), ("music", None)],
)  # fmt: skip
def test_keys_are_read_from_names(name, expected):
    assert parse_key(name) == expected


def test_mirex_credit():
    c_major, truth = 0, torch.zeros(24).long()
    credit = weighted(torch.arange(24), truth)
    expected = {c_major: 1.0, 7: 0.5, 12 + 9: 0.3, 12: 0.2}
    assert credit.tolist() == [expected.get(said, 0.0) for said in range(24)]
    a_minor = torch.full((24,), 21)
    expected = {21: 1.0, 12 + 4: 0.5, 0: 0.3, 9: 0.2}
    assert weighted(torch.arange(24), a_minor).tolist() == [expected.get(said, 0.0) for said in range(24)]
    half = signature_score(torch.tensor([0, 7, 5, 21, 16, 2]), torch.zeros(6).long())
    assert half.tolist() == [1, 0.5, 0.5, 1, 0.5, 0]


@pytest.mark.parametrize("swapped", [False, True])
def test_calibration_finds_places_that_the_loss_leaves_open(swapped):
    """Each twelve turned by its own offset, and perhaps the modes exchanged."""
    known = torch.arange(24)
    truth = (known % 12 + torch.where(known < 12, 5, 2)) % 12 + 12 * ((known // 12) ^ swapped)
    profile = torch.nn.functional.one_hot(truth, 24).float() + 0.3 * torch.rand(24, 24)
    assert torch.equal(calibrate(profile, known)[profile.argmax(1)], known)
    signatures = torch.nn.functional.one_hot((signature_of(known) + 4) % 12, 12).float()
    assert torch.equal(calibrate(signatures, known)[signatures.argmax(1)], signature_of(known))


def test_the_protocol_scores_a_network_and_template_matching(monkeypatch):
    monkeypatch.setattr("pretask.evaluation.key.PIECES", 1)
    data = open_data("cadences", rate=16000, seconds=2.0)
    test = data.split("test").subset(range(48))
    for name, metrics in (("raw", 5), (TINY, 5), (f"{TINY},modes=1", 2)):
        scores = {score.metric: score for score in key(build(name, rate=16000), data, test)}
        assert len(scores) == metrics and all(0 <= score.value <= 1 for score in scores.values())
        if name == "raw":
            assert scores["signature"].value > 0.7 and scores["mode"].value > 0.8
    noise = open_data(
        (np.zeros((4, 16000)), ["a dog", "a dog", "a cat", "a cat"]), modality="audio", rate=16000
    )
    with pytest.raises(UsageError, match="no keys"):
        key(build("raw", rate=16000), noise, noise)
    with pytest.raises(UsageError, match="hears no key"):
        key(tiny.OWN_ENCODERS["track"](), data, test)


def test_template_matching_hears_real_tunes(real_data):
    """What is calibrated on made-up pieces holds for real ones."""
    folder = real_data("nottingham_midi")
    data = open_data(folder, modality="audio", label="key", rate=16000, seconds=10, pieces=1, limit=24)
    scores = {score.metric: score.value for score in key(build("raw", rate=16000), data, data)}
    assert scores["weighted"] > 0.7 and scores["signature score"] > 0.75


def test_errors_say_what_to_do():
    with pytest.raises(UsageError, match="too short"):
        task("chromanet").loss(tiny.BATCHES["audio"](2), Step.at())
    with pytest.raises(UsageError, match="longer pieces"):
        build("chromanet")(torch.zeros(1, 2000))
    with pytest.raises(UsageError, match="rate=16000"):
        build("chromanet", rate=8000)
    with pytest.raises(UsageError, match="entry a stage"):
        build("chromanet:channels=[2,3]")
    with pytest.raises(UsageError, match="chromanet"):
        SKey(build("raw"))
    with pytest.raises(UsageError, match="read by chromanet"):
        build("resnet18")


def test_the_norms_see_what_they_should():
    x = torch.rand(2, 3, HEIGHT, 5)
    whole, frame = ItemNorm()(x), FrameNorm(3)(x)
    assert torch.allclose(whole.flatten(1).mean(1), torch.zeros(2), atol=1e-5)
    assert torch.allclose(frame.mean((1, 2)), torch.zeros(2, 5), atol=1e-5)
