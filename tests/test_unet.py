"""A U-Net keeps sizes, sees far, and leaves each picture to itself."""

import pytest
import torch

from pretask.encoders.unet import UNet


@pytest.mark.parametrize("size", [(32, 32), (35, 53), (8, 5), (1, 1)])
@pytest.mark.parametrize("levels", [1, 3])
def test_any_size_comes_back(size, levels):
    net = UNet(2, 3, width=4, levels=levels)
    assert net(torch.rand(2, 2, *size)).shape == (2, 3, *size)


def test_pictures_do_not_depend_on_their_batch():
    net, image = UNet(3, 3, width=4), torch.rand(5, 3, 16, 16)
    together = net(image)
    for row in range(5):
        torch.testing.assert_close(net(image[row : row + 1])[0], together[row])


def test_levels_widen_what_a_place_sees():
    reach = []
    for levels in (1, 2, 3):
        torch.manual_seed(0)
        net = UNet(1, 1, width=4, levels=levels).double()
        for module in net.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.forward = lambda x: x  # normalising looks at the whole picture
        image = torch.zeros(1, 1, 65, 65, dtype=torch.float64, requires_grad=True)
        (grad,) = torch.autograd.grad(net(image)[0, 0, 32, 32], image)
        reach.append(int((grad[0, 0].abs().sum(0) > 0).sum()))
    assert reach[0] == 5 and reach[0] < reach[1] < reach[2]


def test_zero_starts_at_nothing_and_learns():
    net = UNet(3, 3, width=4, zero=True)
    out = net(torch.rand(2, 3, 8, 8))
    assert out.abs().max() == 0
    (out - 1).square().sum().backward()
    assert net.last.weight.grad.any(), "the last layer's weights are zero, their gradient is not"


def test_every_level_passes_its_picture_on():
    """Without the connections past the middle a picture cannot be copied to the pixel."""
    torch.manual_seed(0)
    net = UNet(1, 1, width=4, levels=3)
    for number, part in enumerate(net.up):
        first = part[0].weight
        assert first.shape[1] == 4 * 2 ** (number + 1) + 4 * 2**number, "the one from below and the one past"
    image = torch.rand(1, 1, 16, 16, requires_grad=True)
    net(image).sum().backward()
    assert image.grad.abs().min() > 0
