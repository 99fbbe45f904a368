"""JigClu's pieces, montages and losses, against loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from pretask.encoders import build_encoder
from pretask.errors import UsageError
from pretask.methods.image.jigclu import JigClu, Puzzle, cells
from pretask.task import Step

PLAIN = "resnet18:layers=[1,1,1,1],channels=[8,8,8,16]"


def make(**options):
    torch.manual_seed(0)
    return JigClu(build_encoder(PLAIN, image_size=32, seed=0), **options)


def batch(count: int = 4):
    return {"image": torch.rand(count, 3, 40, 40, generator=torch.Generator().manual_seed(5))}


def where() -> torch.Tensor:
    """A picture whose red is the place from the left and whose green is that from the top."""
    line = (torch.arange(120) + 0.5) / 120
    return torch.stack([line.expand(120, 120), line[:, None].expand(120, 120), torch.full((120, 120), 0.5)])


def test_pieces_reach_over_the_middle_and_are_numbered_down_first():
    task = make(piece_scale=(1.0, 1.0))
    task.view = task.view.__class__(task.piece, (1.0, 1.0), ratio=(1.0, 1.0))  # whole pieces as they are
    pieces = task.pieces({"image": where()[None]}, Step.at())
    for number, (left, top) in enumerate(((0.0, 0.0), (0.0, 0.2), (0.2, 0.0), (0.2, 0.2))):
        red, green = pieces[number, 0].mean(), pieces[number, 1].mean()
        assert red.item() == pytest.approx(left + 0.4, abs=0.01)  # the middle of 80 % of the side
        assert green.item() == pytest.approx(top + 0.4, abs=0.01)


def test_crops_stay_in_their_pieces():
    task = make()
    task.view = task.view.__class__(task.piece, (0.2, 0.5))
    pieces = task.pieces({"image": where()[None].expand(50, -1, -1, -1)}, Step.at()).unflatten(0, (4, 50))
    assert pieces[0, :, :2].max() <= 0.81 and pieces[3, :, :2].min() >= 0.19
    assert pieces[1, :, 0].max() <= 0.81 and pieces[1, :, 1].min() >= 0.19


def test_montages_hold_what_their_slots_say():
    task = make()
    puzzle, pieces = task.puzzle(batch(), Step.at(2)), task.pieces(batch(), Step.at(2))
    side = task.piece
    assert puzzle.montage.shape == (4, 3, 2 * side, 2 * side)
    corners = ((0, 0), (0, side), (side, 0), (side, side))  # top left, top right, bottom left, bottom right
    for slot in range(16):
        quarter, montage = divmod(slot, 4)
        y, x = corners[quarter]
        shown = puzzle.montage[montage, :, y : y + side, x : x + side]
        piece = int(puzzle.place[slot]) * 4 + int(puzzle.picture[slot])
        assert torch.equal(shown, pieces[piece])
    assert torch.bincount(puzzle.picture).tolist() == [4] * 4
    assert torch.bincount(puzzle.place).tolist() == [4] * 4


def test_features_are_pooled_slot_by_slot():
    task = make()
    puzzle = task.puzzle(batch(), Step.at())
    found = task.encoder(puzzle.montage)
    rows, columns = found.grid
    maps = found.tokens.view(4, rows, columns, -1)
    seen = task.features(puzzle.montage)
    for slot in range(16):
        quarter, montage = divmod(slot, 4)
        r, c = quarter // 2 * rows // 2, quarter % 2 * columns // 2
        expected = maps[montage, r : r + rows // 2, c : c + columns // 2].mean((0, 1))
        assert torch.allclose(seen[slot], expected, atol=1e-5)


def test_the_losses_are_the_official_ones():
    task = make()
    losses = task.loss(batch(), Step.at(3))
    puzzle = task.puzzle(batch(), Step.at(3))
    seen = task.features(puzzle.montage)
    z = F.normalize(task.projector(seen).double(), dim=1).detach()
    total = 0.0
    for i in range(16):
        below = sum(math.exp(float(z[i] @ z[a]) / 0.3) for a in range(16) if a != i)
        positives = [j for j in range(16) if j != i and puzzle.picture[j] == puzzle.picture[i]]
        total -= 0.3 / 0.07 * sum(float(z[i] @ z[j]) / 0.3 - math.log(below) for j in positives) / 3
    assert losses["cluster"].item() == pytest.approx(total / 16, rel=1e-4)
    assert losses["location"].item() == pytest.approx(F.cross_entropy(task.locate(seen), puzzle.place).item())


def test_each_slot_has_a_cell_of_its_own():
    deep = build_encoder("resnet10t:stem_width=8,channels=[8,8,8,16]", image_size=32)
    assert cells(deep) == (1, 1) and cells(make().encoder) == (4, 4)
    assert JigClu(deep).piece == 32 and make().piece == 16
    assert isinstance(make().puzzle(batch(), Step.at()), Puzzle)


def test_pieces_cannot_reach_further_than_the_picture():
    with pytest.raises(UsageError, match="overlap"):
        make(overlap=0.6)
