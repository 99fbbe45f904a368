"""JigClu's pieces, montages and losses, against loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pretask.encoders import build_encoder
from pretask.encoders.features import Features
from pretask.errors import UsageError
from pretask.methods.image.jigclu import JigClu, cells, piece_boxes
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


def bilinear(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Resized as if pixels' centres were half a pixel from the border, cell by cell in float64."""
    out = torch.zeros(len(maps), side, side, dtype=torch.float64)

    def between(place: int, old: int) -> tuple[int, int, float]:
        exact = max((place + 0.5) * old / side - 0.5, 0)
        first = min(int(exact), old - 1)
        return first, min(first + 1, old - 1), exact - first

    for y in range(side):
        for x in range(side):
            (a, b, down), (c, d, right) = between(y, maps.shape[1]), between(x, maps.shape[2])
            upper = (1 - right) * maps[:, a, c] + right * maps[:, a, d]
            lower = (1 - right) * maps[:, b, c] + right * maps[:, b, d]
            out[:, y, x] = (1 - down) * upper + down * lower
    return out


@pytest.mark.parametrize("side", [3, 4, 7, 8, 14])
def test_any_map_is_brought_to_8_by_8_and_pooled_slot_by_slot(side):
    task = make()
    maps = torch.randn(2, 5, side, side, generator=torch.Generator().manual_seed(side))
    tokens = maps.flatten(2).transpose(1, 2)
    task.encoder.forward = lambda montage: Features(tokens[:, 0], tokens, tokens[:, :0], (side, side))
    seen = task.features(torch.zeros(2, 3, 32, 32))
    for slot in range(8):
        quarter, montage = divmod(slot, 2)
        r, c = quarter // 2 * 4, quarter % 2 * 4
        expected = bilinear(maps[montage].double(), 8)[:, r : r + 4, c : c + 4].mean((1, 2))
        torch.testing.assert_close(seen[slot].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("overlap", [0.3, 0.25, 0.0, 0.5])
def test_boxes_are_those_that_pil_cuts(overlap):
    sizes = [(40, 40), (45, 60), (31, 15), (375, 500), (7, 9), (333, 235)]  # height, width
    boxes = piece_boxes(torch.tensor(sizes), overlap)
    for row, (height, width) in enumerate(sizes):
        left, top = round(width // 2 - overlap * width), round(height // 2 - overlap * height)
        right, bottom = round(width // 2 + overlap * width), round(height // 2 + overlap * height)
        assert boxes[:, row].tolist() == [
            [0, 0, right, bottom], [0, top, right, height], [left, 0, width, bottom], [left, top, width, height],
        ]  # fmt: skip
    cut = Image.new("L", (15, 31)).crop((0, 0, 15 // 2 + 0.3 * 15, 31 // 2 + 0.3 * 31))  # 11.5 and 24.3
    assert cut.size == tuple(piece_boxes(torch.tensor([[31, 15]]), 0.3)[0, 0, 2:].int().tolist()) == (12, 24)


def test_whole_pieces_of_true_sizes():
    """Of a picture of 45 x 60 pixels on a square canvas."""
    task = make()
    task.view = task.view.__class__(task.piece, None)
    pieces = task.pieces({"image": where()[None], "size": torch.tensor([[45, 60]])}, Step.at())
    boxes = [(0, 0, 48, 36), (0, 8, 48, 45), (12, 0, 60, 36), (12, 8, 60, 45)]  # 22 +- 13.5: 35.5, 8.5
    for piece, (x0, y0, x1, y1) in zip(pieces, boxes, strict=True):
        assert piece[0].mean().item() == pytest.approx((x0 + x1) / 2 / 60, abs=0.006)
        assert piece[1].mean().item() == pytest.approx((y0 + y1) / 2 / 45, abs=0.006)


def test_the_blur_is_as_wide_as_pils():
    task = JigClu(build_encoder(PLAIN, image_size=224, seed=0))
    assert (task.piece, task.view.blur, task.view.blur_kernel, task.view.blur_sigma) == (
        112,
        0.5,
        23,
        (0.1, 2.0),
    )
    assert make().view.blur == 0


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


def test_pieces_cannot_reach_further_than_the_picture():
    with pytest.raises(UsageError, match="overlap"):
        make(overlap=0.6)
