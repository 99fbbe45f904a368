"""GMML's groups, fills and loss against loops."""

import math
from dataclasses import replace
from itertools import chain, islice

import pytest
import torch

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.gmml import GMML
from pretask.pretexts.groups import ROUND, draw_groups, group_mask, reach
from pretask.task import Step
from pretask.training.plan import make_plan

VIT = "vit_tiny_patch16_224:depth=4,embed_dim=32,num_heads=2"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(**options):
    torch.manual_seed(0)
    return GMML(build_encoder(VIT, image_size=32, patch_size=4, seed=0), **options)


def batch(count: int = 4):
    return {"image": torch.rand(count, 3, 40, 40, generator=generator(5))}


def naive_mask(units, side, share, align, largest):
    """The official loop, without end but for the share, its random integers taken from numbers in [0, 1)."""
    mask = torch.zeros(side, side, dtype=torch.bool)
    while mask.sum() < share * side * side:
        u = next(units).tolist()
        r, c = (int(int(x * (side - align)) / align) * align for x in u[:2])
        most = int(largest * side)
        h, w = (
            round(min(align + int(x * (most - align)), side - start) / align) * align
            for x, start in zip(u[2:], (r, c), strict=True)
        )
        mask[r : r + h, c : c + w] = True
    return mask


@pytest.mark.parametrize("align", [1, 4])
def test_groups_are_those_of_the_official_loop(align):
    share = torch.linspace(0.3, 0.75, 6)
    found = group_mask(draw_groups(6, generator()), (40, 40), share, align, 0.3)
    for i in range(6):
        units = chain.from_iterable(unit[i] for unit in draw_groups(6, generator()))
        assert torch.equal(found[i], naive_mask(units, 40, float(share[i]), align, 0.3))
    if align == 4:
        cells = found.view(6, 10, 4, 10, 4)
        assert torch.equal(cells.all(4).all(2), cells.any(4).any(2)), "whole patches"


def test_at_least_the_share_is_covered_and_not_much_more():
    covered = (
        group_mask(draw_groups(200, generator()), (32, 32), torch.full((200,), 0.75)).float().mean((1, 2))
    )
    assert covered.min() >= 0.75 and covered.max() < 0.75 + 0.3**2


def test_small_groups_cover_the_share_too_however_many_it_takes():
    """Groups of at most a tenth of the side: several rounds of blocks, none of them lost."""
    share = torch.tensor([0.75, 0.5])
    found = group_mask(draw_groups(2, generator()), (100, 100), share, largest=0.1)
    used = []
    for i in range(2):
        units = list(chain.from_iterable(unit[i] for unit in islice(draw_groups(2, generator()), 8)))
        left = iter(units)
        assert torch.equal(found[i], naive_mask(left, 100, float(share[i]), 1, 0.1))
        used.append(len(units) - len(list(left)))
    assert used[0] > 2 * ROUND
    assert found.float().mean((1, 2)).sub(share).amin() >= 0


@pytest.mark.parametrize(
    ("side", "align", "largest"), [(28, 4, 0.1), (28, 4, 0.3), (20, 1, 0.1), (30, 4, 0.3)]
)
def test_where_blocks_cannot_cover_the_share_they_cover_all_they_can(side, align, largest):
    most, possible = max(int(largest * side), align + 1), set()
    for start in {number // align * align for number in range(side - align)}:
        for length in range(align, most):
            long = round(min(length, side - start) / align) * align
            possible |= set(range(start, min(start + long, side)))
    assert reach(side, align, largest) == len(possible) and possible == set(range(len(possible)))
    mask = group_mask(draw_groups(2, generator()), (side, side), torch.ones(2), align, largest)
    assert mask[:, : len(possible), : len(possible)].all() and int(mask[0].sum()) == len(possible) ** 2


def test_later_rounds_do_not_depend_on_who_needs_them():
    """One process that takes three rounds leaves the generator where another leaves it that takes one."""
    one, other = generator(), generator()
    first, second = draw_groups(3, one), draw_groups(3, other)
    rounds = [next(first) for _ in range(3)]
    assert torch.equal(next(second), rounds[0]) and not torch.equal(rounds[1], rounds[0])
    assert torch.equal(torch.rand(4, generator=one), torch.rand(4, generator=other))
    assert 0.45 < torch.cat(rounds).mean() < 0.55


def test_a_crop_has_noise_or_another_picture_and_is_itself_elsewhere():
    task = make()
    puzzle = task.puzzle(batch(40), Step.at())
    assert puzzle.clean.shape == (80, 3, 32, 32)
    kept = ~puzzle.replaced[:, None].expand_as(puzzle.clean)
    assert torch.equal(puzzle.shown[kept], puzzle.clean[kept])
    share = puzzle.replaced.float().mean((1, 2))
    aliens = share < 0.45  # 0.3 and what a last block adds
    assert 0.3 < aliens.float().mean() < 0.7
    assert share[aliens].min() >= 0.3 and share[~aliens].min() >= 0.5
    for crop in aliens.nonzero().flatten().tolist():
        first = crop // 40 * 40  # partners are crops of the same number
        there = puzzle.replaced[crop][None].expand(3, -1, -1)
        others = puzzle.clean[first : first + 40]
        same = [torch.equal(puzzle.shown[crop][there], other[there]) for other in others]
        assert sum(same) == 1
    noise = puzzle.shown[~aliens].permute(0, 2, 3, 1)[puzzle.replaced[~aliens]]
    assert noise.mean().abs() < 0.02 and (noise.std() - 1).abs() < 0.02


@pytest.mark.parametrize("fill", ["zeros", "copy"])
def test_other_fills(fill):
    task = make(fills=(fill,), aliens=False)
    puzzle = task.puzzle(batch(), Step.at())
    for crop in range(8):
        pixels = puzzle.shown[crop].permute(1, 2, 0)[puzzle.replaced[crop]]
        if fill == "zeros":
            assert not pixels.any()
        else:
            own = {tuple(p) for p in puzzle.clean[crop].permute(1, 2, 0).flatten(0, 1).tolist()}
            assert {tuple(p) for p in pixels.tolist()} <= own


def test_what_is_rebuilt_comes_from_the_mean_of_blocks_before_the_norm():
    task = make(blocks=(2, 4)).double().eval()
    shown = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=generator())
    model = task.encoder.model
    x = model._pos_embed(model.patch_embed(shown))
    outputs = []
    for block in model.blocks:
        x = block(x)
        outputs.append(x)
    tokens = model.norm((outputs[1] + outputs[3]) / 2)[:, 1:]
    patch = task.head(tokens)
    weight, bias = task.paint.weight, task.paint.bias  # (dim, chans, 4, 4)
    expected = torch.zeros(2, 3, 32, 32, dtype=torch.float64)
    for place in range(64):
        r, c = place // 8 * 4, place % 8 * 4
        expected[:, :, r : r + 4, c : c + 4] = (
            torch.einsum("bd,dcxy->bcxy", patch[:, place], weight) + bias[:, None, None]
        )
    assert torch.allclose(task.rebuild(shown, Step.at()), expected, atol=1e-10)


def test_the_default_blocks_are_the_papers():
    twelve = GMML(build_encoder(VIT.replace("depth=4", "depth=12"), image_size=32, patch_size=4))
    assert [number + 1 for number in twelve.blocks] == [6, 8, 10, 12]
    assert [number + 1 for number in make().blocks] == [2, 3, 4]


@pytest.mark.parametrize("everywhere", [False, True])
def test_the_loss_is_the_mean_distance_over_what_was_replaced(everywhere):
    task = make(everywhere=everywhere, drop_path=0.0)
    loss = task.loss(batch(), Step.at(seed=3))["pixels"]
    puzzle = task.puzzle(batch(), Step.at(seed=3))
    rebuilt = task.rebuild(puzzle.shown, Step.at())
    errors = []
    for crop in range(8):
        for y in range(32):
            for x in range(32):
                if everywhere or puzzle.replaced[crop, y, x]:
                    errors.append((rebuilt[crop, :, y, x] - puzzle.clean[crop, :, y, x]).abs())
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


def test_views_are_light():
    spec = make().view
    assert replace(spec, size=224).jitter == 0.3 and spec.brightness == 0.1 and spec.hue == 0.01
    assert spec.blur == 0.1 and spec.grey == 0 and spec.scale == (0.05, 1.0)
    assert spec.blur_sigma == (0.1, 2.0) and spec.blur_radius == 6, "three deviations, of small pictures too"


def test_without_a_share_for_them_there_are_no_other_pictures():
    puzzle = make(alien_share=0.0).puzzle(batch(10), Step.at())
    assert puzzle.replaced.float().mean((1, 2)).min() >= 0.5, "all crops have noise"
    noise = puzzle.shown.permute(0, 2, 3, 1)[puzzle.replaced]
    assert noise.mean().abs() < 0.02 and (noise.std() - 1).abs() < 0.02


def test_the_class_token_starts_as_in_the_official_code_unless_it_was_trained():
    wide = "vit_tiny_patch16_224:depth=1,embed_dim=512,num_heads=2"
    fresh, trained = (build_encoder(wide, image_size=32, patch_size=8, seed=0) for _ in range(2))
    trained.pretrained = True
    assert GMML(fresh).encoder.model.cls_token.std().item() == pytest.approx(0.02, rel=0.15)
    assert GMML(trained).encoder.model.cls_token.std() < 1e-4


def test_the_rate_is_the_official_one_at_each_epoch():
    """800 epochs of 10 steps: linear to 5e-4 in 10 of them, then a cosine that ends on 1e-6."""
    schedule = make_plan(GMML.recipe, 2560, batch_size=256, epochs=800).schedule(GMML.recipe)
    for index in (0, 20, 99, 100, 5000, 7999):
        cosine = 1e-6 + (5e-4 - 1e-6) * (1 + math.cos(math.pi * (index - 100) / 7900)) / 2
        expected = 5e-4 * index / 99 if index < 100 else cosine
        assert schedule.peak * schedule.shape(index) == pytest.approx(expected, rel=1e-6)


def test_each_parameters_gradient_is_clipped_at_three():
    task = make()
    for p in task.parameters():
        p.grad = torch.full_like(p, 10.0)
    task.encoder.model.norm.bias.grad = torch.full((32,), 0.1)
    task.after_backward(Step.at())
    assert task.paint.weight.grad.norm().item() == pytest.approx(3.0, rel=1e-4)
    assert task.head[0].bias.grad.norm().item() == pytest.approx(3.0, rel=1e-4)
    assert torch.equal(task.encoder.model.norm.bias.grad, torch.full((32,), 0.1))
    assert task.recipe.clip is None


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="among 1 to 4"):
        make(blocks=(6,))
    with pytest.raises(UsageError, match="fills"):
        make(fills=())
    with pytest.raises(UsageError, match="fc_norm=false"):
        GMML(build_encoder(VIT + ",global_pool=avg", image_size=32, patch_size=4))
