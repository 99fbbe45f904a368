"""Hiera: nothing leaks from units that were left out, and everything lies where it belongs."""

import pytest
import torch

from pretask.encoders import build_encoder
from pretask.encoders.hiera import scattered, unit_places, unrolled
from pretask.errors import UsageError
from pretask.methods.image.hiera import Hiera
from pretask.task import Step
from pretask.training.optimisers import groups
from pretask.training.plan import Schedule

TINY = "hiera_tiny_224:embed_dim=16,stages=[1,1,1],q_pool=1"


def make(name: str = TINY, size: int = 32, **options):
    torch.manual_seed(0)
    return Hiera(build_encoder(name, image_size=size, seed=0), **options)


def batch(count: int = 3):
    return {"image": torch.rand(count, 3, 40, 40, generator=torch.Generator().manual_seed(5))}


def test_small_pictures_have_small_units():
    encoder = make().encoder
    assert encoder.units == (4, 4) and encoder.side(0) == (4, 4)
    assert encoder.token == 4 and encoder.grid == (8, 8)
    features = encoder(torch.rand(2, 3, 32, 32))
    assert features.tokens.shape == (2, 64, encoder.dim) and features.pooled.shape == (2, encoder.dim)


def test_what_is_left_out_does_not_leak():
    task = make().eval()
    puzzle = task.puzzle(batch(), Step.at())
    assert puzzle.hidden.sum(1).tolist() == [10] * 3  # 16 units, int(16 x 0.4) kept
    encoded = task.encode(puzzle)
    cover = puzzle.hidden.view(3, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    noise = torch.rand(puzzle.pixels.shape, generator=torch.Generator().manual_seed(1))
    changed = torch.where(cover, noise, puzzle.pixels)
    assert torch.equal(task.encode(puzzle._replace(pixels=changed)), encoded)
    seen = torch.where(cover, puzzle.pixels, noise)
    assert not torch.allclose(task.encode(puzzle._replace(pixels=seen)), encoded, atol=1e-3)


def test_kept_units_are_those_that_were_meant():
    """A change of one kept unit's pixels changes its own tokens of the first stage, in its own place."""
    task = make().eval()
    puzzle = task.puzzle(batch(1), Step.at())
    kept = (~puzzle.hidden[0]).nonzero().flatten().tolist()
    before = task.encoder.stages(puzzle.pixels, ~puzzle.hidden)[0].detach()
    for place, unit in enumerate(kept):
        row, column = unit // 4 * 8, unit % 4 * 8
        image = puzzle.pixels.clone()
        image[:, :, row + 2 : row + 6, column + 2 : column + 6] += 0.5  # away from the border: windows only
        after = task.encoder.stages(image, ~puzzle.hidden)[0].detach()
        moved = (after - before).abs().amax((0, 2, 3, 4))
        assert moved[place] > 1e-3 and moved.sum().item() == pytest.approx(moved[place].item(), rel=1e-3)


def test_with_all_units_the_stages_are_the_pictures():
    encoder = make().encoder.eval()
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    whole = encoder.stages(image)
    units = encoder.stages(image, torch.ones(2, 16, dtype=torch.bool))
    for full, part in zip(whole, units, strict=True):
        assert torch.allclose(unrolled(part, (4, 4)), full.flatten(1, 2), atol=1e-5)


def test_units_are_scattered_and_laid_row_by_row():
    units = torch.arange(2 * 4 * 2 * 2).view(1, 8, 2, 2, 1).float()  # 2 x 4 units of 2 x 2
    laid = unrolled(units, (2, 4)).view(4, 8)
    for unit in range(8):
        r, c = unit // 4 * 2, unit % 4 * 2
        assert torch.equal(laid[r : r + 2, c : c + 2], units[0, unit, :, :, 0])
    assert unit_places((2, 4), (2, 2)).view(4, 8)[3].tolist() == [4, 4, 5, 5, 6, 6, 7, 7]
    where = torch.tensor([[False, True, False, True]])
    kept = torch.tensor([[1.0, 2.0]]).view(1, 2, 1, 1, 1)
    assert scattered(kept, where, torch.tensor([9.0])).flatten().tolist() == [9, 1, 9, 2]


def test_the_loss_is_over_all_pixels_of_all_hidden_units():
    task = make()
    loss = task.loss(batch(), Step.at(seed=3))["reconstruction"]
    puzzle = task.puzzle(batch(), Step.at(seed=3))
    rebuilt, errors = task.rebuild(puzzle), []
    image = task.encoder.normalise(puzzle.pixels)
    for n in range(3):
        for place in range(64):
            row, column = place // 8 * 4, place % 8 * 4
            if puzzle.hidden[n, row // 8 * 4 + column // 8]:
                pixels = image[n, :, row : row + 4, column : column + 4].flatten()  # channel, row, column
                target = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
                errors.append((rebuilt[n, place] - target).square().mean())
    assert len(errors) == 3 * 10 * 4
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


def test_fusion_brings_early_stages_to_the_last_ones_units():
    big = make("hiera_tiny_224:embed_dim=16,q_pool=2,stages=[1,1,1,1]", 128)
    assert [layer.kernel_size for layer in big.fusion] == [(4, 4), (2, 2)]
    assert big.encoder.units == (4, 4) and big.encoder.token == 16 and big.side == (2, 2)
    assert big.loss(batch(2), Step.at())["reconstruction"].isfinite()


def test_all_matrices_decay_but_the_encoders_positions():
    task = make()
    parts = groups(task.named_parameters(), Schedule(task.recipe, 1.0, 0, 100), task.encoder)
    sizes = dict(task.named_parameters())
    kept = {name for part in parts if not part["decays"] for name in part["names"]}
    assert {name for name in kept if sizes[name].ndim > 1} == {"encoder.model.pos_embed"}
    assert "mask_token" not in kept, "it decays, as officially"


def test_its_weights_are_timms():
    from timm import create_model

    encoder = build_encoder("hiera_tiny_224:q_pool=2", image_size=224, seed=0)
    full = create_model("hiera_tiny_224", num_classes=0)
    assert not any(full.load_state_dict(encoder.model.state_dict()))


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="multiple"):
        build_encoder(TINY, image_size=36)
    with pytest.raises(UsageError, match="wrong ones"):
        build_encoder("hiera_tiny_224:stages=[1,1,1,1],q_pool=1", image_size=32)
    with pytest.raises(UsageError, match="some must be"):
        make(mask_ratio=0.99)
    with pytest.raises(UsageError, match="hiera_tiny"):
        Hiera(build_encoder("resnet10t", image_size=32))
