"""FlexPredict and I-JEPA's blocks against loops."""

from math import cos, pi, sqrt

import pytest
import torch
import torch.nn.functional as F

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.flexpredict import FlexPredict
from pretask.pretexts import draw
from pretask.pretexts.blocks import block_size, draw_blocks, rectangles
from pretask.task import Step
from pretask.training.plan import Schedule

BARE = "vit_tiny_patch16_224:depth=2,embed_dim=32,num_heads=2,class_token=false,global_pool=avg,fc_norm=false"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(**options):
    torch.manual_seed(0)
    return FlexPredict(build_encoder(BARE, image_size=32, patch_size=4, seed=0), **options)


def batch(count: int = 3):
    return {"image": torch.rand(count, 3, 40, 40, generator=generator(5))}


@pytest.mark.parametrize("unit", [0.0, 0.3, 0.999])
def test_one_number_decides_on_area_and_aspect(unit):
    scale, aspect = 0.15 + unit * 0.05, 0.75 + unit * 0.75
    kept = int(196 * scale)
    expected = round(sqrt(kept * aspect)), round(sqrt(kept / aspect))
    assert block_size(unit, (14, 14), (0.15, 0.2), (0.75, 1.5)) == expected
    assert block_size(1.0, (14, 14), (0.85, 1.0), (1.0, 1.0)) == (13, 13), "never the whole grid"


def test_rectangles_start_anywhere_but_in_the_last_row():
    unit = torch.rand(500, 2, generator=generator())
    found = rectangles(unit, (6, 8), (3, 2))
    starts = set()
    for block in found:
        rows, columns = block.any(1).nonzero().flatten(), block.any(0).nonzero().flatten()
        assert block.sum() == 6 and len(rows) == 3 and len(columns) == 2
        starts.add((int(rows[0]), int(columns[0])))
    assert starts == {(r, c) for r in range(3) for c in range(6)}


def test_the_context_is_a_block_without_the_targets():
    blocks = draw_blocks((14, 14), 6, generator(3))
    rows, columns = block_size(draw.common((2,), generator(3))[0].item(), (14, 14), (0.15, 0.2), (0.75, 1.5))
    assert blocks.targets.shape == (6, 4, rows * columns)
    for sample in range(6):
        seen = blocks.context[sample].tolist()
        assert seen == sorted(seen) and not set(seen) & set(blocks.targets[sample].flatten().tolist())
        for target in blocks.targets[sample]:
            assert (
                len({int(p) // 14 for p in target}) == rows and len({int(p) % 14 for p in target}) == columns
            )
    assert blocks.context.shape[1] > 10
    assert len({tuple(row) for row in blocks.targets[:, 0].tolist()}) > 1


def naive_contexts(
    side: int, count: int, seed: int, scale: float, around: float, least: int
) -> tuple[list[list[int]], list[int]]:
    """Try after try, as in the official code: the first targets to keep clear of get fewer every 20 tries. Returns
    contexts cut to the shortest, and which try each sample took."""
    drawn = generator(seed)
    torch.rand(2, generator=drawn)  # the sizes, which ranges of one value do not leave to chance
    asked, tried = torch.rand(count, 4, 2, generator=drawn), torch.rand(count, 100, 2, generator=drawn)
    small, large = (min(round(sqrt(int(side**2 * share))), side - 1) for share in (scale, around))

    def rectangle(unit: torch.Tensor, size: int) -> set[int]:
        top, left = (int(float(u) * (side - size)) for u in unit)
        return {row * side + column for row in range(top, top + size) for column in range(left, left + size)}

    contexts, tries = [], []
    for sample in range(count):
        targets = [rectangle(unit, small) for unit in asked[sample]]
        for number in range(100):
            kept = rectangle(tried[sample, number], large).difference(*targets[: 4 - number // 20])
            if len(kept) > least:
                break
        contexts.append(sorted(kept))
        tries.append(number)
    shortest = min(map(len, contexts))
    return [context[:shortest] for context in contexts], tries


@pytest.mark.parametrize(
    ("side", "scale", "around", "least", "levels"),
    [(14, 0.18, 0.9, 10, {0}), (6, 0.25, 0.5, 5, {0, 1, 2, 3}), (6, 0.25, 0.5, 7, {0, 1, 2, 3, 4})],
)
def test_contexts_are_drawn_again_and_again_then_may_overlap_a_target_more(
    side, scale, around, least, levels
):
    expected, tries = naive_contexts(side, 40, 7, scale, around, least)
    found = draw_blocks(
        (side, side), 40, generator(7), 4, (scale, scale), (1.0, 1.0), (around, around), least
    )
    assert found.context.tolist() == expected
    assert levels == {number // 20 for number in tries}
    if least == 5:
        assert any(0 < number < 20 for number in tries), "drawn again, with all targets still kept clear"


def test_the_loss_is_that_of_the_official_code():
    task = make().double()
    image = {"image": batch()["image"].double()}
    step = Step.at(seed=3)
    loss = task.loss(image, step)["features"]
    again = Step.at(seed=3)
    puzzle = task.puzzle(image, again)
    noise = draw.normal((*puzzle.blocks.targets.shape, 32), again.generator).double()
    tokens = task.teacher(puzzle.image).tokens
    truth = (tokens - tokens.mean(-1, keepdim=True)) / (
        tokens.var(-1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    errors = []
    for sample in range(3):
        seen = puzzle.blocks.context[sample]
        own = task.encoder(puzzle.image[sample : sample + 1], visible=seen[None]).tokens[0]
        context = [
            task.embed.weight @ own[k] + task.embed.bias + task.positions[place]
            for k, place in enumerate(seen)
        ]
        for block in range(4):
            places = puzzle.blocks.targets[sample, block]
            asked = [
                task.embed.weight @ (0.25 * noise[sample, block, k]) + task.embed.bias + task.positions[place]
                for k, place in enumerate(places)
            ]
            out = task.head(task.predictor(torch.stack([*context, *asked])[None])[0, len(seen) :])
            errors.append(F.smooth_l1_loss(out, truth[sample, places], reduction="none", beta=1.0))
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-9)


def test_the_target_may_be_the_mean_of_several_normalised_layers():
    """The official code's `target_blocks`."""
    task = make(target_layers=2).double()
    image = batch()["image"].double()[:, :, :32, :32]
    model = task.teacher.model
    with torch.no_grad():
        model.norm.weight.mul_(torch.linspace(0.5, 1.5, 32))
        first = model.blocks[0](task.teacher.embed(image)[0])
        mean = (model.norm(first) + model.norm(model.blocks[1](first))) / 2
    truth = (mean - mean.mean(-1, keepdim=True)) / (mean.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(task.truth(image), truth)
    assert not torch.allclose(make().double().truth(image), truth, atol=0.1)
    with pytest.raises(UsageError, match="target_layers must be 1 to the encoder's 2, not 3"):
        make(target_layers=3)


def test_the_projection_learns_from_both_its_roles_and_targets_from_none():
    task = make()
    task.loss(batch(), Step.at())["features"].backward()
    assert task.embed.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in task.teacher.parameters())
    places = torch.arange(5)[None]
    noise = torch.randn(1, 5, 32, generator=generator())
    task.zero_grad()
    task.ask(places, noise).sum().backward()
    assert task.embed.weight.grad.abs().sum() > 0, "the noise's covariance is learned"


def test_other_queries():
    places, noise = torch.arange(5)[None], torch.randn(1, 5, 32, generator=generator())
    alone = make(query="alone")
    assert torch.equal(alone.ask(places, noise), alone.positions[places])
    token = make(query="token")
    assert torch.equal(token.ask(places, noise), token.positions[places] + token.token)


def test_the_teacher_follows_in_a_line():
    task = make(momentum=0.9)
    with torch.no_grad():
        before = [p.clone() for p in task.teacher.parameters()]
        for p in task.encoder.parameters():
            p.add_(1.0)
    task.after_step(Step.at(5, total=10))
    for old, new, student in zip(before, task.teacher.parameters(), task.encoder.parameters(), strict=True):
        assert torch.allclose(new, 0.95 * old + 0.05 * student, atol=1e-6)


def test_a_class_token_is_refused():
    with pytest.raises(UsageError, match="class_token=false"):
        FlexPredict(build_encoder("vit_tiny_patch16_224:depth=1,embed_dim=32,num_heads=2", image_size=32))


def test_it_starts_small_and_crops_bilinearly():
    """The first layer is a normal of 0.02 (timm's own is uniform, with a bias), and so is the learned query."""
    encoder = build_encoder(
        "vit_tiny_patch16_224:depth=1," + BARE.split(",", 1)[1], image_size=32, patch_size=8
    )
    task = FlexPredict(encoder, query="token")
    first = task.encoder.model.patch_embed.proj
    assert first.weight.std().item() == pytest.approx(0.02, rel=0.1) and not first.bias.any()
    assert torch.equal(task.teacher.model.patch_embed.proj.weight, first.weight)
    assert 0.005 < task.token.std() < 0.04 and task.token.ndim == 3  # so that it decays
    assert task.view.interpolation == "bilinear"


def test_blur_reaches_three_deviations_in_small_pictures_too():
    spec = make().view
    assert spec.size == 32 and spec.blur_sigma == (0.1, 2.0) and spec.blur_radius == 6


def test_the_rate_is_that_of_the_released_run():
    """2e-4 to 8e-4 in 15 of 600 epochs, then along a cosine to 1e-4."""
    schedule = Schedule(make().recipe, 1.0, 0, 600)
    for epoch in (0, 1, 7, 14):
        assert schedule.peak * schedule.shape(epoch) == pytest.approx(2e-4 + 6e-4 * epoch / 15)
    for epoch in (15, 200, 599):
        left = (1 + cos(pi * (epoch - 15) / 585)) / 2
        assert schedule.peak * schedule.shape(epoch) == pytest.approx(1e-4 + 7e-4 * left)


@pytest.mark.parametrize("pretrained", [False, True])
def test_positions_are_never_learned(pretrained):
    encoder = build_encoder(BARE, image_size=32, patch_size=4, seed=0)
    encoder.pretrained = pretrained
    FlexPredict(encoder).loss(batch(), Step.at())["features"].backward()
    assert encoder.model.pos_embed.grad is None and encoder.model.norm.weight.grad.any()


def test_a_norm_behind_the_pooling_is_refused():
    with pytest.raises(UsageError, match=r"last norm .* add fc_norm=false"):
        FlexPredict(build_encoder(BARE.replace(",fc_norm=false", ""), image_size=32, patch_size=4))
