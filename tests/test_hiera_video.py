"""Hiera of videos: nothing leaks, units are those that were meant, and first frames are asked for channel last."""

import pytest
import torch
import torch.nn.functional as F
from timm.models.hiera import Hiera as TimmHiera
from timm.models.hiera import checkpoint_filter_fn
from torch import Tensor

from pretask import open_data
from pretask.encoders import build_encoder
from pretask.encoders.hiera import unit_places, unrolled
from pretask.errors import UsageError
from pretask.evaluation.finetune import finetune
from pretask.methods.video.hiera import HieraVideo
from pretask.task import Step
from pretask.training.optimisers import groups
from pretask.training.plan import Schedule

TINY = "hiera_tiny:embed_dim=8,stages=[1,1,2],frames=8"


def make(name: str = TINY, size: int = 32, **options) -> HieraVideo:
    torch.manual_seed(0)
    return HieraVideo(build_encoder(name, "video", image_size=size, seed=0), **options).eval()


def batch(count: int = 2, frames: int = 8) -> dict[str, Tensor]:
    return {"video": torch.rand(count, 3, frames, 36, 36, generator=torch.Generator().manual_seed(5))}


def units_of(video: Tensor) -> Tensor:
    """The number of the unit, 2 frames of 8 x 8 pixels, that each pixel (T, H, W) belongs to."""
    number = torch.zeros(video.shape[2:], dtype=torch.long)
    for t in range(video.shape[2]):
        for y in range(32):
            for x in range(32):
                number[t, y, x] = (t // 2 * 4 + y // 8) * 4 + x // 8
    return number


def covered(hidden: Tensor, video: Tensor) -> Tensor:
    return hidden[:, units_of(video)][:, None].expand_as(video)


def test_the_papers_size():
    """16 frames of 224 pixels: 392 units, 39 kept, 14 x 14 answers of 16 x 16 pixels for each of 8 times."""
    encoder = build_encoder("hiera_tiny:q_pool=2,embed_dim=24", "video", image_size=224, seed=0)
    assert encoder.units == (8, 7, 7) and encoder.grid == (8, 14, 14) and encoder.token == 16
    assert encoder.frames == 16 and encoder.tubelet == 2
    assert torch.allclose(
        encoder.normalise(torch.full((1, 3, 2, 2, 2), 0.675)), torch.ones(())
    )  # 0.45 + 0.225
    task = HieraVideo(encoder, decoder_dim=32, decoder_depth=1)
    assert encoder.num_units - task.num_hidden == 39
    assert [layer.kernel_size for layer in task.fusion] == [(1, 4, 4), (1, 2, 2)]
    assert task.positions.shape[1] == 1568 and task.decoder[-1].out_features == 16 * 16 * 3
    puzzle = task.puzzle({"video": torch.rand(1, 3, 16, 224, 224)}, Step.at())
    with torch.no_grad():
        assert task.encode(puzzle).shape == (1, 39, 1, 2, 2, 192)


@pytest.mark.parametrize(
    ("size", "units", "token"),
    [(16, (8, 2, 2), 4), (32, (8, 4, 4), 4), (64, (8, 8, 8), 4), (112, (8, 7, 7), 8)],
)
def test_small_clips(size, units, token):
    encoder = build_encoder("hiera_tiny:embed_dim=8", "video", image_size=size, seed=0)
    assert encoder.units == units and encoder.token == token


def test_released_weights_fit():
    """The names and shapes of the official checkpoints of 16 frames of 224 pixels."""
    with torch.device("meta"):
        encoder = build_encoder("hiera_base:q_pool=2", "video", image_size=224)
        official = TimmHiera(
            (16, 224, 224), stages=(2, 3, 16, 3), q_stride=(1, 2, 2), mask_unit_size=(1, 8, 8),
            patch_kernel=(3, 7, 7), patch_stride=(2, 4, 4), patch_padding=(1, 3, 3), sep_pos_embed=True,
            num_classes=0,
        )  # fmt: skip
    state = {
        name.replace("head.norm", "encoder_norm"): value for name, value in official.state_dict().items()
    }
    assert state["pos_embed_spatial"].shape == (1, 56 * 56, 96)
    assert state["pos_embed_temporal"].shape == (1, 8, 96)
    assert state["patch_embed.proj.weight"].shape == (96, 3, 3, 7, 7)
    assert state["blocks.2.attn.qkv.weight"].shape == (3 * 192, 96) and "encoder_norm.weight" in state
    renamed = checkpoint_filter_fn({"model_state": state})
    own = encoder.model.state_dict()
    assert {name: v.shape for name, v in renamed.items()} == {name: v.shape for name, v in own.items()}


def test_what_is_left_out_does_not_leak():
    task = make()
    puzzle = task.puzzle(batch(), Step.at())
    assert puzzle.hidden.sum(1).tolist() == [58, 58]  # 64 units, int(64 x 0.1) kept
    with torch.no_grad():
        encoded = task.encode(puzzle)
        cover = covered(puzzle.hidden, puzzle.pixels)
        noise = 9 * torch.rand(puzzle.pixels.shape, generator=torch.Generator().manual_seed(1))
        changed = torch.where(cover, noise, puzzle.pixels)
        assert torch.equal(task.encode(puzzle._replace(pixels=changed)), encoded)
        assert torch.equal(task.rebuild(puzzle._replace(pixels=changed)), task.rebuild(puzzle))
        seen = torch.where(cover, puzzle.pixels, noise)
        assert not torch.allclose(task.encode(puzzle._replace(pixels=seen)), encoded, atol=1e-3)


def test_kept_units_are_those_that_were_meant():
    """A change of one kept unit's pixels changes its own tokens of the first stage, and no other's."""
    task = make(mask_ratio=0.8)
    puzzle = task.puzzle(batch(1), Step.at())
    number = units_of(puzzle.pixels)
    kept = (~puzzle.hidden[0]).nonzero().flatten().tolist()
    with torch.no_grad():
        before = task.encoder.stages(puzzle.pixels, ~puzzle.hidden)[0]
        for place, unit in enumerate(kept):
            times, rows, columns = (number == unit).nonzero().unbind(1)
            clip = puzzle.pixels.clone()  # the inside of its first frame: only its own tokens look there
            clip[
                :, :, times.min(), rows.min() + 2 : rows.max() - 1, columns.min() + 2 : columns.max() - 1
            ] += 0.5
            moved = task.encoder.stages(clip, ~puzzle.hidden)[0] - before
            changed = moved.abs().amax((0, 2, 3, 4, 5))
            assert changed[place] > 1e-3 and changed.count_nonzero() == 1


def attention(layer, x: Tensor, pooled: Tensor | None = None) -> Tensor:
    """Of tokens (N, D) among each other; `pooled` (M, 4) says which four tokens' queries become one."""
    q, k, v = layer.qkv(x).unflatten(1, (3, layer.heads, -1)).unbind(1)
    if pooled is not None:
        q = q[pooled].amax(1)
    heads = []
    for head in range(layer.heads):
        weights = (q[:, head] @ k[:, head].T / q.shape[2] ** 0.5).softmax(1)
        heads.append(weights @ v[:, head])
    return layer.proj(torch.cat(heads, dim=1))


def feed_forward(block, x: Tensor) -> Tensor:
    return x + block.mlp(block.norm2(x))


def test_the_stages_are_those_of_a_naive_network():
    """In double precision and in raster order: units attend within themselves, the first block of the second
    stage pools 2 x 2 places, that of the third only widens, and the last block looks at all kept tokens."""
    task = make("hiera_tiny:embed_dim=8,stages=[1,1,2],frames=4", mask_ratio=0.8).double()
    model, puzzle = task.encoder.model, task.puzzle({"video": batch(1)["video"].double()}, Step.at())
    kept = (~puzzle.hidden[0]).nonzero().flatten().tolist()
    x = torch.where(covered(puzzle.hidden, puzzle.pixels), 0, task.encoder.normalise(puzzle.pixels))
    maps = F.conv3d(x, model.patch_embed.proj.weight, model.patch_embed.proj.bias, (2, 2, 2), (1, 1, 1))[0]
    space, time = model.pos_embed_spatial[0].view(16, 16, -1), model.pos_embed_temporal[0]
    first, second, third, last = model.blocks
    four = torch.tensor([[4 * y + x + d for d in (0, 1, 4, 5)] for y in (0, 2) for x in (0, 2)])
    ends: list[list[Tensor]] = [[], [], []]
    for unit in kept:
        t, y, x = unit // 16, unit // 4 % 4 * 4, unit % 4 * 4
        tokens = torch.stack(
            [maps[:, t, y + i, x + j] + space[y + i, x + j] + time[t] for i in range(4) for j in range(4)]
        )
        tokens = feed_forward(first, tokens + attention(first.attn, first.norm1(tokens)))
        ends[0].append(tokens)
        normed = second.norm1(tokens)
        shortcut = second.proj(normed)[four].amax(1)
        tokens = feed_forward(second, shortcut + attention(second.attn, normed, four))
        ends[1].append(tokens)
        normed = third.norm1(tokens)
        ends[2].append(feed_forward(third, third.proj(normed) + attention(third.attn, normed)))
    whole = torch.cat(ends[2])
    ends[2] = list(feed_forward(last, whole + attention(last.attn, last.norm1(whole))).split(4))
    found = task.encoder.stages(puzzle.pixels, ~puzzle.hidden)
    for stage, end in zip(found, ends, strict=True):
        assert torch.allclose(stage.flatten(2, 4)[0], torch.stack(end), atol=1e-10)
    fused = torch.stack(ends[2])  # the first stage's 4 x 4 tokens become 2 x 2 by a convolution of 2 x 2
    kernel, bias = task.fusion[0].weight[:, :, 0], task.fusion[0].bias
    assert kernel.shape[2:] == (2, 2)
    for number, end in enumerate(ends[0]):
        for place in range(4):
            i, j = place // 2 * 2, place % 2 * 2
            patch = end.view(4, 4, -1)[i : i + 2, j : j + 2]
            fused[number, place] += torch.einsum("ijc,ocij->o", patch, kernel) + bias
    assert torch.allclose(task.encode(puzzle).flatten(2, 4)[0], task.norm(fused), atol=1e-10)


def test_units_are_laid_time_by_time_and_row_by_row():
    units = torch.arange(12 * 4).view(1, 12, 1, 2, 2, 1).float()  # 3 x 2 x 2 units of 1 x 2 x 2
    laid = unrolled(units, (3, 2, 2)).view(3, 4, 4)
    for unit in range(12):
        t, r, c = unit // 4, unit // 2 % 2 * 2, unit % 2 * 2
        assert torch.equal(laid[t, r : r + 2, c : c + 2], units[0, unit, 0, :, :, 0])
    assert unit_places((3, 2, 2), (1, 2, 2)).view(3, 4, 4)[2, 1].tolist() == [8, 8, 9, 9]


def test_with_all_units_the_stages_are_the_videos():
    encoder = make().encoder
    video = torch.rand(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole = encoder.stages(video)
        units = encoder.stages(video, torch.ones(2, 64, dtype=torch.bool))
        found = encoder(video)
    for full, part in zip(whole, units, strict=True):
        assert torch.allclose(unrolled(part, (4, 4, 4)), full.flatten(1, 3), atol=1e-5)
    assert found.grid == (4, 8, 8) and torch.allclose(found.tokens, whole[-1].flatten(1, 3))
    expected = F.layer_norm(found.tokens.mean(1), (32,), eps=1e-6)  # whose weights are still 1 and 0
    assert torch.allclose(found.pooled, expected, atol=1e-5)


def test_the_loss_is_over_first_frames_of_all_hidden_units():
    task = make()
    loss = task.loss(batch(), Step.at(seed=3))["reconstruction"]
    puzzle = task.puzzle(batch(), Step.at(seed=3))
    rebuilt, errors = task.rebuild(puzzle), []
    clip = (puzzle.pixels - 0.45) / 0.225
    for n in range(2):
        for place in range(4 * 64):
            t, row, column = place // 64, place // 8 % 8 * 4, place % 8 * 4
            if puzzle.hidden[n, (t * 4 + row // 8) * 4 + column // 8]:
                pixels = torch.stack(
                    [
                        clip[n, channel, 2 * t, row + i, column + j]
                        for i in range(4)
                        for j in range(4)
                        for channel in range(3)
                    ]
                )
                target = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
                errors.append((rebuilt[n, place] - target).square().mean())
    assert len(errors) == 2 * 58 * 4
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


def test_the_truth_paints_first_frames_over_whole_tokens():
    task = make()
    puzzle = task.puzzle(batch(), Step.at())
    truth = task.truth(puzzle)
    painted = task.paint(puzzle, truth.values * truth.std + truth.mean)
    cover = covered(puzzle.hidden, puzzle.pixels)
    first = puzzle.pixels[:, :, ::2].repeat_interleave(2, 2)
    assert torch.allclose(painted, torch.where(cover, first, puzzle.pixels).clamp(0, 1), atol=1e-5)


def test_a_clip_begins_anywhere_in_a_longer_sample():
    task = make(crop_scale=(1.0, 1.0))
    ramp = (torch.arange(20.0) / 20).view(1, 1, 20, 1, 1).expand(64, 3, 20, 32, 32)
    pixels = task.puzzle({"video": ramp}, Step.at()).pixels
    number = (pixels.mean((1, 3, 4)) * 20).round().long()
    assert number.shape == (64, 8) and (number.diff(dim=1) == 1).all()
    assert set(number[:, 0].tolist()) == set(range(13))
    with pytest.raises(UsageError, match="reads 8 frames and the videos have 4: read more"):
        task.loss(batch(frames=4), Step.at())


def test_it_is_fine_tuned():
    data = open_data("moving-digits", image_size=16, frames=4, hop=48)
    encoder = build_encoder("hiera_tiny:embed_dim=8,stages=[1,1,1],frames=4", "video", image_size=16)
    some = data.subset(range(20)), data.subset(range(900, 910))
    (tuned,) = finetune(encoder, *some, epochs=1, batch_size=10)
    assert tuned.n == 10


def test_what_does_not_fit_is_refused():
    for name, size, why in (
        (TINY, 36, "not a multiple of a Hiera's mask unit of 2 x 8 x 8"),
        ("hiera_tiny:frames=7", 32, "multiple"),
        ("hiera_tiny:stages=[1,1,1,1]", 32, "wrong ones"),
        ("hiera_tiny:mask_unit_size=[1,4,4]", 128, "wrong ones"),
        ("hiera_tiny:q_stride=[2,2,2],mask_unit_size=[4,4,4]", 32, "over time"),
        ("hiera_tiny:mask_unit_size=[4,4]", 32, "three numbers"),
        ("hiera_tiny:q_pool=3", 32, "less than the stages"),
        ("hiera_tiny:frames=0", 32, "whole number"),
        ("hiera_tiny:colour=3", 32, "colour"),
        ("hiera_tiny_224", 32, "hiera_tiny, hiera_small"),
    ):
        with pytest.raises(UsageError, match=why):
            build_encoder(name, "video", image_size=size)
    with pytest.raises(UsageError, match="no published weights"):
        build_encoder("hiera_tiny", "video", image_size=224, pretrained=True)
    with pytest.raises(UsageError, match="reads 8 frames of 32 pixels, not 4 of 32"):
        make().encoder(torch.rand(1, 3, 4, 32, 32))
    with pytest.raises(UsageError, match="some must be"):
        make(mask_ratio=0.99)
    with pytest.raises(UsageError, match="hiera_tiny:q_pool=2"):
        HieraVideo(build_encoder("r3d_18:width=4", "video", image_size=16))


def test_all_matrices_decay_but_the_encoders_positions():
    task = make()
    parts = groups(task.named_parameters(), Schedule(task.recipe, 1.0, 0, 100), task.encoder)
    sizes = dict(task.named_parameters())
    kept = {name for part in parts if not part["decays"] for name in part["names"] if sizes[name].ndim > 1}
    assert kept == {f"encoder.model.pos_embed_{kind}" for kind in ("spatial", "temporal")}
