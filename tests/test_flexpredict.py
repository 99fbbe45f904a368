"""FlexPredict and I-JEPA's blocks against loops."""

from math import sqrt

import pytest
import torch
import torch.nn.functional as F

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.flexpredict import FlexPredict
from pretask.pretexts import draw
from pretask.pretexts.blocks import block_size, draw_blocks, rectangles
from pretask.task import Step

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


def test_where_targets_leave_no_context_it_may_overlap_them():
    blocks = draw_blocks((4, 4), 40, generator(), scale=(0.5, 0.5), aspect=(1.0, 1.0), least=4)
    assert blocks.context.shape[1] >= 4, "all keep at least what was asked for, overlapping or not"
    pairs = zip(blocks.context.tolist(), blocks.targets.flatten(1).tolist(), strict=True)
    assert any(set(seen) & set(asked) for seen, asked in pairs)


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
