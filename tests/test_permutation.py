"""Shuffling and its inverse, patch grids, and PIL's enhancements."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from pretask.errors import UsageError
from pretask.pretexts import draw
from pretask.pretexts.enhance import Enhancement, draw_enhancement, enhance
from pretask.pretexts.patches import cut, draw_jitter, patch_boxes, patch_corners
from pretask.pretexts.permutation import far_apart, from_tiles, invert, shuffle, tiles, unshuffle
from pretask.pretexts.rotation import rotate, rotate_each
from pretask.pretexts.views import ViewSpec, apply_view, draw_view


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_3_cycle_tells_a_permutation_from_its_inverse():
    items, order = torch.tensor([[10, 20, 30]]), torch.tensor([[1, 2, 0]])
    assert shuffle(items, order).tolist() == [[20, 30, 10]]
    assert invert(order).tolist() == [[2, 0, 1]]
    assert unshuffle(shuffle(items, order), order).tolist() == items.tolist()
    assert shuffle(shuffle(items, order), order).tolist() != items.tolist()  # a swap would not notice


def test_every_sample_is_shuffled_by_its_own_order_and_put_back():
    items, order = torch.rand(5, 7, 2, 3), draw.permutations(5, 7, generator())
    shuffled = shuffle(items, order)
    for b, i in itertools.product(range(5), range(7)):
        assert torch.equal(shuffled[b, i], items[b, order[b, i]])
        assert invert(order)[b, order[b, i]] == i
    assert torch.equal(unshuffle(shuffled, order), items)


def test_drawn_permutations_are_uniform():
    orders = draw.permutations(24000, 4, generator())
    _, counts = orders.unique(dim=0, return_counts=True)
    assert len(counts) == 24 and (counts - 1000).abs().max() < 150


def test_tiles_are_cut_row_by_row_and_put_together_again():
    image = torch.rand(2, 3, 6, 8)
    parts = tiles(image, 3, 4)
    assert parts.shape == (2, 12, 3, 2, 2)
    assert torch.equal(parts[:, 5], image[:, :, 2:4, 2:4])
    assert torch.equal(from_tiles(parts, 3, 4), image)
    with pytest.raises(UsageError, match="equal tiles"):
        tiles(image, 4, 4)


def test_permutations_far_apart_are_chosen_greedily():
    chosen = far_apart(5, 12, seed=3)
    every = torch.tensor(list(itertools.permutations(range(5))))
    picked = [tuple(chosen[0].tolist())]
    for row in chosen[1:]:
        total = {
            tuple(p.tolist()): sum(sum(a != b for a, b in zip(p.tolist(), q, strict=True)) for q in picked)
            for p in every
        }
        best = max(value for key, value in total.items() if key not in picked)
        assert total[tuple(row.tolist())] == best and tuple(row.tolist()) not in picked
        picked.append(tuple(row.tolist()))
    assert all(sorted(row) == list(range(5)) for row in chosen.tolist())


def test_a_set_of_nine_tiles_is_farther_apart_than_chance():
    chosen = far_apart(9, 20)
    distance = (chosen[:, None] != chosen).sum(2)[~torch.eye(20, dtype=torch.bool)]
    assert distance.float().mean() > 8.2  # two random permutations agree in one place on average: 8
    assert len(far_apart(3, 6).unique(dim=0)) == 6
    with pytest.raises(UsageError, match="at most 9"):
        far_apart(10, 2)
    with pytest.raises(UsageError, match="6 permutations"):
        far_apart(3, 7)


def test_patches_lie_where_the_official_loop_puts_them():
    image, jitter = torch.rand(2, 3, 255, 255), draw_jitter(2, 3, 21, generator())
    patches = cut(image, patch_corners(jitter, 85), 64)
    assert patches.shape == (2, 9, 3, 64, 64)
    for b in range(2):
        k = 0
        for i in range(3):  # the outer index moves x
            for j in range(3):
                cell = image[b, :, j * 85 : (j + 1) * 85, i * 85 : (i + 1) * 85]
                top, left = int(jitter[b, 1, i, j]), int(jitter[b, 0, i, j])
                assert torch.equal(patches[b, k], cell[:, top : top + 64, left : left + 64])
                k += 1


def test_patches_in_reading_order():
    image, jitter = torch.rand(1, 1, 33, 33), draw_jitter(1, 3, 3, generator())
    patches = cut(image, patch_corners(jitter, 11, "rows"), 8)
    left, top = 22 + int(jitter[0, 0, 1, 2]), 11 + int(jitter[0, 1, 1, 2])
    assert torch.equal(patches[0, 5], image[0, :, top : top + 8, left : left + 8])


def test_jitter_takes_all_places_but_the_last():
    assert draw_jitter(3000, 3, 21, generator()).unique().tolist() == list(range(21))
    assert not draw_jitter(5, 3, 0, generator()).any()


def test_patch_boxes_point_to_their_pixels():
    ramp = torch.linspace(0, 1, 301)[:-1] + 1 / 600  # each pixel holds its own place
    image = torch.stack([ramp.expand(300, 300), ramp[:, None].expand(300, 300)])[None].repeat(3, 1, 1, 1)
    spec = ViewSpec(99, scale=(0.5, 1.0))
    view = draw_view(spec, 3, generator())
    corners = patch_corners(draw_jitter(3, 3, 8, generator(1)), 33)
    patches = cut(apply_view(spec, image, view), corners, 25)
    boxes = patch_boxes(corners, 25, 99, view.box)
    centre = patches[:, :, :, 12, 12]
    torch.testing.assert_close(centre, (boxes[..., :2] + boxes[..., 2:]) / 2, atol=0.01, rtol=0)


def test_each_picture_is_turned_by_its_own_angle():
    image, turns = torch.rand(4, 3, 5, 5), torch.tensor([2, 0, 3, 1])
    expected = torch.stack([rotate(x, int(k)) for x, k in zip(image, turns, strict=True)])
    assert torch.equal(rotate_each(image, turns), expected)


@pytest.mark.parametrize("seed", range(4))
def test_enhancements_are_pils_to_a_level(seed):
    size, batch = 24, 40
    levels = torch.randint(0, 256, (batch, 3, size, size), generator=generator(seed), dtype=torch.uint8)
    levels[::3] //= 3  # some of low contrast
    levels[0] = 77  # and one of none
    drawn = draw_enhancement(batch, 0.66, generator(seed + 10))
    ours = (enhance(levels.float() / 255, drawn) * 255).round().byte()
    off = torch.empty(batch, 3, size, size)
    for b in range(batch):
        picture = Image.fromarray(levels[b].permute(1, 2, 0).numpy())
        if drawn.chosen[b]:
            picture = ImageOps.posterize(picture, 8 - int(math.log2(drawn.step[b])))
            picture = ImageEnhance.Sharpness(picture).enhance(float(drawn.sharpness[b]))
            picture = ImageOps.solarize(picture, int(drawn.threshold[b]))
            picture = ImageOps.autocontrast(picture)
        theirs = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        off[b] = (theirs.float() - ours[b].float()).abs()
    # PIL truncates in double precision: where a value is a whole level, ours may truncate to the one below
    assert (off > 0).float().mean() < 0.02 and (off > 1).float().mean() < 1e-4


def test_enhancements_cover_their_ranges():
    drawn = draw_enhancement(20000, 0.66, generator())
    assert abs(drawn.chosen.float().mean() - 0.66) < 0.02
    assert drawn.step.unique().tolist() == [1, 2, 4, 8, 16]
    assert drawn.threshold.min() == 0 and drawn.threshold.max() == 256
    assert 0.1 <= drawn.sharpness.min() < 0.11 and 1.89 < drawn.sharpness.max() < 1.9


def test_pictures_that_are_not_chosen_stay():
    image = torch.rand(3, 3, 8, 8)
    nothing = Enhancement(torch.zeros(3, dtype=torch.bool), *torch.ones(3, 3))
    assert torch.equal(enhance(image.clone(), nothing), image)
