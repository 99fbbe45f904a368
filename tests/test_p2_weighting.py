"""P2 weighting's loss step by step, its average, and the denoiser as an encoder."""

import math

import pytest
import torch
import torch.nn.functional as F

import tiny
from pretask.encoders import build_encoder, load_encoder, save_encoder
from pretask.encoders.denoiser import Denoiser, build_unet
from pretask.errors import UsageError
from pretask.export import export
from pretask.methods.image.p2_weighting import P2Weighting
from pretask.objectives.diffusion import variance_bound
from pretask.pretexts.diffusion import cosine_betas, linear_betas
from pretask.task import Step

TINY = "unet:width=8,mults=[1,2]"


def encoder(name: str = TINY, side: int = 32, chans: int = 3) -> Denoiser:
    return build_encoder(name, image_size=side, in_chans=chans, seed=0)


def loud(made: Denoiser) -> Denoiser:
    """With an answer that is not almost zero."""
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if name.endswith(("conv2.weight", "to_out.0.weight", "conv_out.weight")):
                parameter.mul_(1e5)
    return made


# ---- the loss


@pytest.mark.parametrize(
    ("options", "weight"),
    [
        ({}, lambda left: 1 - left),
        ({"gamma": 0.5, "k": 2.0}, lambda left: (2 + left / (1 - left)) ** -0.5),
        ({"gamma": 0.0}, lambda left: 1.0),
        ({"weighting": "min-snr"}, lambda left: min(5 * (1 - left) / left, 1.0)),
        ({"weighting": "truncated-snr"}, lambda left: max((1 - left) / left, 1.0)),
    ],
)
@pytest.mark.parametrize("learned", [True, False])
def test_loss_is_the_papers(options, weight, learned):
    """As the official training step: noise at a uniform level, the weight of the level on the noise alone."""
    made = loud(encoder(f"{TINY},learn_variance={str(learned).lower()}"))
    task, seen = P2Weighting(made, **options).eval(), []
    predict = made.predict
    made.predict = lambda noisy, level: seen.append((noisy, level, predict(noisy, level))) or seen[-1][2]
    losses = task.loss(tiny.images(8), Step.at(4))
    (noisy, level, (guess, between)) = seen[0]
    assert set(losses) == ({"noise", "variance"} if learned else {"noise"})
    left = (1 - linear_betas(1000)).cumprod(0)
    clean = task.clean(tiny.images(8), Step.at(4))
    assert clean.min() >= -1 and clean.max() <= 1 and clean.min() < -0.3
    total = 0.0
    for i, t in enumerate(level.tolist()):
        a = float(left[t])
        noise = (noisy[i] - math.sqrt(a) * clean[i]) / math.sqrt(1 - a)
        assert abs(float(noise.mean())) < 0.1 and float(noise.std()) == pytest.approx(1, abs=0.1)
        total += weight(a) * float((noise - guess[i].detach()).square().mean())
    assert float(losses["noise"].detach()) == pytest.approx(total / 8, rel=1e-3)
    if learned:
        bound = variance_bound(made.schedule, guess, between, clean, noisy, level)
        assert float(losses["variance"].detach()) == pytest.approx(float(bound.mean().detach()))


def test_levels_are_uniform():
    task = P2Weighting(encoder())
    seen = []
    task.encoder.predict = lambda noisy, level: seen.append(level) or (noisy, noisy)
    for index in range(40):
        task.loss(tiny.images(16), Step.at(index))
    levels = torch.cat(seen)
    assert levels.min() < 30 and levels.max() > 970
    assert float(levels.double().mean()) == pytest.approx(499.5, abs=4 * 289 / math.sqrt(len(levels)))


def test_rescaled_weights_have_mean_one():
    plain, rescaled = P2Weighting(encoder()), P2Weighting(encoder(), rescale=True)
    assert float(plain.weight.mean()) == pytest.approx(0.7245, abs=1e-4)
    assert float(rescaled.weight.mean()) == pytest.approx(1)
    torch.testing.assert_close(rescaled.weight / rescaled.weight[0], plain.weight / plain.weight[0])
    assert plain.chance(8)["noise"] == pytest.approx(0.7245, abs=1e-4)


def test_weights_follow_the_encoders_schedule():
    task = P2Weighting(encoder(f"{TINY},levels=50,schedule=cosine"))
    left = (1 - cosine_betas(50)).cumprod(0)
    torch.testing.assert_close(task.weight, (1 - left).float(), rtol=1e-4, atol=1e-6)


def test_pictures_are_middle_squares_mirrored_at_random():
    task = P2Weighting(encoder())
    image = torch.rand(16, 3, 32, 32)
    size = torch.tensor([[32, 64]]).expand(16, -1)  # twice as wide as it is shown
    found = task.clean({"image": image, "size": size}, Step.at(1)) / 2 + 0.5
    middle = F.interpolate(image[:, :, :, 8:24], (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    straight = (found - middle).abs().amax((1, 2, 3)) < 0.02
    mirrored = (found - middle.flip(3)).abs().amax((1, 2, 3)) < 0.02
    assert bool((straight | mirrored).all()) and 2 < int(straight.sum()) < 14


def test_what_is_no_denoiser_is_refused():
    with pytest.raises(UsageError, match="unet"):
        P2Weighting(build_encoder("resnet10t", image_size=32))
    with pytest.raises(UsageError, match="gamma"):
        P2Weighting(encoder(), gamma=-1.0)


# ---- the average


@pytest.mark.parametrize(
    ("options", "decays"),
    [
        ({"ema": 0.2}, [0.1, 2 / 11, 0.2, 0.2]),
        ({}, [0.1, 2 / 11, 0.25, 4 / 13]),
        ({"ema_warmup": False}, [0.9999] * 4),
    ],
)
def test_the_average_follows_and_is_what_is_kept(options, decays):
    """As shares: what each of the weights that there were is worth in the average."""
    task = P2Weighting(encoder(), **options)
    name = "model.conv_in.weight"
    parameter = task.encoder.get_parameter(name)
    start, were = parameter.detach().double(), []
    for index in range(4):
        with torch.no_grad():
            parameter.add_(1.0 + index)
        were.append(parameter.detach().double())
        task.after_step(Step.at(index, 4))
    expected = start * math.prod(decays)
    for index, weights in enumerate(were):
        expected = expected + (1 - decays[index]) * math.prod(decays[index + 1 :]) * weights
    torch.testing.assert_close(task.average.get_parameter(name).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parameter.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_decay_stops_rising_at_the_papers():
    task, step = P2Weighting(encoder()), 200_000
    before = task.average.get_parameter("model.conv_in.bias").detach().clone()
    with torch.no_grad():
        task.encoder.get_parameter("model.conv_in.bias").add_(100.0)
    task.after_step(Step.at(step, 2 * step))
    moved = task.average.get_parameter("model.conv_in.bias") - before
    torch.testing.assert_close(moved, torch.full_like(moved, 100 * 1e-4), rtol=2e-3, atol=0)


def test_preview_shows_noise_at_several_levels_and_answers():
    task = P2Weighting(loud(encoder()))
    sheet = task.preview(tiny.images(3), Step.at())
    rows = sheet.rows
    weight = 1 - (1 - linear_betas(1000)).cumprod(0)
    snr = (1 - weight) / weight
    shares = [
        float(weight[part].sum() / weight.sum()) for part in (snr < 0.01, (snr >= 0.01) & (snr < 1), snr >= 1)
    ]
    assert sheet.note.endswith("{:.0%} is coarse, {:.0%} is content, {:.0%} is clean-up".format(*shares))
    captions = [panel.caption for panel in rows[0]]
    assert captions == [
        "the picture", "little noise", "without it", "noise", "without it", "hardly more than noise",
        "without it", "drawn from noise",
    ]  # fmt: skip
    deviation = [float((row[i].content - row[0].content).square().mean()) for row in rows for i in (1, 3)]
    assert all(less < more for less, more in zip(deviation[::2], deviation[1::2], strict=True))


# ---- the encoder


def adm_parameters(width: int, mults: tuple[int, ...], attends: int, chans: int) -> int:
    """Of ADM's U-Net with one residual block a resolution, layer by layer as in its paper."""
    wide = 4 * width  # of the level's embedding

    def residual(inside: int, outside: int) -> int:
        halves = 2 * inside + 9 * inside * outside + outside, 2 * outside + 9 * outside**2 + outside
        scale_and_shift = (wide + 1) * 2 * outside
        return sum(halves) + scale_and_shift + ((inside + 1) * outside if inside != outside else 0)

    def attention(inside: int) -> int:  # its normalisation, queries, keys and values, and the way out
        return 2 * inside + (inside + 1) * 3 * inside + (inside + 1) * inside

    total = (width + 1) * wide + (wide + 1) * wide + (9 * chans + 1) * width
    now, passed = width, [width]
    for place, times in enumerate(mults):
        total += residual(now, times * width) + (attention(times * width) if place == attends else 0)
        now = times * width
        passed.append(now)
        if place + 1 < len(mults):
            total += residual(now, now)
            passed.append(now)
    total += 2 * residual(now, now) + attention(now)
    for place, times in reversed(list(enumerate(mults))):
        for _ in range(2):
            total += residual(now + passed.pop(), times * width)
            now = times * width
            total += attention(now) if place == attends else 0
        total += residual(now, now) if place else 0
    return total + 2 * width + (9 * width + 1) * 2 * chans


def test_the_papers_light_network_has_93_million_parameters():
    model = build_unet(3, 256, True)
    count = sum(p.numel() for p in model.parameters())
    assert count == adm_parameters(128, (1, 1, 2, 2, 4, 4), attends=4, chans=3) == 93_563_910
    assert model.config.out_channels == 6
    kinds = [type(block).__name__ for block in model.down_blocks]
    assert kinds == ["ResnetDownsampleBlock2D"] * 4 + ["AttnDownBlock2D", "ResnetDownsampleBlock2D"]
    assert {block.attentions[0].heads for block in model.down_blocks[4:5]} == {512 // 64}
    assert model.mid_block.attentions[0].group_norm.num_groups == 32


def test_features_are_the_middle_of_the_network_under_a_little_noise():
    made = loud(encoder(f"{TINY},level=30")).eval()
    image, inner = torch.rand(2, 3, 32, 32), []
    made.model.mid_block.register_forward_hook(lambda module, given, out: inner.append(out))
    found = made(image)
    left = float((1 - linear_betas(1000)).cumprod(0)[30])
    noisy = math.sqrt(left) * (2 * image - 1) + math.sqrt(1 - left) * made.haze
    made.model(noisy, torch.tensor([30, 30]))
    torch.testing.assert_close(inner[0], inner[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.tokens, inner[1].flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.pooled, found.tokens.mean(1))
    assert found.grid == (16, 16) and made.dim == 16
    assert torch.equal(made(image).pooled, found.pooled), "the noise is always the same"


@pytest.mark.parametrize(("side", "given"), [(32, 32), (35, 35), (33, 40)])
def test_sides_need_not_be_divisible(side, given):
    made = loud(encoder(side=side)).eval()
    noise, between = made.predict(torch.rand(2, 3, given, given), torch.tensor([0, 999]))
    assert noise.shape == between.shape == (2, 3, given, given)
    assert made(torch.rand(2, 3, given, given)).pooled.shape == (2, 16)


def test_it_begins_by_guessing_no_noise():
    made = encoder().eval()
    noise, between = made.predict(torch.rand(2, 3, 32, 32), torch.tensor([0, 999]))
    assert noise.abs().max() < 1e-3 and between.abs().max() < 1e-3


def test_a_denoiser_survives_a_file(tmp_path):
    made = loud(encoder(f"{TINY},levels=200,schedule=cosine,level=20,learn_variance=false", chans=1)).eval()
    save_encoder(made, tmp_path / "encoder.safetensors")
    again = load_encoder(tmp_path).eval()
    assert isinstance(again, Denoiser) and again.level == 20 and not again.learn_variance
    assert torch.equal(again.betas, made.betas)
    image, level = torch.rand(2, 1, 32, 32), torch.tensor([0, 150])
    torch.testing.assert_close(again(image).pooled, made(image).pooled)
    torch.testing.assert_close(again.predict(image, level)[0], made.predict(image, level)[0])
    assert set(made.model.state_dict()) == {name.removeprefix("model.") for name in made.state_dict()}, (
        "what is kept is diffusers' own"
    )


def test_wrong_settings_are_explained():
    with pytest.raises(UsageError, match="linear, cosine"):
        encoder(f"{TINY},schedule=quadratic")
    with pytest.raises(UsageError, match="width"):
        encoder("unet:width=100,mults=[1,2]")


def test_a_denoiser_goes_back_to_diffusers(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    made = loud(encoder()).eval()
    save_encoder(made, tmp_path / "encoder.safetensors")
    folder = export(tmp_path / "encoder.safetensors", tmp_path / "out", "diffusers")
    model = diffusers.UNet2DModel.from_pretrained(folder).eval()
    noisy, level = torch.rand(2, 3, 32, 32), torch.tensor([0, 700])
    torch.testing.assert_close(model(noisy, level).sample, torch.cat(made.predict(noisy, level), dim=1))
    assert "diffusers" in (folder / "README.md").read_text()
    with pytest.raises(UsageError, match="diffusers"):
        export(tmp_path / "encoder.safetensors", tmp_path / "out", "timm")
    export(tmp_path / "encoder.safetensors", tmp_path / "program", "torch")
    program = torch.export.load(tmp_path / "program" / "encoder.pt2").module()
    image = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(program(image), made(image).pooled, rtol=1e-4, atol=1e-5)
