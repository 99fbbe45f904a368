"""Masks against loops written from the papers."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from pretask.pretexts.masks import (
    ATTEMPTS,
    BLOCKS,
    MASKS,
    block_mask,
    covered_first,
    random_mask,
    shuffle,
    take,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mae_masking(noise: np.ndarray, num_visible: int):
    """MAE's random masking, a sample and a patch at a time."""
    keep, restore, mask = [], [], []
    for row in noise:
        order = sorted(range(len(row)), key=lambda place: row[place])
        back = [order.index(place) for place in range(len(row))]
        flags = [0] * num_visible + [1] * (len(row) - num_visible)
        keep.append(order[:num_visible])
        restore.append(back)
        mask.append([flags[back[place]] for place in range(len(row))])
    return np.array(keep), np.array(restore), np.array(mask)


@pytest.mark.parametrize(("patches", "num_hidden"), [(64, 48), (49, 37), (9, 1), (16, 15)])
def test_random_mask_is_maes(patches, num_hidden):
    noise = torch.rand(5, patches, generator=generator())
    keep, restore, mask = mae_masking(noise.numpy(), patches - num_hidden)
    order = shuffle(noise, num_hidden)
    assert (order.visible.numpy() == keep).all()
    assert (order.restore.numpy() == restore).all()
    assert (random_mask(noise, num_hidden).numpy() == mask).all()
    assert random_mask(noise, num_hidden).dtype == torch.bool


def test_shuffle_is_undone_by_restore():
    values = torch.rand(4, 20, 3, generator=generator(1))
    order = shuffle(torch.rand(4, 20, generator=generator(2)), 13)
    parts = torch.cat([take(values, order.visible), take(values, order.hidden)], dim=1)
    assert torch.equal(take(parts, order.restore), values)


def test_a_mask_splits_into_its_visible_and_hidden_places_in_raster_order():
    mask = torch.tensor([[True, False, True, False, False], [False, False, True, True, False]])
    order = shuffle(mask, 2)
    assert order.visible.tolist() == [[1, 3, 4], [0, 1, 4]]
    assert order.hidden.tolist() == [[0, 2], [2, 3]]


@pytest.mark.parametrize("name", sorted(MASKS))
@pytest.mark.parametrize("grid", [(14, 14), (8, 8), (7, 7), (5, 9), (2, 2)])
@pytest.mark.parametrize("share", [0.3, 0.75, 0.9])
def test_every_mask_hides_exactly_what_it_is_told(name, grid, share):
    patches = grid[0] * grid[1]
    num_hidden = min(max(1, int(share * patches)), patches - 1)
    mask = MASKS[name](grid, num_hidden, 6, generator(3))
    assert mask.shape == (6, patches) and mask.dtype == torch.bool
    assert (mask.sum(1) == num_hidden).all()
    assert torch.equal(mask, MASKS[name](grid, num_hidden, 6, generator(3)))


@pytest.mark.parametrize("name", ["random", "block"])
def test_drawn_masks_differ_between_samples_and_hide_every_place(name):
    mask = MASKS[name]((6, 6), 18, 400, generator(4))
    assert len({tuple(row) for row in mask.tolist()}) > 350
    share = mask.float().mean(0)
    assert share.min() > 0.1 and share.max() < 0.9


def test_random_masks_hide_all_places_alike():
    counts = MASKS["random"]((4, 4), 4, 4000, generator(5)).sum(0)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_the_lattice_keeps_one_of_every_four():
    kept = ~MASKS["grid"]((14, 14), 147, 1, generator())[0].view(14, 14)
    cells = kept.view(7, 2, 7, 2).permute(0, 2, 1, 3).reshape(49, 4)
    assert (cells == cells[0]).all() and cells[0].sum() == 1
    half = ~MASKS["grid"]((8, 8), 32, 1, generator())[0].view(8, 8)
    row, column = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    assert torch.equal(half, (row + column) % 2 == 0)  # half of it: a chessboard


# ---- blocks


def ibot_blocks(unit: np.ndarray, grid: tuple[int, int], high: float, low: float | None = None) -> np.ndarray:
    """iBOT's loop (loader.py) in Python, fed the numbers of `unit` (blocks, attempts, 4)."""
    rows, columns = grid
    mask = np.zeros(grid, bool)
    low = (min(grid) // 3) ** 2 if low is None else low
    count = 0
    for block in unit:
        if not count < high:
            break
        most = high - count
        delta = 0
        for area, aspect, top, left in block:
            target = low + (most - low) * area
            ratio = math.exp(math.log(0.3) + (math.log(1 / 0.3) - math.log(0.3)) * aspect)
            h = int(round(math.sqrt(target * ratio)))
            w = int(round(math.sqrt(target / ratio)))
            if w < columns and h < rows:
                y, x = int(top * (rows - h + 1)), int(left * (columns - w + 1))
                new = h * w - mask[y : y + h, x : x + w].sum()
                if 0 < new <= most:
                    mask[y : y + h, x : x + w] = True
                    delta = new
                    break
        if delta == 0:
            break
        count += delta
    return mask


@pytest.mark.parametrize("grid", [(14, 14), (8, 8), (7, 10), (3, 3), (2, 5)])
def test_blocks_are_ibots_loop_draw_for_draw(grid):
    patches = grid[0] * grid[1]
    unit = torch.rand(40, BLOCKS, ATTEMPTS, 4, generator=generator(6), dtype=torch.float64)
    high = torch.rand(40, generator=generator(7), dtype=torch.float64) * 0.6 * patches
    high[:3] = 0
    ours = block_mask(unit, grid, high).view(-1, *grid).numpy()
    for row in range(40):
        assert (ours[row] == ibot_blocks(unit[row].numpy(), grid, float(high[row]))).all(), row
    assert (ours.sum((1, 2)) <= high.numpy()).all()
    assert not ours[:3].any()


def test_blocks_of_another_least_size_are_evas_loop_draw_for_draw():
    """EVA hides 105 of 16 x 16 patches in blocks of 16 and more, not of 25."""
    unit = torch.rand(60, BLOCKS, ATTEMPTS, 4, generator=generator(8), dtype=torch.float64)
    high = torch.full((60,), 105.0, dtype=torch.float64)
    ours = block_mask(unit, (16, 16), high, 16).view(-1, 16, 16).numpy()
    for row in range(60):
        assert (ours[row] == ibot_blocks(unit[row].numpy(), (16, 16), 105, 16)).all(), row
    assert (ours != block_mask(unit, (16, 16), high).view(-1, 16, 16).numpy()).any()


def test_blocks_are_blocks():
    """Hidden patches sit together: far fewer borders than in a random mask of the same count."""

    def borders(mask: torch.Tensor) -> float:
        mask = mask.view(-1, 14, 14)
        return float(
            (mask[:, 1:] != mask[:, :-1]).float().mean() + (mask[:, :, 1:] != mask[:, :, :-1]).float().mean()
        )

    blocks = MASKS["block"]((14, 14), 98, 50, generator(8))
    scattered = MASKS["random"]((14, 14), 98, 50, generator(8))
    assert borders(blocks) < 0.5 * borders(scattered)


def test_32_blocks_are_enough():
    """The cap never bites: one more block than any mask needed changes nothing."""
    unit = torch.rand(300, BLOCKS, ATTEMPTS, 4, generator=generator(9))
    high = torch.full((300,), 0.75 * 196)
    assert torch.equal(block_mask(unit, (14, 14), high), block_mask(unit[:, :24], (14, 14), high))
    reached = Counter((block_mask(unit, (14, 14), high).sum(1) >= 140).tolist())
    assert reached[True] > 290


def test_covered_places_come_first_in_their_order():
    hidden = MASKS["block"]((6, 6), 20, 9, generator(10))
    places = covered_first(hidden, 20)
    assert places.shape == (9, 20)
    for row, mask in zip(places.tolist(), hidden, strict=True):
        covered = mask.nonzero().flatten().tolist()
        assert row[: len(covered)] == covered and not mask[row[len(covered) :]].any()
        assert len(set(row)) == 20
