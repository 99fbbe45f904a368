"""Histograms of gradients against loops over pixels, and what is easy to get wrong about them."""

from math import atan2, floor, hypot, pi

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image

from pretask.pretexts.hog import by_cell, by_patch, cell_side, hog, strokes


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def naive(image: torch.Tensor, cell: int) -> torch.Tensor:
    """Pixel by pixel, in the official code's signs: left minus right, above minus below."""
    batch, chans, height, width = image.shape
    found = torch.zeros(batch, chans, 9, height // cell, width // cell, dtype=torch.float64)

    def mirrored(place: int, side: int) -> int:
        return -place if place < 0 else 2 * (side - 1) - place if place >= side else place

    for n in range(batch):
        for c in range(chans):
            for y in range(height // cell * cell):
                for x in range(width // cell * cell):
                    gx = gy = 0.0
                    for i, weight in ((-1, 1), (0, 2), (1, 1)):
                        row, column = mirrored(y + i, height), mirrored(x + i, width)
                        left, right = mirrored(x - 1, width), mirrored(x + 1, width)
                        above, below = mirrored(y - 1, height), mirrored(y + 1, height)
                        gx += weight * (image[n, c, row, left] - image[n, c, row, right]).item()
                        gy += weight * (image[n, c, above, column] - image[n, c, below, column]).item()
                    k = floor(atan2(gx, gy) / pi * 9) % 9
                    found[n, c, k, y // cell, x // cell] += hypot(gx, gy)
    return found / found.norm(dim=2, keepdim=True).clamp(min=1e-12)


@pytest.mark.parametrize(("height", "width", "cell"), [(16, 8, 8), (8, 12, 4), (11, 9, 5), (7, 6, 3)])
def test_votes_are_those_of_a_loop(height, width, cell):
    image = noise(2, 3, height, width)
    torch.testing.assert_close(hog(image, cell), naive(image, cell))
    single = hog(image.float(), cell)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), naive(image.float().double(), cell), atol=1e-4, rtol=1e-4)


def official(image: torch.Tensor) -> torch.Tensor:
    """Sobel's filters as a correlation, votes scattered modulo 9, with all bins at every pixel."""
    kernel = torch.tensor([[1, 0, -1], [2, 0, -2], [1, 0, -1]]).to(image).expand(3, 1, 3, 3)
    x = F.pad(image, (1, 1, 1, 1), mode="reflect")
    gx, gy = F.conv2d(x, kernel, groups=3), F.conv2d(x, kernel.transpose(2, 3), groups=3)
    bins = (torch.atan2(gx, gy) / pi * 9).floor().long() % 9
    votes = image.new_zeros(len(image), 3, 9, *image.shape[2:])
    votes.scatter_add_(2, bins.unsqueeze(2), torch.stack([gx, gy]).norm(dim=0).unsqueeze(2))
    return F.normalize(F.avg_pool2d(votes.flatten(1, 2), 8).unflatten(1, (3, 9)), dim=2)


def test_it_is_a_convolution_and_a_scatter():
    image = noise(2, 3, 16, 24)
    torch.testing.assert_close(hog(image), official(image))


def test_on_a_photograph_in_whole_numbers_it_is_so_too():
    """Where nothing is rounded, single precision agrees even on exactly level edges, a twentieth of all pixels."""
    photo = torch.from_numpy(load_sample_image("china.jpg")[100:164, 200:264].copy()).permute(2, 0, 1)[None]
    torch.testing.assert_close(hog(photo / 255), official(photo.float()), atol=1e-5, rtol=1e-5)


def test_of_an_edge_neither_sign_nor_strength_counts():
    ramp = torch.linspace(0, 1, 8, dtype=torch.float64).expand(1, 1, 8, 8)
    upright = hog(ramp)  # brighter to the right: the gradient is across, 90 degrees from the vertical
    assert upright[0, 0, :, 0, 0].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    for same in (1 - ramp, ramp.flip(3), 0.1 * ramp + 0.5):
        torch.testing.assert_close(hog(same), upright)
    for level in (ramp.transpose(2, 3), 1 - ramp.transpose(2, 3)):  # exactly on the border of bins 0 and 8
        assert hog(level)[0, 0, :, 0, 0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]


def test_histograms_have_length_one_or_are_nothing():
    image = noise(1, 2, 16, 16)
    image[:, :, 6:, 6:] = 0.3  # flat with its neighbours, in the last cell
    lengths = hog(image, 8).norm(dim=2)
    torch.testing.assert_close(lengths[..., 0, :], torch.ones_like(lengths[..., 0, :]))
    assert lengths[..., 1, 1].tolist() == [[0, 0]]
    assert (hog(image) >= 0).all()


def test_what_resampling_leaves_on_an_even_wall_is_no_edge():
    wall = (0.7 + 1e-7 * torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))).float()
    assert not hog(wall).any()
    level = wall.clone()
    level[:, :, 8:] -= 0.5  # one level edge: all votes in one bin, whatever the noise across
    assert ((hog(level)[:, :, 0] == 1) | (hog(level)[:, :, 0] == 0)).all() and not hog(level)[:, :, 1:].any()


def test_a_grey_level_of_one_byte_is_an_edge():
    step = torch.zeros(1, 1, 8, 8)
    step[..., 4:] = 1 / 255
    assert hog(step)[0, 0, 4, 0, 0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("patch", "cell"),
    [(16, 8), (32, 8), (8, 8), (14, 7), (12, 6), (4, 4), (2, 2), (1, 1), (5, 5), (13, 13), (10, 10)],
)
def test_cells_divide_patches(patch, cell):
    assert cell_side(patch) == cell


def test_a_patch_lists_channel_bin_row_column():
    cells = noise(2, 3, 9, 4, 6)
    patches = by_patch(cells, 2)
    assert patches.shape == (2, 6, 3 * 9 * 4)
    for place in range(6):
        y, x = divmod(place, 3)
        expected = [
            cells[1, c, k, 2 * y + i, 2 * x + j].item()
            for c in range(3)
            for k in range(9)
            for i in range(2)
            for j in range(2)
        ]
        assert patches[1, place].tolist() == expected
    assert torch.equal(by_cell(patches, 2, (2, 3)), cells)


def test_no_gradient_flows():
    image = torch.rand(1, 1, 8, 8, requires_grad=True)
    assert not hog(image).requires_grad


def test_strokes_run_along_the_edge():
    """Brighter to the right is an upright edge, brighter below a level one; nothing is black."""
    ramp = torch.linspace(0, 1, 8).expand(1, 1, 8, 8)
    upright, level = strokes(hog(ramp), 15)[0, 0], strokes(hog(ramp.transpose(2, 3)), 15)[0, 0]
    assert upright.shape == (15, 15)
    assert upright[2, 7] > 0.5 and upright[7, 2] == 0
    assert level[7, 4] > 0.4 and level[2, 7] == 0  # of a bin the middle is drawn: 10 degrees from level
    assert not strokes(torch.zeros(2, 3, 9, 2, 4)).any()
    drawn = strokes(3 * torch.randn(2, 3, 9, 2, 4, generator=torch.Generator().manual_seed(1)), 9)
    assert drawn.shape == (2, 1, 18, 36) and drawn.min() >= 0 and drawn.max() <= 1
