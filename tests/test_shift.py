"""Small moves against torchvision's, and what is planted stands where it should."""

import pytest
import torch
from torchvision.transforms import functional as tv

from pretask.pretexts.planted import arrow, mark_box, plant_aberration, plant_arrow, plant_gradient
from pretask.pretexts.shift import Shift, apply_shift, draw_shift


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_shift_is_torchvisions_padded_crop_and_flip():
    image, border = pictures(6, 3, 9, 12), 4
    shift = draw_shift(6, border, torch.Generator().manual_seed(0))
    assert shift.flip.any() and not shift.flip.all()
    moved = apply_shift(image, shift, border)
    rows = zip(image, shift.offset.tolist(), shift.flip, moved, strict=True)
    for x, (down, right), flip, out in rows:
        expected = tv.crop(tv.pad(x, [border]), down, right, 9, 12)
        assert torch.equal(out, tv.hflip(expected) if flip else expected)


def test_no_move_is_no_change_and_all_moves_occur():
    image = pictures(2, 1, 5, 5)
    still = Shift(torch.full((2, 2), 3), torch.zeros(2, dtype=torch.bool))
    assert torch.equal(apply_shift(image, still, 3), image)
    offset = draw_shift(4000, 1, torch.Generator().manual_seed(1)).offset
    counts = torch.bincount(3 * offset[:, 0] + offset[:, 1], minlength=9)
    assert len(counts) == 9 and counts.min() > 4000 / 9 - 5 * (4000 * 8 / 81) ** 0.5


def test_an_arrow_points_up():
    assert arrow(4).int().tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    for side in range(3, 9):
        widths = arrow(side).sum(1)
        assert (widths.diff() >= 0).all() and widths[0] < widths[-1] == side, side
        assert torch.equal(arrow(side), arrow(side).flip(1)), "it points neither left nor right"
        assert not torch.equal(arrow(side), arrow(side).flip(0))


def test_a_mark_changes_its_box_and_nothing_else():
    image = pictures(3, 2, 16, 20) * 0.9
    marked, box = plant_arrow(image, side=4, margin=2), mark_box(16, 20, side=4, margin=2)
    assert torch.equal(marked[:, :, ~box], image[:, :, ~box])
    assert box.sum() == 16 and box[2:6, 2:6].all()
    assert torch.equal((marked != image).all(1)[0], box & (marked == 1).all(1)[0])
    assert ((marked == 1).all(1).flatten(1).sum(1) == arrow(4).sum()).all()


def test_a_gradient_is_linear_from_top_to_bottom():
    image = torch.full((1, 1, 5, 3), 0.5)
    planted = plant_gradient(image, 0.2)[0, 0]
    torch.testing.assert_close(planted[:, 0], torch.tensor([0.7, 0.6, 0.5, 0.4, 0.3]))
    assert torch.equal(planted[:, 0], planted[:, 2])
    assert plant_gradient(torch.ones(1, 1, 4, 4)).max() == 1


@pytest.mark.parametrize("pixels", [1, 2])
def test_an_aberration_moves_the_outer_channels_apart(pixels):
    image = pictures(2, 3, 8, 6)
    planted = plant_aberration(image, pixels)
    assert torch.equal(planted[:, 1], image[:, 1])
    for row in range(8):
        assert torch.equal(planted[:, 0, row], image[:, 0, min(row + pixels, 7)])
        assert torch.equal(planted[:, 2, row], image[:, 2, max(row - pixels, 0)])
    assert torch.equal(plant_aberration(image[:, :1]), image[:, :1])
