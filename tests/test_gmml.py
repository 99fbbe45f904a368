"""GMML's groups, fills and loss against loops."""

from dataclasses import replace

import pytest
import torch

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.gmml import GMML
from pretask.pretexts.groups import draw_groups, group_mask
from pretask.task import Step

VIT = "vit_tiny_patch16_224:depth=4,embed_dim=32,num_heads=2"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(**options):
    torch.manual_seed(0)
    return GMML(build_encoder(VIT, image_size=32, patch_size=4, seed=0), **options)


def batch(count: int = 4):
    return {"image": torch.rand(count, 3, 40, 40, generator=generator(5))}


def naive_mask(unit, side, share, align, largest):
    """The official loop, its random integers taken from `unit`."""
    mask = torch.zeros(side, side, dtype=torch.bool)
    for u in unit.tolist():
        if mask.sum() >= share * side * side:
            break
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
    unit, share = draw_groups(6, generator()), torch.linspace(0.3, 0.75, 6)
    found = group_mask(unit, (40, 40), share, align, 0.3)
    for i in range(6):
        assert torch.equal(found[i], naive_mask(unit[i], 40, float(share[i]), align, 0.3))
    if align == 4:
        cells = found.view(6, 10, 4, 10, 4)
        assert torch.equal(cells.all(4).all(2), cells.any(4).any(2)), "whole patches"


def test_at_least_the_share_is_covered_and_not_much_more():
    covered = (
        group_mask(draw_groups(200, generator()), (32, 32), torch.full((200,), 0.75)).float().mean((1, 2))
    )
    assert covered.min() >= 0.75 and covered.max() < 0.75 + 0.3**2


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


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="among 1 to 4"):
        make(blocks=(6,))
    with pytest.raises(UsageError, match="fills"):
        make(fills=())
